"""Post-hoc detectors on a trained classifier or on features, and their bases."""

from skood.classifiers._outputs import Outputs
from skood.posthoc._base import ClassifierDetector, NetworkDetector
from skood.posthoc._concepts import MCM, ConceptDetector
from skood.posthoc._deep_ensemble import DeepEnsemble
from skood.posthoc._features import GMM, Mahalanobis, RelativeMahalanobis
from skood.posthoc._geometry import FDBD, NCI, PNML, GradNorm
from skood.posthoc._gradients import IODIN, ODIN, AdaSCALE
from skood.posthoc._gram import Gram
from skood.posthoc._kernel_pca import KernelPCA
from skood.posthoc._knn import KNN
from skood.posthoc._layer_mahalanobis import LayerMahalanobis
from skood.posthoc._logits import GEN, MSP, Energy, Entropy, KLMatching, MaxLogit
from skood.posthoc._mc_dropout import MCDropout
from skood.posthoc._nac import NAC
from skood.posthoc._negative_labels import CSP, NegLabel
from skood.posthoc._openmax import OpenMax
from skood.posthoc._outputs_detector import FeatureDetector, OutputsDetector
from skood.posthoc._patterns import SHE, NNGuide
from skood.posthoc._prototypes import CosinePrototypes
from skood.posthoc._rankfeat import RankFeat
from skood.posthoc._rectification import DICE, VRA, ReAct
from skood.posthoc._scaling import ASH, LTS, SCALE
from skood.posthoc._subspace import NECO, Residual, ViM
from skood.posthoc._temperature import TemperatureScaling

__all__ = [
    "ASH",
    "CSP",
    "DICE",
    "FDBD",
    "GEN",
    "GMM",
    "IODIN",
    "KNN",
    "LTS",
    "MCM",
    "MSP",
    "NAC",
    "NCI",
    "NECO",
    "ODIN",
    "PNML",
    "SCALE",
    "SHE",
    "VRA",
    "AdaSCALE",
    "ClassifierDetector",
    "ConceptDetector",
    "CosinePrototypes",
    "DeepEnsemble",
    "Energy",
    "Entropy",
    "FeatureDetector",
    "GradNorm",
    "Gram",
    "KLMatching",
    "KernelPCA",
    "LayerMahalanobis",
    "MCDropout",
    "Mahalanobis",
    "MaxLogit",
    "NNGuide",
    "NegLabel",
    "NetworkDetector",
    "OpenMax",
    "Outputs",
    "OutputsDetector",
    "RankFeat",
    "ReAct",
    "RelativeMahalanobis",
    "Residual",
    "TemperatureScaling",
    "ViM",
]
