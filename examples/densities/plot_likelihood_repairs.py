"""
===========================================
Why likelihoods fail, and what repairs them
===========================================

Which repair of a likelihood works on which images. A density that fits images well may be larger at
images of another kind than at its training images (Nalisnick et al. 2019). This is no fault of the
fit. In many dimensions the mode of a density is not typical: if a coin shows heads with probability
0.6, a hundred heads is the most likely outcome of a hundred throws, and nobody will ever see it.
Most of an image's nats describe its smoothness and not its content, so that a simple image is
likely under any density of images.

This example compares the repairs that need no out-of-distribution data on the same images:
scikit-learn's handwritten digits, and patches of its photograph of a flower at a sixth of their
brightness.
"""

# %%
# The data and a density
# ----------------------
# Digits are 8 x 8 images with 17 grey levels. The patches are rescaled to these levels.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_image
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

import skood
from skood.metrics import auroc

train, test = train_test_split(load_digits().images, test_size=0.3, random_state=0)

photograph = load_sample_image("flower.jpg").mean(axis=2)
rng = np.random.default_rng(0)
corners = zip(rng.integers(0, 420, 500), rng.integers(0, 633, 500), strict=True)
patches = np.stack([photograph[r : r + 8, c : c + 8] for r, c in corners]) / 255 * 16 / 6
patches = patches.round()

levels = {"n_levels": 17, "value_range": (0, 16)}
flow = skood.ImageFlow((4, 4), 32, n_blocks=1, **levels, max_steps=600, random_state=0)
background = clone(flow).set_params(mutation_rate=0.3, max_steps=150)
flow.fit(train)
print(f"test digits: {flow.bits_per_dim(test).mean():.2f} bits per pixel")
print(f"patches: {flow.bits_per_dim(patches).mean():.2f} bits per pixel")

# %%
# The repairs
# -----------
# Each detector uses the same flow, unless it needs another density:
#
# - `Typicality` tests whether log p has a usual value, neither lower nor higher.
# - `DensityOfStates` tests this for all statistics of the density: here log p, the density of the
#   latents and the log-determinant.
# - `ApproximateMass` measures the gradient of the density: a steep density has little mass.
# - `LocalIntrinsicDimension` counts the directions in which the density is wide.
# - `InputComplexity` corrects log p for the length of the image under lossless codecs.
# - `LikelihoodRatio` subtracts the log-density of a model of noisy digits.
# - `LikelihoodRegret` measures how much a VAE's bound improves with the best encoding of the image.
frozen = FrozenEstimator(flow)
vae = skood.VAE(8, **levels, max_steps=800, random_state=0)
detectors = {
    "log p": skood.LogLikelihood(frozen),
    "Typicality": skood.Typicality(frozen, random_state=0),
    "DensityOfStates": skood.DensityOfStates(frozen, estimator="svm", random_state=0),
    "ApproximateMass": skood.ApproximateMass(frozen),
    "LocalIntrinsicDimension": skood.LocalIntrinsicDimension(frozen, random_state=0),
    "InputComplexity": skood.InputComplexity(frozen, **levels),
    "LikelihoodRatio": skood.LikelihoodRatio(frozen, background),
    "LikelihoodRegret": skood.LikelihoodRegret(vae, n_steps=50, random_state=0),
}

# %%
# Scores of digits and patches
# ----------------------------
# All scores are higher for more in-distribution images. The line is the threshold, which is to
# reject 5 % of the digits. Scores far below it are shown at the left edge.
truth = np.append(np.ones(len(test)), np.full(len(patches), -1))
figure, axes = plt.subplots(2, 4, figsize=(14, 6), layout="constrained")
for (name, detector), ax in zip(detectors.items(), axes.flat, strict=True):
    detector.fit(train)
    inside, outside = detector.score_samples(test), detector.score_samples(patches)
    area = auroc(truth, np.append(inside, outside))
    passed = (detector.predict(patches) == 1).mean()
    print(f"{name:>23}: AUROC {area:.3f}; {100 * passed:.0f} % of patches accepted")
    low, high = np.percentile(inside, [0, 100])
    low, high = low - (high - low), max(high, np.percentile(outside, 99))
    bins = np.linspace(low, high, 50)
    for scores, label in ((inside, "test digits"), (outside, "dark patches")):
        ax.hist(scores.clip(low, high), bins, density=True, alpha=0.6, label=label)
    ax.axvline(detector.offset_, color="black", linewidth=1)
    ax.set(title=f"{name}: AUROC {area:.3f}", yticks=[])
axes[0, 0].legend()
figure.suptitle("Scores of digits and of dark patches of a photograph, by densities of digits")

# %%
# On these patches log p is worse than chance. The ratio to a background model does not help here.
# Four repairs detect nearly all
# patches. ``LikelihoodRegret`` orders the images well but its threshold accepts most patches: a
# high AUROC does not imply a good threshold, which :class:`~skood.calibration.ConformalDetector`
# sets.
#
# Choosing a repair
# -----------------
# ============================  ======================================  ===========================
# repair                        needs                                   additional time
# ============================  ======================================  ===========================
# Typicality                    any density; better with batches        none
# DensityOfStates               any density; better with skood's        none
# InputComplexity               images with integer levels              a codec, milliseconds
# ApproximateMass               a flow, or a VAE with a normal p(x|z)   a gradient
# LocalIntrinsicDimension       a flow or a diffusion model             a Jacobian, or ten passes
# LikelihoodRatio               a second density                        a pass of this density
# HierarchicalRatio             a hierarchical VAE                      a second bound
# LikelihoodRegret              a VAE                                   a hundred passes
# DiffusionReconstruction       a diffusion model                       dozens of passes
# ============================  ======================================  ===========================
#
# The repairs fail on different images, and none is best for all: compare them on images like those
# you want to reject, but not on the images of your report.
plt.show()
