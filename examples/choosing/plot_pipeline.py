"""
===================================
A detector at the end of a pipeline
===================================

Detectors are estimators, and can follow any transformer of scikit-learn in a pipeline: here a
selection of pixels, standardisation and principal components precede the Mahalanobis distance. A
search chooses the number of components, with outliers that are excluded from every fit.

The data are scikit-learn's handwritten digits: 0 to 6 are in-distribution, 7 is the outlier class
for the search, 8 and 9 are the outlier classes for the report.
"""

# %%
# Data
# ----
# In ``y``, -1 marks a known outlier.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.feature_selection import VarianceThreshold
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skood import InlierFit, Mahalanobis, OODSplit, get_ood_scorer
from skood.inspection import ScoreDistributionDisplay
from skood.metrics import auroc

X, digit = load_digits(return_X_y=True)
seen = digit <= 6
X_train, X_test, y_train, _ = train_test_split(X[seen], digit[seen], random_state=0)
X_search = np.concatenate([X_train, X[digit == 7]])
y_search = np.append(y_train, np.full((digit == 7).sum(), -1))

# %%
# A search over the pipeline
# --------------------------
# ``OODSplit`` puts the outliers only into the test parts. ``InlierFit`` excludes them from the final
# fit of the best pipeline to all data; otherwise the scaler and the principal components would be
# fitted to them, too.
pipeline = make_pipeline(VarianceThreshold(), StandardScaler(), PCA(), Mahalanobis())
search = GridSearchCV(
    InlierFit(pipeline),
    {"estimator__pca__n_components": [2, 5, 10, 20, 40]},
    scoring=get_ood_scorer("auroc"),
    cv=OODSplit(5),
).fit(X_search, y_search)
for n, area in zip(
    search.cv_results_["param_estimator__pca__n_components"],
    search.cv_results_["mean_test_score"],
    strict=True,
):
    print(f"{n:>3} components: AUROC {area:.3f} against the digit 7")

# %%
# The best pipeline on unused digits
# ----------------------------------
sets = {"0 to 6, new": X_test, "8": X[digit == 8], "9": X[digit == 9]}
display = ScoreDistributionDisplay.from_predictions(
    {name: search.best_estimator_.score_samples(rows) for name, rows in sets.items()},
    search.best_estimator_.offset_,
    score_name="score of the pipeline",
)
for name in ("8", "9"):
    truth = np.repeat([1, -1], [len(X_test), len(sets[name])])
    area = auroc(truth, np.append(display.scores["0 to 6, new"], display.scores[name]))
    print(f"digit {name}: AUROC {area:.3f}")
plt.show()

# %%
# With few components, an 8 cannot be separated from the digits it resembles. New digits differ in the
# last components, although these explain hardly any variance: for detection, keep more components
# than for classification.
