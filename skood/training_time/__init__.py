"""Detectors that train their own classifier, and the generated samples it is trained on."""

from skood.training_time._boundary import BoundarySampler
from skood.training_time._oodgen import OODGen

__all__ = ["BoundarySampler", "OODGen"]
