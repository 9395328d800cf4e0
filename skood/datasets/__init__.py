"""Data to try detectors on; nothing else in the package imports this."""

from skood.datasets._synthetic import synthetic_outliers

__all__ = ["synthetic_outliers"]
