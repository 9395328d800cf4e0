"""Detectors on a density: the log-likelihood, and corrections or alternatives of it."""

from skood.likelihood._approximate_mass import ApproximateMass
from skood.likelihood._base import DensityDetector
from skood.likelihood._cclr import CCLR
from skood.likelihood._density_of_states import DensityOfStates
from skood.likelihood._diffusion_reconstruction import DiffusionReconstruction
from skood.likelihood._hierarchical_ratio import HierarchicalRatio
from skood.likelihood._input_complexity import InputComplexity
from skood.likelihood._item_distances import FeatureDistance
from skood.likelihood._latent_norm import LatentNorm
from skood.likelihood._likelihood_ratio import LikelihoodRatio
from skood.likelihood._likelihood_regret import LikelihoodRegret
from skood.likelihood._local_intrinsic_dimension import LocalIntrinsicDimension
from skood.likelihood._log_likelihood import LogLikelihood
from skood.likelihood._score_norm import ScoreNorm
from skood.likelihood._typicality import Typicality
from skood.likelihood._waic import WAIC

__all__ = [
    "CCLR",
    "WAIC",
    "ApproximateMass",
    "DensityDetector",
    "DensityOfStates",
    "DiffusionReconstruction",
    "FeatureDistance",
    "HierarchicalRatio",
    "InputComplexity",
    "LatentNorm",
    "LikelihoodRatio",
    "LikelihoodRegret",
    "LocalIntrinsicDimension",
    "LogLikelihood",
    "ScoreNorm",
    "Typicality",
]
