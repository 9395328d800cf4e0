"""
==========================================
A classifier of digits with a reject class
==========================================

How to train a classifier that rejects images of other kinds, without a single such image:
:class:`~skood.training_time.OODGen` (Vernekar et al., 2019) generates them with a VAE, and trains
the classifier to reject them.

Here it learns scikit-learn's handwritten digits 0 to 7, and is compared with the largest softmax
probability (:class:`~skood.posthoc.MSP`) of the same network, trained without generated images. The
script ``oodgen.py`` does the same on Fashion-MNIST and other data in full size
(:doc:`/generated/benchmarks`).
"""

# %%
# The data
# --------
# Four sets are out-of-distribution: the digits 8 and 9, which are near to the known digits; and
# patches of a photograph, inverted digits and noise, which are far from them.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_sample_image
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from skood import MSP, ConvNet, OODGen, evaluate
from skood.datasets import uniform_noise
from skood.inspection import BoundarySamplesDisplay, RocCurvesDisplay, TrainingCurvesDisplay

images, labels = load_digits().images / 16, load_digits().target
known = labels <= 7
X_train, X_test, y_train, y_test = train_test_split(
    images[known], labels[known], test_size=0.4, random_state=0
)
photograph = load_sample_image("flower.jpg").mean(axis=2) / 255
rng = np.random.default_rng(0)
corners = rng.integers(0, np.array(photograph.shape) - 8, size=(400, 2))
ood_sets = {
    "digits 8 and 9": images[~known],
    "flower patches": np.stack([photograph[i : i + 8, j : j + 8] for i, j in corners]),
    "inverted digits": 1 - X_test,
    "noise": uniform_noise(300, (8, 8), random_state=0),
}

# %%
# Two classifiers
# ---------------
# ``reject_weight`` is the weight of the generated images in the loss.
network = ConvNet((16, 32), optimizer="adam", learning_rate=3e-3, max_epochs=40, random_state=0)
detector = OODGen(network, reject_weight=0.3, random_state=0).fit(X_train, y_train)
softmax = MSP(FrozenEstimator(network.fit(X_train, y_train))).fit(X_train)

# %%
# The generated images
# --------------------
# Images moved off the manifold have noise everywhere, or a few wrong pixels. Images on the
# manifold, far from the mean of a class, are decoded from latents that no image of the class has.
BoundarySamplesDisplay.from_estimator(detector, X_train, y_train, random_state=0)

# %%
# While it trains, the classifier learns to reject both kinds of generated images.
TrainingCurvesDisplay.from_estimator(detector)

# %%
# AUROC and FPR95
# ---------------
# The accuracy on the classes comes with the figures: a network that has not learned its classes
# detects nothing.
detectors = {"softmax": softmax, "OODGen": detector}
table = evaluate(detectors, X_test, ood_sets, y_test, metrics=["auroc", "fpr95"])
for row in table:
    print(
        f"{row['detector']:8} {row['ood_set']:16} AUROC {row['auroc']:.3f}, "
        f"FPR95 {100 * row['fpr95']:4.1f} %, accuracy {100 * row['id_accuracy']:.1f} %"
    )
figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
sets = {"digits 0 to 7": X_test, **ood_sets}
for axis, (name, each) in zip(axes, detectors.items(), strict=True):
    RocCurvesDisplay.from_estimator(each, sets, ax=axis, title=name)
plt.show()

# %%
# OODGen detects the three far sets without an error. It detects the unseen digits less well than
# the softmax does: generated images surround the data, and an unseen digit lies between the known
# digits. Train with generated images if your outliers are images of other kinds, and compare on
# near outliers before you do.
