"""
===========================
Which detector for my data?
===========================

How to choose a detector before you have seen any outlier. :func:`~skood.recommend` fits the
detectors that suit a model and data, compares them, and returns one of them calibrated. Without
real outliers it compares the detectors on substitutes: classes that are left out of training, and
synthetic outliers.

Here the data are scikit-learn's digits 0 to 7. The digits 8 and 9 are the real outliers, which show
how far the substitutes can be trusted.
"""

# %%
# Without outliers
# ----------------
# The network is not trained yet, so each class can be left out of its training.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skood import MLP, recommend

X, y = load_digits(return_X_y=True)
X = X.astype(np.float32) / 16
known = y <= 7
network = MLP(max_epochs=20, random_state=0)
found = recommend(network, X[known], y[known], random_state=0)
print(found)

# %%
# The chosen detector is fitted, and calibrated on rows that nothing else has used: 5 % of
# in-distribution rows have a p-value of at most 0.05.
print(
    f"{found.choice_}: p-values of three eights", found.detector_.p_values(X[y == 8][:3]).round(3)
)

# %%
# With outliers
# -------------
# A half of the real outliers ranks the detectors, and the first one is chosen. The other half
# measures it: the best of many detectors looks better on the rows that it was chosen on than on new
# rows.
real = recommend(network, X[known], y[known], outliers=X[~known], random_state=0)
first = next(row for row in real.rows if row["chosen"])
print(f"{real.choice_}: {real.reason_}")
print(f"on the outliers that chose it: AUROC {first['auroc']:.3f}")
print(
    "on the other outliers: AUROC {auroc:.3f} [{low:.3f}, {high:.3f}]".format(
        **real.outliers_auroc_
    )
)

# %%
# How good are the substitutes?
# -----------------------------
# Each point is a detector, with its bootstrap intervals. The intervals describe the rows of a
# comparison, and not how much its outliers resemble the real ones.
truth = {row["detector"]: row for row in real.rows if row["excluded"] is None}
rows = [row for row in found.rows if row["detector"] in truth]
areas = sorted((row["auroc"] for row in truth.values()), reverse=True)
chosen = truth[found.choice_]["auroc"]
print(
    f"on the digits 8 and 9, {found.choice_} has AUROC {chosen:.3f}; "
    f"the best of {len(areas)} detectors has {areas[0]:.3f}, the median {np.median(areas):.3f}"
)
figure, axes = plt.subplots(1, 2, figsize=(9, 4.5), sharey=True, layout="constrained")
titles = {"classes": "left-out classes", "synthetic": "synthetic outliers"}
for axis, (criterion, title) in zip(axes, titles.items(), strict=True):
    measured = np.array([row[criterion] for row in rows])
    actual = np.array([truth[row["detector"]]["auroc"] for row in rows])
    errors = [
        np.transpose([[r[name] - r[f"{name}_low"], r[f"{name}_high"] - r[name]] for r in table])
        for table, name in (
            (rows, criterion),
            ([truth[row["detector"]] for row in rows], "auroc"),
        )
    ]
    axis.errorbar(measured, actual, errors[1], errors[0], fmt="o", alpha=0.5)
    for x, height, row in zip(measured, actual, rows, strict=True):
        if row["detector"] in ("KNN", "MSP", "Mahalanobis", rows[0]["detector"]):
            axis.annotate(row["detector"], (x, height), xytext=(4, 4), textcoords="offset points")
    ranks = [np.argsort(np.argsort(values)) for values in (measured, actual)]
    print(f"{title}: rank correlation {np.corrcoef(*ranks)[0, 1]:.2f}")
    axis.set(xlabel=f"AUROC, {title}", title=title)
axes[0].set(ylabel="AUROC, digits 8 and 9")
plt.show()

# %%
# The rank correlations are weak. The chosen detector is better than most, but not the best, and
# some detectors that look bad on the substitutes are good on the digits 8 and 9. Compare again on
# real outliers as soon as you have some.
