"""
==========================
A latent space with margin
==========================

:class:`~skood.training_time.VMDLS` (Dinari and Freifeld 2022) trains a network without a softmax: items of one
class are drawn together, items of different classes are pushed apart by a margin that grows with
every epoch. What lies between the classes, or far from all of them, is then out-of-distribution.
:class:`~skood.inspection.LatentSpaceDisplay` draws where items come to lie.

A small network learns scikit-learn's handwritten digits 0 to 7. Two sets are out-of-distribution:

- the digits 8 and 9, never seen in training: near, since they are digits as well;
- noise, pixels drawn independently: far.

Everything is at hand without a download, and the script takes about half a minute on one core.
"""

# %%
# Before and after
# ----------------
# The same network after a single step of training, and after 40 epochs.
import matplotlib.pyplot as plt
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skood import MSP, VMDLS, ConvNet, evaluate
from skood.datasets import uniform_noise
from skood.inspection import LatentSpaceDisplay

digits = load_digits()
known = digits.target <= 7
X_train, X_test, y_train, y_test = train_test_split(
    digits.images[known], digits.target[known], test_size=0.4, random_state=0
)
X_ood = {
    "8 and 9": digits.images[~known],
    "noise": uniform_noise(200, (8, 8), value_range=(0, 16), random_state=0),
}

backbone = ConvNet(
    (16, 32),
    max_epochs=40,
    optimizer="adam",
    learning_rate=3e-3,
    validation_fraction=0.2,
    value_range=(0, 16),
)
vmdls = VMDLS(backbone, n_latent=16, margin=16.0, random_state=0)
detectors = {
    "after one step": clone(vmdls).set_params(backbone__max_steps=1).fit(X_train, y_train),
    "after 40 epochs": vmdls.fit(X_train, y_train),
}

# %%
# The latent space in a plane
# ---------------------------
# `transform` gives the 16 latents of an item. Principal components are those directions in which
# the in-distribution points vary most; the axes say how much of the variance they show.
figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
for axis, (title, detector) in zip(axes, detectors.items(), strict=True):
    LatentSpaceDisplay.from_estimator(
        detector, X_test, y_test, X_ood=X_ood, ax=axis, title=title, legend=axis is axes[1]
    )

# %%
# Neighbours
# ----------
# Eight classes that are equally far from each other do not fit into two directions. t-SNE keeps
# neighbours together instead. It embeds all points at once, so that the out-of-distribution points
# have a part in where the others lie, and distances between its islands mean nothing.
figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
for axis, (title, detector) in zip(axes, detectors.items(), strict=True):
    LatentSpaceDisplay.from_estimator(
        detector,
        X_test,
        y_test,
        X_ood=X_ood,
        method="tsne",
        random_state=0,
        ax=axis,
        title=title,
        legend=axis is axes[1],
    )

# %%
# The same in numbers
# -------------------
# The score is the likelihood of the latents and of the features of every layer, under a Gaussian of
# each class. Beside it, the same backbone as a classifier that is trained as usual, by its largest
# probability.
softmax = MSP(clone(backbone), random_state=0).fit(X_train, y_train)
detectors = {f"VMDLS {title}": detector for title, detector in detectors.items()}
print(evaluate(detectors | {"softmax": softmax}, X_test, X_ood, y_test, metrics=["auroc", "fpr95"]))

# %%
# On images this small, Gaussians of the features of a network that has hardly learned anything do
# well already: the table alone does not show that training worked, the pictures do. And a softmax
# of the same backbone is as good on these sets, with a threshold that rejects three times as many
# digits as it was asked to, since it was read from rows that the network was trained on.
#
# `predict_class` gives a label, or -1 for what is below the threshold.
for name, images in {"0 to 7": X_test, **X_ood}.items():
    rejected = (vmdls.predict_class(images) == -1).mean()
    print(f"{name:>8}: {rejected:.1%} rejected")
plt.show()
