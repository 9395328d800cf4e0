"""
==============================
What training does to features
==============================

A detector on features can only tell apart what the network has put in different places.
:class:`~skood.inspection.LatentSpaceDisplay` shows where that is: it draws what a model's
`transform` makes of the data, in two dimensions.

Here a small :class:`~skood.ConvNet` learns scikit-learn's handwritten digits 0 to 7. Two sets are
out-of-distribution:

- the digits 8 and 9, never seen in training: near, since they are digits as well;
- noise, pixels drawn independently: far.

Everything is at hand without a download, and the script takes about a quarter of a minute on one
core.
"""

# %%
# Before and after
# ----------------
# The same network after a single step of training, and after 30 epochs. Only test digits are drawn.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from skood import KNN, ConvNet
from skood.datasets import uniform_noise
from skood.inspection import LatentSpaceDisplay
from skood.metrics import auroc

digits = load_digits()
known = digits.target <= 7
X_train, X_test, y_train, y_test = train_test_split(
    digits.images[known], digits.target[known], test_size=0.4, random_state=0
)
X_ood = {
    "8 and 9": digits.images[~known],
    "noise": uniform_noise(200, (8, 8), value_range=(0, 16), random_state=0),
}

settings = {"n_filters": (16, 32), "value_range": (0, 16), "random_state": 0}
networks = {
    "after one step": ConvNet(**settings, max_steps=1).fit(X_train, y_train),
    "after 30 epochs": ConvNet(**settings, max_epochs=30).fit(X_train, y_train),
}

# %%
# Features in a plane
# -------------------
# The penultimate features have 32 dimensions. Principal components are those directions in which
# the in-distribution points vary most; the axes say how much of the variance they show.
results = Path("results")
results.mkdir(exist_ok=True)
figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
for axis, (title, network) in zip(axes, networks.items(), strict=True):
    LatentSpaceDisplay.from_estimator(
        network, X_test, y_test, X_ood=X_ood, ax=axis, title=title, legend=axis is axes[1]
    )
figure.savefig(results / "latent_space_pca.png", dpi=110)

# %%
# Neighbours
# ----------
# Eight classes do not fit into two directions: some that overlap in this plane are apart in others.
# t-SNE keeps neighbours together instead. It embeds all points at once, so that the
# out-of-distribution points have a part in where the others lie, and distances between its islands
# mean nothing.
figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
for axis, (title, network) in zip(axes, networks.items(), strict=True):
    LatentSpaceDisplay.from_estimator(
        network,
        X_test,
        y_test,
        X_ood=X_ood,
        method="tsne",
        random_state=0,
        ax=axis,
        title=title,
        legend=axis is axes[1],
    )
figure.savefig(results / "latent_space_tsne.png", dpi=110)

# %%
# The same in numbers
# -------------------
# The distance to the nearest training features, in all 32 dimensions, as a score.
print(f"{'':18}accuracy" + "".join(f"{name:>12}" for name in X_ood) + "  (AUROC)")
for title, network in networks.items():
    detector = KNN(FrozenEstimator(network), n_neighbors=10, random_state=0).fit(X_train)
    inside = detector.score_samples(X_test)
    areas = []
    for images in X_ood.values():
        outside = detector.score_samples(images)
        y_true = np.repeat([1, -1], [len(inside), len(outside)])
        areas.append(auroc(y_true, np.concatenate([inside, outside])))
    accuracy = network.score(X_test, y_test)
    print(f"{title:18}{accuracy:8.3f}" + "".join(f"{area:12.3f}" for area in areas))

# %%
# Training gathers every class and leaves most of the unseen digits between them, where their
# distance gives them away. Noise was apart from all digits before the network had learned anything;
# training on digits alone does not keep it there, and some of it has come to lie among them.
plt.show()
