"""Detectors that train their own network, and the generated samples that one is trained on."""

from skood.training_time._boundary import BoundarySampler
from skood.training_time._oodgen import OODGen
from skood.training_time._sad import DeepSAD
from skood.training_time._svdd import DeepSVDD

__all__ = ["BoundarySampler", "DeepSAD", "DeepSVDD", "OODGen"]
