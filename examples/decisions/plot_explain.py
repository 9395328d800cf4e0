"""
====================
Why was it rejected?
====================

How to find out what is odd about a rejected item. ``explain`` answers in the terms of the detector,
and :func:`~skood.inspection.attribute` explains any detector by what happens when parts of the item
are replaced.
"""

# %%
# A table: which columns?
# -----------------------
# Two cultivars of scikit-learn's wines are in-distribution, the third is not. The contributions of
# the columns to the Mahalanobis distance sum to the score. Negative ones lower it.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_wine
from sklearn.ensemble import IsolationForest

from skood import KNN, Mahalanobis
from skood.inspection import (
    ContributionsDisplay,
    NeighborsDisplay,
    PixelMapsDisplay,
    attribute,
)

wine = load_wine(as_frame=True)
table = wine.data.rename(columns=lambda name: name.replace("_", " "))
known, unknown = table[wine.target < 2], table[wine.target == 2]
cultivars = np.array(["cultivar 1", "cultivar 2"])[wine.target[wine.target < 2]]
detector = Mahalanobis().fit(known, cultivars)
explanation = detector.explain(unknown[:1])
print(explanation)
print(f"rejected: {bool(detector.predict(unknown[:1])[0] == -1)}")
print(
    f"sum of the contributions {explanation.feature_contributions.sum():.6f}, "
    f"score {explanation.scores[0]:.6f}"
)

# %%
# A detector of another library has no ``explain``. Occlusion replaces one column after the other by
# values of training rows, and takes the fall of the score.
forest = IsolationForest(random_state=0).fit(known)
attribution = attribute(forest, unknown[:1], baseline=known[::6])
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for ax, found in zip(axes, (explanation, attribution), strict=True):
    ContributionsDisplay.from_explanation(found, n_bars=6, ax=ax)

# %%
# Images: which training items?
# -----------------------------
# Digits 0 to 7 are in-distribution. The nearest training images of an 8 and a 9 show which digits
# the detector takes them for; the first image is a 3.
digits, labels = load_digits().images, load_digits().target
train, train_labels = digits[20:][labels[20:] <= 7], labels[20:][labels[20:] <= 7]
new = digits[[13, 8, 9]]
neighbors = KNN(n_neighbors=5).fit(train)
found = neighbors.explain(new)
answers = np.where(neighbors.predict(new) == 1, "accepted", "rejected")
for score, answer, indices in zip(found.scores, answers, found.indices, strict=True):
    print(f"score {score:6.2f}, {answer}, nearest digits {train_labels[indices]}")
NeighborsDisplay.from_explanation(found, new, train)

# %%
# Images: which pixels?
# ---------------------
# Occlusion of patches of 2 x 2 pixels by a blur: where the image is replaced at a red place, the
# score rises.
maps = attribute(neighbors, new, patch_size=2)
PixelMapsDisplay.from_explanation(maps, new)

# %%
# Are the named parts the right ones? Removing them should move the score further than removing
# other parts. The columns that lower the score of each unknown wine most get the training mean. The
# table is the mean rise of the score, in standard deviations of the scores of known wines, for the
# named columns and for columns drawn at random.
scale = detector.score_samples(known).std()
contributions = detector.explain(unknown).feature_contributions
rng, X, mean = np.random.default_rng(0), unknown.to_numpy(), known.mean().to_numpy()


def rise(rank, n):
    """Mean rise of the score, in standard deviations, if the first `n` columns are removed."""
    removed = unknown.copy()
    removed[:] = np.where(rank < n, mean, X)
    return (detector.score_samples(removed) - detector.score_samples(unknown)).mean() / scale


named = contributions.argsort(1).argsort(1)
print(f"\n{'removed':>8}{'named':>8}{'random':>8}")
for n in (1, 2, 3, 4):
    orders = [rng.random(X.shape).argsort(1).argsort(1) for _ in range(20)]
    print(f"{n:8}{rise(named, n):8.2f}{np.mean([rise(order, n) for order in orders]):8.2f}")
plt.show()
