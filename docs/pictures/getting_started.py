"""The scores of the page "Getting started": digits, and noise."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skood import KNN, MLP
from skood.inspection import ScoreDistributionDisplay

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, _ = train_test_split(X, y, random_state=0)
detector = KNN(MLP(random_state=0)).fit(X_train, y_train)
noise = np.random.default_rng(0).uniform(0, 16, size=X_test.shape)
ScoreDistributionDisplay.from_estimator(detector, {"digits": X_test, "noise": noise})
