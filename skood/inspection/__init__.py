"""Attributions of scores, and plots in scikit-learn's style, which need matplotlib."""

from skood.inspection._attribute import attribute
from skood.inspection._boundary_samples import BoundarySamplesDisplay
from skood.inspection._contributions_display import ContributionsDisplay
from skood.inspection._curves import PrecisionRecallCurvesDisplay, RocCurvesDisplay
from skood.inspection._dimension_curve import DimensionCurveDisplay
from skood.inspection._dual_threshold import DualThresholdDisplay
from skood.inspection._evaluation import EvaluationDisplay
from skood.inspection._latent_space import LatentSpaceDisplay
from skood.inspection._neighbors_display import NeighborsDisplay
from skood.inspection._open_set_curves import CCRCurvesDisplay, OpenSetF1CurvesDisplay
from skood.inspection._pixel_maps import PixelMapsDisplay
from skood.inspection._score_distribution import ScoreDistributionDisplay
from skood.inspection._training_curves import TrainingCurvesDisplay

__all__ = [
    "BoundarySamplesDisplay",
    "CCRCurvesDisplay",
    "ContributionsDisplay",
    "DimensionCurveDisplay",
    "DualThresholdDisplay",
    "EvaluationDisplay",
    "LatentSpaceDisplay",
    "NeighborsDisplay",
    "OpenSetF1CurvesDisplay",
    "PixelMapsDisplay",
    "PrecisionRecallCurvesDisplay",
    "RocCurvesDisplay",
    "ScoreDistributionDisplay",
    "TrainingCurvesDisplay",
    "attribute",
]
