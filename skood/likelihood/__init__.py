"""Detectors on a density: the log-likelihood, and the likelihood ratio that corrects it."""

from skood.likelihood._cclr import CCLR
from skood.likelihood._diffusion_reconstruction import DiffusionReconstruction
from skood.likelihood._input_complexity import InputComplexity
from skood.likelihood._likelihood_ratio import LikelihoodRatio
from skood.likelihood._local_intrinsic_dimension import LocalIntrinsicDimension
from skood.likelihood._log_likelihood import LogLikelihood
from skood.likelihood._score_norm import ScoreNorm
from skood.likelihood._typicality import Typicality
from skood.likelihood._waic import WAIC

__all__ = [
    "CCLR",
    "WAIC",
    "DiffusionReconstruction",
    "InputComplexity",
    "LikelihoodRatio",
    "LocalIntrinsicDimension",
    "LogLikelihood",
    "ScoreNorm",
    "Typicality",
]
