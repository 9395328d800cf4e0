"""Thresholds with a guarantee, tuned thresholds, drift, and detectors of other libraries."""

from skood.calibration._conformal import ConformalDetector
from skood.calibration._drift import DriftTest
from skood.calibration._drift_monitor import DriftMonitor
from skood.calibration._ensemble import EnsembleDetector
from skood.calibration._external import ExternalDetector
from skood.calibration._tuned import TunedThreshold

__all__ = [
    "ConformalDetector",
    "DriftMonitor",
    "DriftTest",
    "EnsembleDetector",
    "ExternalDetector",
    "TunedThreshold",
]
