"""skood: out-of-distribution detection for scikit-learn, over deep torch models."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "ASH": "skood.posthoc",
    "AdaSCALE": "skood.posthoc",
    "BoundarySampler": "skood.training_time",
    "ConformalDetector": "skood.calibration",
    "ConvNet": "skood.classifiers",
    "DICE": "skood.posthoc",
    "DenseNet": "skood.classifiers",
    "Energy": "skood.posthoc",
    "EnsembleDetector": "skood.calibration",
    "Entropy": "skood.posthoc",
    "FDBD": "skood.posthoc",
    "GEN": "skood.posthoc",
    "GMM": "skood.posthoc",
    "GradNorm": "skood.posthoc",
    "Gram": "skood.posthoc",
    "IODIN": "skood.posthoc",
    "InlierFit": "skood.model_selection",
    "KLMatching": "skood.posthoc",
    "KNN": "skood.posthoc",
    "LTS": "skood.posthoc",
    "LayerMahalanobis": "skood.posthoc",
    "LeaveClassesOut": "skood.model_selection",
    "LikelihoodRatio": "skood.likelihood",
    "LogLikelihood": "skood.likelihood",
    "MLP": "skood.classifiers",
    "MSP": "skood.posthoc",
    "Mahalanobis": "skood.posthoc",
    "MaxLogit": "skood.posthoc",
    "NAC": "skood.posthoc",
    "NCI": "skood.posthoc",
    "NECO": "skood.posthoc",
    "NNGuide": "skood.posthoc",
    "NeuralSplineFlow": "skood.density",
    "ODIN": "skood.posthoc",
    "OODGen": "skood.training_time",
    "OODSplit": "skood.model_selection",
    "OpenMax": "skood.posthoc",
    "PNML": "skood.posthoc",
    "PixelCNN": "skood.density",
    "PretrainedClassifier": "skood.classifiers",
    "RankFeat": "skood.posthoc",
    "ReAct": "skood.posthoc",
    "RelativeMahalanobis": "skood.posthoc",
    "ResNet": "skood.classifiers",
    "Residual": "skood.posthoc",
    "SCALE": "skood.posthoc",
    "SHE": "skood.posthoc",
    "ShallowConvNet": "skood.classifiers",
    "TemperatureScaling": "skood.posthoc",
    "TunedThreshold": "skood.calibration",
    "VAE": "skood.density",
    "VGG": "skood.classifiers",
    "VRA": "skood.posthoc",
    "ViM": "skood.posthoc",
    "WideResNet": "skood.classifiers",
    "evaluate": "skood._evaluate",
    "get_ood_scorer": "skood.model_selection",
    "share_passes": "skood._data",
    "synthetic_outliers": "skood.datasets",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import skood` costs no import of torch.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'skood' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
