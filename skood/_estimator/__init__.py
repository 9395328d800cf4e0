"""What an estimator is made of: parameters, their checks, texts and deprecations."""
