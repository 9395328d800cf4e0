"""
===========================
Tuning without any outliers
===========================

How to tune a detector without outliers. There are two substitutes: hold whole classes out as
outliers (``LeaveClassesOut``), or generate outliers from the data (``synthetic_outliers``).

Here both choose the number of principal components before a
:class:`~skood.posthoc.Mahalanobis` distance, on scikit-learn's digits 0 to 7. The choices are
compared with the best number against the real outliers, the digits 8 and 9.
"""

# %%
# Held-out classes
# ----------------
# In each of four splits, two of the eight classes are outliers, and excluded from every fit.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from skood import (
    InlierFit,
    LeaveClassesOut,
    Mahalanobis,
    OODSplit,
    get_ood_scorer,
    synthetic_outliers,
)
from skood.metrics import auroc

X, digit = load_digits(return_X_y=True)
known = digit <= 7
X_train, X_test, y_train, _ = train_test_split(X[known], digit[known], random_state=0)
pipeline = make_pipeline(PCA(random_state=0), Mahalanobis())
candidates = [1, 2, 5, 10, 20, 30, 40, 50]
grid = {"estimator__pca__n_components": candidates}
by_classes = GridSearchCV(
    InlierFit(pipeline),
    grid,
    scoring=get_ood_scorer("auroc"),
    cv=LeaveClassesOut(n_out=2, n_splits=4, random_state=0),
).fit(X_train, y_train)

# %%
# Synthetic outliers
# ------------------
made = synthetic_outliers(X_train, n_samples=400, random_state=0)
by_synthetic = GridSearchCV(
    InlierFit(pipeline), grid, scoring=get_ood_scorer("auroc"), cv=OODSplit(4)
).fit(np.concatenate([X_train, made]), np.append(y_train, np.full(len(made), -1)))

# %%
# Real outliers
# -------------
# This curve is for comparison; no parameter was chosen with it.
truth = np.repeat([1, -1], [len(X_test), (~known).sum()])
both = np.concatenate([X_test, X[~known]])
real = []
for n in candidates:
    fitted = pipeline.set_params(pca__n_components=n).fit(X_train, y_train)
    real.append(auroc(truth, fitted.score_samples(both)))

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
curves = {
    "held-out classes": by_classes.cv_results_["mean_test_score"],
    "synthetic outliers": by_synthetic.cv_results_["mean_test_score"],
    "real outliers": real,
}
for (name, areas), style in zip(curves.items(), ("o-", "s--", "^:"), strict=True):
    ax.plot(candidates, areas, style, label=name)
    best = candidates[int(np.argmax(areas))]
    print(f"{name:>18}: best with {best} components, AUROC {max(areas):.3f}")
ax.set(xlabel="principal components", ylabel="AUROC", title="Mahalanobis on the digits 0 to 7")
ax.legend()
plt.show()

# %%
# The levels differ, since some outliers are harder than others, but the order is similar: here both
# substitutes choose the same number of components as the real outliers.
