"""
Samples around the data, and a classifier that rejects them
===========================================================

Why a classifier is confident far from its data, and how generated samples change this. A softmax
classifier divides the whole space among its classes, also far from the data.
:class:`~skood.training_time.OODGen` trains a classifier with a reject class, on samples that a
variational autoencoder generates around the data: off their manifold, and on the manifold beyond
the data. This example plots both in two dimensions.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import Isomap
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skood import MLP, MSP, VAE, OODGen
from skood.metrics import auroc, fpr_at_tpr

# %%
# Digits in the plane
# -------------------
# Isomap maps the digits 0, 4 and 7 to two dimensions, which stand for the features of a network.
# The other digits, mapped in the same way, are out-of-distribution; nothing is trained on them.

digits = load_digits()
known = np.isin(digits.target, [0, 4, 7])
isomap = make_pipeline(Isomap(n_neighbors=10), StandardScaler()).fit(digits.data[known])
Z = isomap.transform(digits.data)
Z_train, Z_test, y_train, y_test = train_test_split(
    Z[known], digits.target[known], test_size=0.3, stratify=digits.target[known], random_state=0
)

# %%
# Generated samples
# -----------------
# A VAE with one latent models each class as a curve. Samples of type 1 lie at a right angle to the
# curve, at 0.3 to 3 standard deviations; samples of type 2 lie on the curve, beyond the segment
# that contains 95 % of the class. The classifier learns to reject both.

network = MLP((64, 64), max_epochs=200, learning_rate=0.02, random_state=0)
detector = OODGen(
    network,
    VAE(n_latent=1, conditional=True, max_epochs=300, patience=None, learning_rate=3e-3),
    reject_weight=0.5,
    distance=(0.3, 3.0),
    random_state=0,
).fit(Z_train, y_train)
softmax = MSP(FrozenEstimator(network.fit(Z_train, y_train))).fit(Z_train)

sampler = detector.sampler_
off_manifold = sampler.sample_off_manifold(Z_train, y_train, random_state=0)
on_manifold = sampler.sample_on_manifold(y=y_train, random_state=0)

# %%
# Scores in the plane
# -------------------
# The softmax is confident in all directions, and more so far from the data; with generated samples
# the accepted region is bounded.

grid = np.stack(np.meshgrid(np.linspace(-5, 5, 200), np.linspace(-5, 5, 200)), -1)
figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained", sharex=True, sharey=True)
colours = ListedColormap([f"C{i}" for i in range(3)])
axes[0].scatter(*off_manifold.T, s=6, color="0.6", marker="x", label="off the manifold (type 1)")
axes[0].scatter(
    *on_manifold.T,
    s=12,
    color="black",
    marker="+",
    zorder=3,
    label="on it, beyond the data (type 2)",
)
axes[0].set_title("generated samples")
axes[0].legend(loc="lower left", fontsize=8)
for axis, title, model in [
    (axes[1], "softmax: largest probability", softmax),
    (axes[2], "OODGen: 1 - probability of rejection", detector),
]:
    scores = model.score_samples(grid.reshape(-1, 2)).reshape(200, 200)
    drawn = axis.contourf(*grid.transpose(2, 0, 1), scores, np.linspace(0, 1, 11), cmap="Greys_r")
    axis.contour(*grid.transpose(2, 0, 1), scores, [model.offset_], colors="C4")
    axis.set_title(title)
figure.colorbar(drawn, ax=axes[1:], label="score (line: threshold)")
for axis in axes:
    axis.scatter(*Z_train.T, c=y_train, s=6, cmap=colours)
    axis.set(xlim=(-5, 5), ylim=(-5, 5), aspect="equal")
plt.show()

# %%
# Results
# -------
# Some of the other digits overlap with the known digits in this plane, where no score can separate
# them; most uniform points are far from the known digits. The thresholds are to accept 95 % of the
# known digits.

outliers = {
    "other digits": Z[~known],
    "uniform": np.random.default_rng(0).uniform(-5, 5, size=(1000, 2)),
}
for name, Y in outliers.items():
    for label, model in [("softmax", softmax), ("OODGen", detector)]:
        y_true = np.repeat([1, -1], [len(Z_test), len(Y)])
        scores = model.score_samples(np.concatenate([Z_test, Y]))
        accepted = np.mean(model.predict(Z_test) == 1)
        area, fpr95 = auroc(y_true, scores), 100 * fpr_at_tpr(y_true, scores)
        print(
            f"{name:14}{label:9} AUROC {area:.3f}, FPR95 {fpr95:4.1f} %, "
            f"{100 * accepted:.1f} % of the digits 0, 4 and 7 accepted"
        )
most_probable = detector.predict_proba(Z_test).argmax(1)
accuracy = np.mean(detector.classes_[most_probable] == y_test)
print(
    f"accuracy: softmax {100 * network.score(Z_test, y_test):.1f} %, OODGen {100 * accuracy:.1f} %"
)
