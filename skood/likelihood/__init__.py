"""Detectors on a density: the log-likelihood, and the likelihood ratio that corrects it."""

from skood.likelihood._likelihood_ratio import LikelihoodRatio
from skood.likelihood._local_intrinsic_dimension import LocalIntrinsicDimension
from skood.likelihood._log_likelihood import LogLikelihood

__all__ = ["LikelihoodRatio", "LocalIntrinsicDimension", "LogLikelihood"]
