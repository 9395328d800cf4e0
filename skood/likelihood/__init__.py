"""Detectors on a density: the log-likelihood, and what corrects or replaces it."""

from skood.likelihood._approximate_mass import ApproximateMass
from skood.likelihood._density_of_states import DensityOfStates
from skood.likelihood._latent_norm import LatentNorm
from skood.likelihood._likelihood_ratio import LikelihoodRatio
from skood.likelihood._local_intrinsic_dimension import LocalIntrinsicDimension
from skood.likelihood._log_likelihood import LogLikelihood

__all__ = [
    "ApproximateMass",
    "DensityOfStates",
    "LatentNorm",
    "LikelihoodRatio",
    "LocalIntrinsicDimension",
    "LogLikelihood",
]
