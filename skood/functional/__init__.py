"""Scores as functions of arrays: the formulas of the detectors in :mod:`skood.posthoc`.

The functions take numpy arrays and import no torch. Larger scores are more in-distribution unless
stated otherwise.
"""

from skood.functional._concepts import (
    cosine_similarities,
    mcm,
    mcm_log_odds,
    neglabel,
    neglabel_distance,
    neglabel_log_odds,
)
from skood.functional._features import (
    cosine_prototypes,
    fdbd,
    gaussian_mixture,
    gradnorm,
    mahalanobis,
    nci,
    neco,
    pnml,
    residual,
    she,
    unit_length,
    vim,
)
from skood.functional._logits import (
    energy,
    entropy,
    generalized_entropy,
    joint_energy,
    kl_matching,
    log_msp,
    log_softmax,
    max_logit,
    msp,
    mutual_information,
    openmax,
    predictive_entropy,
)
from skood.functional._shaping import ash, lts, react, scale, vra

__all__ = [
    "ash",
    "cosine_prototypes",
    "cosine_similarities",
    "energy",
    "entropy",
    "fdbd",
    "gaussian_mixture",
    "generalized_entropy",
    "gradnorm",
    "joint_energy",
    "kl_matching",
    "log_msp",
    "log_softmax",
    "lts",
    "mahalanobis",
    "max_logit",
    "mcm",
    "mcm_log_odds",
    "msp",
    "mutual_information",
    "nci",
    "neco",
    "neglabel",
    "neglabel_distance",
    "neglabel_log_odds",
    "openmax",
    "pnml",
    "predictive_entropy",
    "react",
    "residual",
    "scale",
    "she",
    "unit_length",
    "vim",
    "vra",
]
