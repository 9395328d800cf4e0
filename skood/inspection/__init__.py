"""Plots in the style of scikit-learn's displays; requires matplotlib."""

from skood.inspection._boundary_samples import BoundarySamplesDisplay
from skood.inspection._dual_threshold import DualThresholdDisplay
from skood.inspection._latent_space import LatentSpaceDisplay

__all__ = ["BoundarySamplesDisplay", "DualThresholdDisplay", "LatentSpaceDisplay"]
