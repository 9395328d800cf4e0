"""Detectors that train their own classifier, and the generated samples it is trained on."""

from skood.training_time._boundary import BoundarySampler
from skood.training_time._energy_regularized import EnergyRegularized
from skood.training_time._logit_norm import LogitNorm
from skood.training_time._oodgen import OODGen
from skood.training_time._outlier_exposure import OutlierExposure
from skood.training_time._vos import VOS

__all__ = ["VOS", "BoundarySampler", "EnergyRegularized", "LogitNorm", "OODGen", "OutlierExposure"]
