"""
=======================
A table, without labels
=======================

How to detect unusual rows of a table, with the data alone: no network, no labels, no outliers.

scikit-learn's table of breast tumours has 30 measurements of each tumour. Benign tumours are
in-distribution; malignant tumours, which no detector sees in training, are out-of-distribution.
"""

# %%
# Three detectors
# ---------------
# The columns have different units, so a scaler comes first. :class:`~skood.posthoc.Mahalanobis`
# measures the distance to the mean in units of the covariance, :class:`~skood.posthoc.KNN` the
# distance to the nearest training rows, and :class:`~skood.posthoc.GMM` the log-density of a
# mixture of normal distributions.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skood import GMM, KNN, Mahalanobis
from skood.metrics import auroc, fpr_at_tpr

X, is_benign = load_breast_cancer(return_X_y=True)
train, test = train_test_split(X[is_benign == 1], test_size=0.4, random_state=0)
malignant = X[is_benign == 0]

detectors = {
    name: make_pipeline(StandardScaler(), detector).fit(train)
    for name, detector in {
        "Mahalanobis": Mahalanobis(),
        "KNN": KNN(n_neighbors=5),
        "GMM": GMM(reg_covar=1e-3),
    }.items()
}

# %%
# Scores and decisions
# --------------------
# ``score_samples`` is high for in-distribution rows, and ``predict`` is +1 for accepted and -1 for
# rejected rows. The threshold is to accept 95 % of in-distribution rows.
truth = np.repeat([1, -1], [len(test), len(malignant)])
scores = {}
for name, detector in detectors.items():
    scores[name] = detector.score_samples(test), detector.score_samples(malignant)
    both = np.concatenate(scores[name])
    print(
        f"{name:12} AUROC {auroc(truth, both):.3f}, FPR95 {100 * fpr_at_tpr(truth, both):4.1f} %; "
        f"accepts {100 * np.mean(detector.predict(test) == 1):.1f} % of new benign tumours, "
        f"rejects {100 * np.mean(detector.predict(malignant) == -1):.1f} % of malignant tumours"
    )

# %%
# All three find most malignant tumours, although none has seen one. Each point of the figure is a
# tumour in two of the 30 columns; a cross is a tumour that ``Mahalanobis`` rejects.
names = list(load_breast_cancer().feature_names)
columns = names.index("worst area"), names.index("worst concave points")
figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
for number, (kind, rows) in enumerate({"benign": test, "malignant": malignant}.items()):
    accepted = detectors["Mahalanobis"].predict(rows) == 1
    for which, word, marker in ((accepted, "accepted", "o"), (~accepted, "rejected", "x")):
        points = rows[which][:, columns].T
        axis.scatter(*points, s=18, c=f"C{number}", marker=marker, label=f"{kind}, {word}")
axis.set(xlabel="area of the largest nuclei, µm²", ylabel="concave points of their outlines")
axis.set(title="Tumours in two of 30 columns")
axis.legend()
plt.show()
