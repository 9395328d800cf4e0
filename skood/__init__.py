"""skood: out-of-distribution detection for scikit-learn, over deep torch models."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0.dev0"

# The public names, by the part of the package that each comes from.
_PUBLIC = {
    "density": [
        "Autoencoder",
        "Diffusion",
        "HierarchicalVAE",
        "ImageFlow",
        "NeuralSplineFlow",
        "PixelCNN",
        "TwoStep",
        "VAE",
    ],
    "classifiers": [
        "ConvNet",
        "DenseNet",
        "FeatureExtractor",
        "MLP",
        "PretrainedClassifier",
        "ResNet",
        "ShallowConvNet",
        "VGG",
        "WideResNet",
    ],
    "likelihood": [
        "ApproximateMass",
        "CCLR",
        "DensityOfStates",
        "DiffusionReconstruction",
        "HierarchicalRatio",
        "InputComplexity",
        "LatentNorm",
        "LikelihoodRatio",
        "LikelihoodRegret",
        "LocalIntrinsicDimension",
        "LogLikelihood",
        "ScoreNorm",
        "Typicality",
        "WAIC",
    ],
    "posthoc": [
        "ASH",
        "AdaSCALE",
        "DICE",
        "DeepEnsemble",
        "Energy",
        "Entropy",
        "FDBD",
        "GEN",
        "GMM",
        "GradNorm",
        "Gram",
        "IODIN",
        "KLMatching",
        "KNN",
        "LTS",
        "LayerMahalanobis",
        "MCDropout",
        "MSP",
        "Mahalanobis",
        "MaxLogit",
        "NAC",
        "NCI",
        "NECO",
        "NNGuide",
        "ODIN",
        "OpenMax",
        "PNML",
        "RankFeat",
        "ReAct",
        "RelativeMahalanobis",
        "Residual",
        "SCALE",
        "SHE",
        "TemperatureScaling",
        "VRA",
        "ViM",
    ],
    "training_time": [
        "VMDLS",
        "VOS",
        "BoundarySampler",
        "DeepSAD",
        "DeepSVDD",
        "EnergyRegularized",
        "LogitNorm",
        "OODGen",
        "OutlierExposure",
    ],
    "calibration": ["ConformalDetector", "EnsembleDetector", "ExternalDetector", "TunedThreshold"],
    "model_selection": ["InlierFit", "LeaveClassesOut", "OODSplit", "get_ood_scorer"],
    "datasets": ["synthetic_outliers"],
    "_data": ["share_forward_pass"],
    "_evaluate": ["evaluate"],
}

_HOMES = {name: part for part, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import skood` costs no import of torch.
    if name in _HOMES:
        return getattr(importlib.import_module(f"skood.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'skood' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
