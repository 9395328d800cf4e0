"""Detectors on a density: what log p(x) says, and what repairs it."""

from skood.likelihood._likelihood_ratio import LikelihoodRatio
from skood.likelihood._log_likelihood import LogLikelihood

__all__ = ["LikelihoodRatio", "LogLikelihood"]
