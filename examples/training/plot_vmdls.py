"""
============================
A latent space with a margin
============================

How a loss can shape features for detection. :class:`~skood.training_time.VMDLS` (Dinari and
Freifeld 2022) trains a network without a softmax. The loss draws items of one class together and
separates items of different classes by a margin that grows with every epoch. Items between the
classes, or far from all classes, are out-of-distribution.
:class:`~skood.inspection.LatentSpaceDisplay` plots the latents of items.

A small network learns scikit-learn's handwritten digits 0 to 7. Two sets are out-of-distribution:

- the digits 8 and 9, excluded from training: near, since they are digits as well;
- noise, pixels drawn independently: far.
"""

# %%
# Before and after
# ----------------
# The same network is trained for a single step, and for 40 epochs.
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
    "digits 8 and 9": digits.images[~known],
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
# `transform` returns the 16 latents of an item. The plane has the two principal components of the
# in-distribution points; the axis labels have their fractions of the variance.
figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
for axis, (title, detector) in zip(axes, detectors.items(), strict=True):
    LatentSpaceDisplay.from_estimator(
        detector, X_test, y_test, X_ood=X_ood, ax=axis, title=title, legend=axis is axes[1]
    )

# %%
# Neighbours
# ----------
# Eight equidistant classes do not fit into two dimensions. t-SNE preserves neighbourhoods instead.
# It embeds all points at once, so that the out-of-distribution points influence the positions of
# the other points, and distances between its clusters have no meaning.
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
# AUROC and FPR95
# ---------------
# VMDLS's score is the likelihood of the latents and of the features of every layer, under one
# Gaussian per class. It is compared with the largest softmax probability of the same backbone,
# trained as a classifier.
softmax = MSP(clone(backbone), random_state=0).fit(X_train, y_train)
detectors = {f"VMDLS {title}": detector for title, detector in detectors.items()}
print(evaluate(detectors | {"softmax": softmax}, X_test, X_ood, y_test, metrics=["auroc", "fpr95"]))

# %%
# On images this small, Gaussians of an untrained network's features already detect the outliers:
# the plots show the effect of training, the table hardly. The softmax of the same backbone is
# better on the digits 8 and 9, and a little worse on noise.
#
# `predict_class` returns a label, or -1 for scores below the threshold.
for name, images in {"digits 0 to 7": X_test, **X_ood}.items():
    rejected = (vmdls.predict_class(images) == -1).mean()
    print(f"{name:>14}: {100 * rejected:.1f} % rejected")
plt.show()
