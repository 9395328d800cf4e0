"""Detectors that train their own network, and the parts that they are made of."""

from skood.training_time._boundary import BoundarySampler
from skood.training_time._class_gaussians import ClassGaussians
from skood.training_time._energy_regularized import EnergyRegularized
from skood.training_time._logit_norm import LogitNorm
from skood.training_time._metric_learning import (
    class_balanced_batches,
    class_divergence,
    triplet_margin_loss,
)
from skood.training_time._oodgen import OODGen
from skood.training_time._outlier_exposure import OutlierExposure
from skood.training_time._sad import DeepSAD
from skood.training_time._svdd import DeepSVDD
from skood.training_time._vmdls import VMDLS
from skood.training_time._vos import VOS

__all__ = [
    "VMDLS",
    "VOS",
    "BoundarySampler",
    "ClassGaussians",
    "DeepSAD",
    "DeepSVDD",
    "EnergyRegularized",
    "LogitNorm",
    "OODGen",
    "OutlierExposure",
    "class_balanced_batches",
    "class_divergence",
    "triplet_margin_loss",
]
