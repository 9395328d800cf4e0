"""
==================================================
Likely, and in a region that holds hardly anything
==================================================

A density can be larger at images of another kind than at those it was trained on. Yet the model
never draws such images: the region in which its density is so large has next to no volume, since
the density is concentrated around a set of a low dimension there. The *local intrinsic dimension*
(LID) around an image tells such regions from others. An image is in-distribution if its density
*and* its dimension are as large as those of training images (Kamkari et al. 2024).

An :class:`~skood.density.ImageFlow` learns scikit-learn's handwritten digits. Out-of-distribution
are patches of scikit-learn's photograph of a flower at a sixth of their brightness. Most of them
are next to black and hardly vary, so that they are more likely than the digits; others show edges.

Everything is at hand without a download, and the script takes about a minute and a half on one
core.
"""

# %%
# The data
# --------
# Digits are 8 x 8 images with 17 grey levels. The patches are brought to the same levels.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_sample_image
from sklearn.model_selection import train_test_split

from skood import ImageFlow, LocalIntrinsicDimension, LogLikelihood, evaluate
from skood.datasets import model_samples
from skood.inspection import DualThresholdDisplay
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
# The flow maps an image to 64 latents and back, and the derivative of the map back shows in how
# many directions an image moves, by more than a scale, when its latents do: its LID. The scale is
# found on training images, where the mean LID is to be the number of principal components that they
# have. Nothing is tuned on the patches.
flow = ImageFlow((4, 4), 32, n_blocks=1, n_levels=17, value_range=(0, 16), max_steps=600)
detector = LocalIntrinsicDimension(flow, random_state=0).fit(train)
print(f"{detector.density_.bits_per_dim(test).mean():.2f} bits for each pixel of test digits")
print(f"dimension {detector.target_dimension_:.0f}, so that r = {detector.scale_:.2f}")

# %%
# The plane
# ---------
# `score_pairs` gives both measures. The thresholds leave the shaded quadrant, and 5 % of training
# digits outside of it. Patches fill the two other corners: likely but of a low dimension, or of a
# high dimension but unlikely.
sets = {"digits": test, "dark patches": patches}
DualThresholdDisplay.from_estimator(detector, sets)

# %%
# Neither of the two measures knows the patches; the smaller of their ranks among training digits
# does.
inside, outside = detector.score_pairs(test), detector.score_pairs(patches)
truth = np.append(np.ones(len(inside)), np.full(len(outside), -1))
for column, name in enumerate(["log p", "LID"]):
    scores = np.append(inside[:, column], outside[:, column])
    print(f"AUROC of {name:>5}: {auroc(truth, scores):.3f}")
log_p = LogLikelihood(flow, random_state=0).fit(train)
detectors = {"log p": log_p, "log p and LID": detector}
print(evaluate(detectors, test, {"dark patches": patches}, metrics=["auroc", "fpr95"]))

# %%
# What the model draws itself
# ---------------------------
# The same patches beside samples of the flow: the density is larger at most patches than at
# what the model draws, and still it draws none of them.
samples = model_samples(detector, 500, random_state=0)
print(evaluate(detectors, samples, {"dark patches": patches}, metrics=["auroc", "fpr95"]))
plt.show()
