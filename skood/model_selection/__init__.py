"""Search and validation of detectors with scikit-learn's tools.

Labels are class labels >= 0, or strings, and -1 marks out-of-distribution rows. A search over any
detector, Pipeline or not, is then::

    GridSearchCV(InlierFit(pipeline), grid, cv=OODSplit(), scoring=get_ood_scorer("auroc"))
"""

from skood.model_selection._inlier_fit import InlierFit
from skood.model_selection._scorer import get_ood_scorer, get_ood_scorer_names
from skood.model_selection._split import LeaveClassesOut, OODSplit

__all__ = ["InlierFit", "LeaveClassesOut", "OODSplit", "get_ood_scorer", "get_ood_scorer_names"]
