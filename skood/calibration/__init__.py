"""Thresholds with a guarantee: conformal p-values, their combination, and tuned thresholds."""

from skood.calibration._conformal import ConformalDetector
from skood.calibration._ensemble import EnsembleDetector
from skood.calibration._tuned import TunedThreshold

__all__ = ["ConformalDetector", "EnsembleDetector", "TunedThreshold"]
