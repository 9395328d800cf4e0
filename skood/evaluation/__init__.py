"""A table of detectors by OOD sets: intervals, paired tests and published figures."""

from skood._table import Table
from skood.evaluation._evaluate import evaluate
from skood.evaluation._table import Evaluation

__all__ = ["Evaluation", "Table", "evaluate"]
