"""
===================================================================
Fashion-MNIST: a classifier that rejects what is not (not executed)
===================================================================

:class:`~skood.training_time.OODGen` (Vernekar et al., 2019) makes its own out-of-distribution
images with a VAE, and trains a classifier to reject them. Here it learns clothes and is shown
digits, beside the same network trained without such images.

This script is shown, and not executed, when the site is built, since it trains a VAE and two
classifiers on 20 000 images. It reads the data from the folder that the environment variable
``SKOOD_DATA`` names, and downloads them into it if they are not there yet.
"""

# %%
# The data
# --------
import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from torchvision.datasets import MNIST, FashionMNIST

from skood import MSP, OODGen, ShallowConvNet, evaluate
from skood.datasets import uniform_noise
from skood.inspection import BoundarySamplesDisplay, RocCurvesDisplay, TrainingCurvesDisplay

folder = os.environ["SKOOD_DATA"]

# sphinx_gallery_thumbnail_path = '../benchmarks/results/oodgen-fashion_mnist-defaults.png'

train = FashionMNIST(folder, train=True, download=True)
X, y = train.data[:20_000].numpy(), train.targets[:20_000].numpy()
test = FashionMNIST(folder, train=False, download=True)
X_test, y_test = test.data.numpy(), test.targets.numpy()
ood_sets = {
    "MNIST": MNIST(folder, train=False, download=True).data.numpy(),
    "noise": uniform_noise(2000, (28, 28), dtype=np.uint8, random_state=0),
}

# %%
# Two classifiers
# ---------------
network = ShallowConvNet(optimizer="adam", learning_rate=1e-3, max_epochs=10, random_state=0)
detector = OODGen(network, reject_weight=0.3, random_state=0).fit(X, y)
softmax = MSP(FrozenEstimator(network.fit(X, y))).fit(X)

# %%
# What it was trained on
# ----------------------
# Moved off the manifold: noise all over an image, or a few pixels that are off. On the manifold,
# far from the middle of a class: what the decoder makes of latents that no image of the class has.
BoundarySamplesDisplay.from_estimator(detector, X, y, random_state=0)
TrainingCurvesDisplay.from_estimator(detector)

# %%
# What is rejected
# ----------------
# The accuracy on the classes stands beside every figure: a network that has not learned them
# detects nothing.
detectors = {"softmax": softmax, "OODGen": detector}
print(evaluate(detectors, X_test, ood_sets, y_test, metrics=["auroc", "fpr95"]))
figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
sets = {"Fashion-MNIST": X_test, **ood_sets}
for axis, (name, each) in zip(axes, detectors.items(), strict=True):
    RocCurvesDisplay.from_estimator(each, sets, ax=axis, title=name)
plt.show()
