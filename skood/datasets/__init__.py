"""Data to try detectors on; nothing else in the package imports this."""

from skood.datasets._noise import gaussian_noise, sphere_noise, uniform_noise
from skood.datasets._synthetic import synthetic_outliers

__all__ = ["gaussian_noise", "sphere_noise", "synthetic_outliers", "uniform_noise"]
