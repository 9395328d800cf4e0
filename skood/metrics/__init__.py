"""Measures of how well scores separate in-distribution from out-of-distribution rows.

Metrics of a score take ``(y_true, y_score)`` in scikit-learn's order, and metrics of a classifier
with rejection take ``(y_true, y_pred, y_score)``: ``y_true`` holds class labels (>= 0 or strings,
in-distribution) and -1 (out-of-distribution); ``y_score`` is higher for rows that are more
in-distribution. Labels may be whole floats, as in scikit-learn; booleans are rejected, since
neither value is -1 and True could mean either kind of row. The module needs only numpy and
scikit-learn.
"""

from skood.metrics._bootstrap import bootstrap_interval
from skood.metrics._dual_threshold import dual_threshold_auroc
from skood.metrics._open_set import ccr_at_fpr, open_set_f1, oscr
from skood.metrics._open_set_curves import ccr_curve, open_set_f1_curve
from skood.metrics._paired import bootstrap_test, delong_test
from skood.metrics._ranking import aupr_in, aupr_out, auroc, detection_error, fpr_at_tpr
from skood.metrics._report import ood_report

__all__ = [
    "aupr_in",
    "aupr_out",
    "auroc",
    "bootstrap_interval",
    "bootstrap_test",
    "ccr_at_fpr",
    "ccr_curve",
    "delong_test",
    "detection_error",
    "dual_threshold_auroc",
    "fpr_at_tpr",
    "ood_report",
    "open_set_f1",
    "open_set_f1_curve",
    "oscr",
]
