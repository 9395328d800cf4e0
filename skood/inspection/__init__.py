"""Plots in the style of scikit-learn's displays; requires matplotlib."""

from skood.inspection._boundary_samples import BoundarySamplesDisplay

__all__ = ["BoundarySamplesDisplay"]
