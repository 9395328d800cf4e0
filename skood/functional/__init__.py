"""Scores as functions of arrays: the formulas of the detectors in :mod:`skood.posthoc`.

The functions take numpy arrays and import no torch. Larger scores are more in-distribution, unless
a function says otherwise.
"""

from skood.functional._logits import (
    energy,
    entropy,
    generalized_entropy,
    joint_energy,
    kl_matching,
    log_softmax,
    max_logit,
    msp,
    mutual_information,
    openmax,
    predictive_entropy,
)

__all__ = [
    "energy",
    "entropy",
    "generalized_entropy",
    "joint_energy",
    "kl_matching",
    "log_softmax",
    "max_logit",
    "msp",
    "mutual_information",
    "openmax",
    "predictive_entropy",
]
