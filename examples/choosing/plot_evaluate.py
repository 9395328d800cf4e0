"""
========================
Which detector is better
========================

How to tell whether one detector is better than another. A table of AUROCs hides how much of it is
chance. Here four detectors are compared on the same digits, with intervals, with paired tests, over
training runs, and on shifted in-distribution data.
"""

# %%
# One table
# ---------
# Digits 0 to 7 are in-distribution. Digits 8 and 9 are near-OOD, noise and inverted digits far-OOD.
# ``confidence=0.95`` adds bootstrap intervals over the test rows.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from skood import KNN, MLP, MSP, Energy, Mahalanobis, evaluate
from skood.inspection import CCRCurvesDisplay, EvaluationDisplay, OpenSetF1CurvesDisplay

X, y = load_digits(return_X_y=True)
known = y < 8
X_train, X_test, y_train, y_test = train_test_split(
    X[known], y[known], test_size=0.4, stratify=y[known], random_state=0
)
network = FrozenEstimator(MLP((64,), max_epochs=20, random_state=0).fit(X_train, y_train))
detectors = {
    "MSP": MSP(network),
    "Energy": Energy(network),
    "KNN": KNN(network),
    "Mahalanobis": Mahalanobis(network),
}
ood_sets = {
    "digit 8": X[y == 8],
    "digit 9": X[y == 9],
    "noise": np.random.default_rng(0).uniform(0, 16, size=(300, 64)),
    "inverted": 16 - X_test,
}
groups = {"near": ["digit 8", "digit 9"], "far": ["noise", "inverted"]}
table = evaluate(
    detectors,
    X_test,
    ood_sets,
    y_test,
    X_train=X_train,
    y_train=y_train,
    metrics=["auroc", "fpr95", "oscr"],
    groups=groups,
    confidence=0.95,
    n_resamples=300,
    random_state=0,
)
print(f"accuracy on new digits 0 to 7: {100 * table[0]['id_accuracy']:.1f} %\n")
print(table.wide("auroc"))

# %%
# Detectors on logits are best on the near sets and useless on the far ones, with an AUROC of about
# 0.5 or far below it: this network is as confident on noise as on digits, or more. Detectors on
# features detect the far sets.

# %%
# Is the best one better?
# -----------------------
# The detectors score the same rows, so that much of the variation cancels in a paired test. The
# best detector of a set is supported only if it differs from every other detector.
print(table.best("auroc"))
print()
print(table.compare("KNN", metric="auroc"))

# %%
# In a notebook and in LaTeX, only supported figures are bold.
print(table.to_latex("auroc"))
table

# %%
# Training runs
# -------------
# The intervals above hold for one network. Other seeds give other networks, and other AUROCs: the
# figures are means over five networks, with their standard deviation.
small = MLP((64,), max_epochs=20)
runs = evaluate(
    {"MSP": MSP(small), "KNN": KNN(small)},
    X_test,
    {name: ood_sets[name] for name in groups["near"]},
    y_test,
    X_train=X_train,
    y_train=y_train,
    metrics=["auroc"],
    seeds=range(5),
)
print(runs)

# %%
# Shifted in-distribution data
# ----------------------------
# Dim digits are still digits 0 to 7. A detector should accept them; with them among the
# in-distribution rows, the AUROC falls.
shifted = evaluate(
    detectors,
    X_test,
    ood_sets,
    y_test,
    X_train=X_train,
    y_train=y_train,
    metrics=["auroc"],
    groups=groups,
    shifted_id={"dim": 0.6 * X_test},
    y_shifted={"dim": y_test},
)
print(f"{'':14}{'near':>8}{'with dim':>10}{'dim accepted':>14}{'accuracy on dim':>17}")
for row in shifted:
    if row["ood_set"] == "near":
        print(
            f"{row['detector']:14}{row['auroc']:8.3f}{row['auroc_full_spectrum']:10.3f}"
            f"{100 * row['dim_accepted']:12.1f} %"
            + (f"{100 * row['dim_accuracy']:15.1f} %" if "dim_accuracy" in row else "")
        )

# %%
# Pictures
# --------
# The heat map shows the whole table. The rate of correct classification by the false-positive rate,
# and the F1 over the classes and the unknown class by threshold, measure a detector that also
# classifies. The vertical line is the threshold that the detector learned.
detector = MSP(network).fit(X_train, y_train)
sets = {"digits 0 to 7": X_test} | {
    name: ood_sets[name] for name in ("digit 8", "digit 9", "noise")
}
EvaluationDisplay.from_table(table, "auroc", title="AUROC")
figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
CCRCurvesDisplay.from_estimator(detector, sets, y_test, ax=axes[0], title="MSP")
OpenSetF1CurvesDisplay.from_estimator(detector, sets, y_test, ax=axes[1], title="MSP")
plt.show()
