"""Detectors that train a classifier of their own, and what they train it on."""

from skood.training_time._boundary import BoundarySampler
from skood.training_time._oodgen import OODGen

__all__ = ["BoundarySampler", "OODGen"]
