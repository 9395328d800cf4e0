"""Thresholds with a guarantee, tuned thresholds, and detectors of other libraries."""

from skood.calibration._conformal import ConformalDetector
from skood.calibration._ensemble import EnsembleDetector
from skood.calibration._external import ExternalDetector
from skood.calibration._tuned import TunedThreshold

__all__ = ["ConformalDetector", "EnsembleDetector", "ExternalDetector", "TunedThreshold"]
