"""Measures of how well scores separate in-distribution from out-of-distribution rows.

Every function takes ``(y_true, y_score)`` in scikit-learn's order: ``y_true`` holds class labels
(>= 0, in-distribution) and -1 (out-of-distribution), ``y_score`` is higher for rows that are more
in-distribution. Only numpy and scikit-learn are needed here.
"""

from skood.metrics._ranking import aupr_in, aupr_out, auroc, detection_error, fpr_at_tpr

__all__ = ["aupr_in", "aupr_out", "auroc", "detection_error", "fpr_at_tpr"]
