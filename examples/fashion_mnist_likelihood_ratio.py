"""
=============================================================
Fashion-MNIST against MNIST: likelihood ratios (not executed)
=============================================================

The experiment of the paper on likelihood ratios (Ren et al., 2019), with the defaults of the
library: a PixelCNN++ of clothes assigns digits a *higher* likelihood than clothes, and the ratio to
a background model corrects this.

The site shows this script without executing it: it takes about ten minutes on two cores, or a
minute on a GPU. It reads the data from the folder in the environment variable ``SKOOD_DATA``, and
downloads them if they are missing.
"""

# %%
# The data
# --------
# The folder has torchvision's layout. 10 000 images are enough to see the effect.
import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from torchvision.datasets import MNIST, FashionMNIST

from skood import LikelihoodRatio, LogLikelihood, evaluate
from skood.inspection import PixelMapsDisplay, ScoreDistributionDisplay

folder = os.environ["SKOOD_DATA"]

# sphinx_gallery_thumbnail_path = '../benchmarks/results/likelihood_ratio-fashion_mnist-mnist-quick.png'

train = FashionMNIST(folder, train=True, download=True).data[:10_000].numpy()
test = FashionMNIST(folder, train=False, download=True).data[:1000].numpy()
digits = MNIST(folder, train=False, download=True).data[:1000].numpy()

# %%
# Two scores of one density
# -------------------------
# The detector keeps its trained density; the log-likelihood needs no further training.
ratio = LikelihoodRatio(random_state=0).fit(train)
log_p = LogLikelihood(FrozenEstimator(ratio.density_)).fit(train)
print(f"{ratio.density_.bits_per_dim(test).mean():.2f} bits per dimension")
detectors = {"log p": log_p, "ratio": ratio}
print(evaluate(detectors, test, {"MNIST": digits}, metrics=["auroc", "fpr95"]))

# %%
# The benchmark ``first_hour.py`` runs this experiment. On two cores it measured an AUROC of 0.069
# for log p and of 0.959 for the ratio, at 3.02 bits per dimension.
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
sets = {"Fashion-MNIST": test, "MNIST": digits}
for axis, (name, detector) in zip(axes, detectors.items(), strict=True):
    ScoreDistributionDisplay.from_estimator(detector, sets, ax=axis, title=name)

# %%
# Where the difference comes from
# -------------------------------
# The empty background of a digit has a high likelihood, pixel by pixel, and cancels in the ratio.
PixelMapsDisplay.from_estimator(ratio, np.concatenate([test[:4], digits[:4]]))
plt.show()
