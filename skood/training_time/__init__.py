"""Detectors that train their own network, and the bases of methods of your own."""

from skood.classifiers._objective import ClassifierObjective, Task
from skood.training_time._base import ClassifierTrainingDetector, TrainingDetector
from skood.training_time._boundary import BoundarySampler
from skood.training_time._energy_regularized import EnergyRegularized
from skood.training_time._logit_norm import LogitNorm
from skood.training_time._oodgen import OODGen
from skood.training_time._outlier_exposure import OutlierExposure
from skood.training_time._outliers import OutlierTrainingDetector
from skood.training_time._reg_mixup import RegMixup
from skood.training_time._sad import DeepSAD
from skood.training_time._svdd import DeepSVDD
from skood.training_time._vmdls import VMDLS
from skood.training_time._vos import VOS

__all__ = [
    "VMDLS",
    "VOS",
    "BoundarySampler",
    "ClassifierObjective",
    "ClassifierTrainingDetector",
    "DeepSAD",
    "DeepSVDD",
    "EnergyRegularized",
    "LogitNorm",
    "OODGen",
    "OutlierExposure",
    "OutlierTrainingDetector",
    "RegMixup",
    "Task",
    "TrainingDetector",
]
