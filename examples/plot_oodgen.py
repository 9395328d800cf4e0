"""
Samples around the data, and a classifier that rejects them
===========================================================

A softmax classifier divides the whole space among its classes, however far from the data.
:class:`~skood.training_time.OODGen` trains one with a reject class, on samples that a variational
autoencoder makes around the data: off their manifold, and on it past where the data end. In two
dimensions both can be seen.
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
# The digits 0, 4 and 7 are brought to two dimensions by Isomap, as a stand-in for the features of a
# network. The other digits, brought to the plane by the same map, are out-of-distribution; nothing
# below is trained on them.

digits = load_digits()
known = np.isin(digits.target, [0, 4, 7])
isomap = make_pipeline(Isomap(n_neighbors=10), StandardScaler()).fit(digits.data[known])
Z = isomap.transform(digits.data)
Z_train, Z_test, y_train, y_test = train_test_split(
    Z[known], digits.target[known], test_size=0.3, stratify=digits.target[known], random_state=0
)

# %%
# What is generated
# -----------------
# A VAE with one latent describes each class as a curve. Type 1 leaves the curve at a right angle,
# by 0.3 to 3 standard deviations; type 2 stays on it and goes beyond the stretch that 95 % of the
# class lie on. The classifier learns to reject both.

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
# Where each model is sure
# ------------------------
# The softmax is sure of itself in all directions, the more so the further from the data; with
# generated samples the region of the data closes.

grid = np.stack(np.meshgrid(np.linspace(-5, 5, 200), np.linspace(-5, 5, 200)), -1)
figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained", sharex=True, sharey=True)
colours = ListedColormap(["tab:blue", "tab:orange", "tab:green"])
axes[0].scatter(*off_manifold.T, s=6, color="0.6", marker="x", label="off the manifold (type 1)")
axes[0].scatter(
    *on_manifold.T,
    s=12,
    color="black",
    marker="+",
    zorder=3,
    label="on it, past its end (type 2)",
)
axes[0].set_title("generated samples")
axes[0].legend(loc="lower left", fontsize=8)
for axis, title, model in [
    (axes[1], "softmax: largest probability", softmax),
    (axes[2], "OODGen: 1 - probability of rejection", detector),
]:
    scores = model.score_samples(grid.reshape(-1, 2)).reshape(200, 200)
    drawn = axis.contourf(*grid.transpose(2, 0, 1), scores, np.linspace(0, 1, 11), cmap="Greys_r")
    axis.contour(*grid.transpose(2, 0, 1), scores, [model.offset_], colors="tab:red")
    axis.set_title(title)
figure.colorbar(drawn, ax=axes[1:], label="score (red: threshold)")
for axis in axes:
    axis.scatter(*Z_train.T, c=y_train, s=6, cmap=colours)
    axis.set(xlim=(-5, 5), ylim=(-5, 5), aspect="equal")
plt.show()

# %%
# Told apart
# ----------
# The other digits fall partly among the known ones in this plane, where no score can tell them
# apart; uniform points over the plane are mostly far from them.

outliers = {
    "other digits": Z[~known],
    "uniform": np.random.default_rng(0).uniform(-5, 5, size=(1000, 2)),
}
print(f"{'':26}  AUROC  FPR95  ID accepted ({1 - detector.contamination:.0%} wanted)")
for name, Y in outliers.items():
    for label, model in [("softmax", softmax), ("OODGen", detector)]:
        y_true = np.repeat([1, -1], [len(Z_test), len(Y)])
        scores = model.score_samples(np.concatenate([Z_test, Y]))
        accepted = np.mean(model.predict(Z_test) == 1)
        print(
            f"{name:14}{label:12}{auroc(y_true, scores):7.3f}{fpr_at_tpr(y_true, scores):7.3f}"
            f"  {accepted:.1%}"
        )
most_probable = detector.predict_proba(Z_test).argmax(1)
accuracy = np.mean(detector.classes_[most_probable] == y_test)
print(f"accuracy: softmax {network.score(Z_test, y_test):.3f}, OODGen {accuracy:.3f}")
