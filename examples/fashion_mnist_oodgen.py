"""
====================================================================
Fashion-MNIST: a classifier that rejects other images (not executed)
====================================================================

:class:`~skood.training_time.OODGen` (Vernekar et al., 2019) generates out-of-distribution images
with a VAE, and trains a classifier to reject them. Here it learns clothes and is tested on digits,
compared with the same network trained without generated images.

The site shows this script without executing it: it trains a VAE and two classifiers on 20 000
images. It reads the data from the folder in the environment variable ``SKOOD_DATA``, and downloads
them if they are missing.
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
# The generated images
# --------------------
# Images moved off the manifold have noise everywhere, or a few wrong pixels. Images on the
# manifold, far from the mean of a class, are decoded from latents that no image of the class has.
BoundarySamplesDisplay.from_estimator(detector, X, y, random_state=0)
TrainingCurvesDisplay.from_estimator(detector)

# %%
# AUROC and FPR95
# ---------------
# The table also has the accuracy on the classes: a network that has not learned its classes detects
# nothing.
detectors = {"softmax": softmax, "OODGen": detector}
print(evaluate(detectors, X_test, ood_sets, y_test, metrics=["auroc", "fpr95"]))
figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
sets = {"Fashion-MNIST": X_test, **ood_sets}
for axis, (name, each) in zip(axes, detectors.items(), strict=True):
    RocCurvesDisplay.from_estimator(each, sets, ax=axis, title=name)
plt.show()
