"""Explanations of scores, which the method ``explain`` of a detector returns."""

from skood.explanation._attribution import Attribution
from skood.explanation._base import Explanation
from skood.explanation._classes import ClassesExplanation
from skood.explanation._distance import DistanceExplanation
from skood.explanation._explain import explain
from skood.explanation._neighbors import NeighborsExplanation
from skood.explanation._pixels import PixelsExplanation
from skood.explanation._positions import PositionsExplanation

__all__ = [
    "Attribution",
    "ClassesExplanation",
    "DistanceExplanation",
    "Explanation",
    "NeighborsExplanation",
    "PixelsExplanation",
    "PositionsExplanation",
    "explain",
]
