"""
================================================
Likely images in regions of low probability mass
================================================

How to recognise images that are likely although the model never draws them. A density can be larger
at images of another kind than at its training images. The model never draws such images if the
region of large density has almost no volume, because the density there is concentrated around a set
of low dimension. The *local intrinsic dimension* (LID) at an image identifies such regions. An
image is in-distribution if both its density and its dimension are as large as for training images
(Kamkari et al. 2024).

An :class:`~skood.density.ImageFlow` learns scikit-learn's handwritten digits. The
out-of-distribution images are patches of scikit-learn's photograph of a flower at a sixth of their
brightness. Most patches are almost black and uniform, and more likely than the digits; others show
edges.
"""

# %%
# The data
# --------
# Digits are 8 x 8 images with 17 grey levels. The patches are rescaled to these levels.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_sample_image
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from skood import ImageFlow, LocalIntrinsicDimension, LogLikelihood, evaluate
from skood.datasets import model_samples
from skood.inspection import DimensionCurveDisplay, DualThresholdDisplay
from skood.metrics import auroc

train, test = train_test_split(load_digits().images, test_size=0.3, random_state=0)

photograph = load_sample_image("flower.jpg").mean(axis=2)
rng = np.random.default_rng(0)
corners = zip(rng.integers(0, 420, 500), rng.integers(0, 633, 500), strict=True)
patches = np.stack([photograph[r : r + 8, c : c + 8] for r, c in corners]) / 255 * 16 / 6
patches = patches.round()

# %%
# A flow and its dimension
# ------------------------
# The flow maps an image to 64 latents, and its inverse maps latents to images. The LID of an image
# is the number of directions in which the derivative of the inverse exceeds a scale. The scale is
# chosen on training images, so that their mean LID equals their number of local principal
# components. Nothing is tuned on the patches.
flow = ImageFlow((4, 4), 32, n_blocks=1, n_levels=17, value_range=(0, 16), max_steps=600)
detector = LocalIntrinsicDimension(flow, random_state=0).fit(train)
print(f"test digits: {detector.density_.bits_per_dim(test).mean():.2f} bits per pixel")
print(f"dimension {detector.target_dimension_:.0f}, so that r = {detector.scale_:.2f}")

# %%
# The scale
# ---------
# At small scales every image has all 64 dimensions, at large scales none. The dashed line is the
# scale of the detector.
sets = {"digits": test, "dark patches": patches}
DimensionCurveDisplay.from_estimator(detector, sets)

# %%
# Log-density and dimension
# -------------------------
# `score_pairs` returns both measures, and a mixture of normal distributions describes the pairs of
# training digits. The score is the smallest of three ranks among training digits: of the
# log-density, of the dimension, and of the density of the pair under the mixture. The shaded region
# is accepted. The threshold is to leave 5 % of the digits outside.
DualThresholdDisplay.from_estimator(detector, sets)

# %%
# Neither measure alone detects the patches, but both together do. ``combine="min"`` is the smaller
# of the ranks of the two measures, a threshold on each of them.
inside, outside = detector.score_pairs(test), detector.score_pairs(patches)
truth = np.append(np.ones(len(inside)), np.full(len(outside), -1))
for column, name in enumerate(["log p", "LID"]):
    scores = np.append(inside[:, column], outside[:, column])
    print(f"{name:>5} alone: AUROC {auroc(truth, scores):.3f}")
log_p = LogLikelihood(flow, random_state=0).fit(train)
frozen = FrozenEstimator(detector.density_)
smaller = LocalIntrinsicDimension(frozen, combine="min", random_state=0).fit(train)
detectors = {"log p": log_p, "two thresholds": smaller, "log p and LID": detector}
print(evaluate(detectors, test, {"dark patches": patches}, metrics=["auroc", "fpr95"]))

# %%
# The model's own samples
# -----------------------
# Patches, compared with samples of the flow: the density is larger at most patches than at the
# samples, and still the model draws no such patch.
samples = model_samples(detector, 500, random_state=0)
print(evaluate(detectors, samples, {"dark patches": patches}, metrics=["auroc", "fpr95"]))
plt.show()
