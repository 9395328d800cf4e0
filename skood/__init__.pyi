"""The public names of `skood` and where each comes from: the one list of them."""

from skood import (
    base as base,
    calibration as calibration,
    classifiers as classifiers,
    datasets as datasets,
    density as density,
    embeddings as embeddings,
    evaluation as evaluation,
    explanation as explanation,
    functional as functional,
    inspection as inspection,
    likelihood as likelihood,
    metrics as metrics,
    model_selection as model_selection,
    posthoc as posthoc,
    preprocessing as preprocessing,
    testing as testing,
    training_time as training_time,
)
from skood._catalogue import (
    cite as cite,
    find_detectors as find_detectors,
)
from skood._data.validation import (
    share_forward_pass as share_forward_pass,
)
from skood._export import (
    export as export,
)
from skood._files import (
    inspect_file as inspect_file,
    load as load,
    save as save,
)
from skood._recommendation import (
    Recommendation as Recommendation,
    recommend as recommend,
)
from skood._show_versions import (
    show_versions as show_versions,
)
from skood.calibration import (
    ConformalDetector as ConformalDetector,
    DriftMonitor as DriftMonitor,
    EnsembleDetector as EnsembleDetector,
    ExternalDetector as ExternalDetector,
    TunedThreshold as TunedThreshold,
)
from skood.classifiers import (
    MLP as MLP,
    VGG as VGG,
    Airbench as Airbench,
    ConvNet as ConvNet,
    DenseNet as DenseNet,
    FeatureExtractor as FeatureExtractor,
    LeNet as LeNet,
    MNISTConvNet as MNISTConvNet,
    PretrainedClassifier as PretrainedClassifier,
    ResNet as ResNet,
    ShallowConvNet as ShallowConvNet,
    WideResNet as WideResNet,
)
from skood.datasets import (
    synthetic_outliers as synthetic_outliers,
)
from skood.density import (
    VAE as VAE,
    Autoencoder as Autoencoder,
    CausalLanguageModel as CausalLanguageModel,
    Diffusion as Diffusion,
    HierarchicalVAE as HierarchicalVAE,
    ImageFlow as ImageFlow,
    NeuralSplineFlow as NeuralSplineFlow,
    PixelCNN as PixelCNN,
    SequenceDensity as SequenceDensity,
    TwoStep as TwoStep,
)
from skood.evaluation import (
    evaluate as evaluate,
)
from skood.likelihood import (
    CCLR as CCLR,
    WAIC as WAIC,
    ApproximateMass as ApproximateMass,
    DensityOfStates as DensityOfStates,
    DiffusionReconstruction as DiffusionReconstruction,
    HierarchicalRatio as HierarchicalRatio,
    InputComplexity as InputComplexity,
    LatentNorm as LatentNorm,
    LikelihoodRatio as LikelihoodRatio,
    LikelihoodRegret as LikelihoodRegret,
    LocalIntrinsicDimension as LocalIntrinsicDimension,
    LogLikelihood as LogLikelihood,
    ScoreNorm as ScoreNorm,
    Typicality as Typicality,
)
from skood.model_selection import (
    InlierFit as InlierFit,
    LeaveClassesOut as LeaveClassesOut,
    OODSplit as OODSplit,
    get_ood_scorer as get_ood_scorer,
)
from skood.posthoc import (
    ASH as ASH,
    CSP as CSP,
    DICE as DICE,
    FDBD as FDBD,
    GEN as GEN,
    GMM as GMM,
    IODIN as IODIN,
    KNN as KNN,
    LTS as LTS,
    MCM as MCM,
    MSP as MSP,
    NAC as NAC,
    NCI as NCI,
    NECO as NECO,
    ODIN as ODIN,
    PNML as PNML,
    SCALE as SCALE,
    SHE as SHE,
    VRA as VRA,
    AdaSCALE as AdaSCALE,
    CosinePrototypes as CosinePrototypes,
    DeepEnsemble as DeepEnsemble,
    Energy as Energy,
    Entropy as Entropy,
    GradNorm as GradNorm,
    Gram as Gram,
    KernelPCA as KernelPCA,
    KLMatching as KLMatching,
    LayerMahalanobis as LayerMahalanobis,
    Mahalanobis as Mahalanobis,
    MaxLogit as MaxLogit,
    MCDropout as MCDropout,
    NegLabel as NegLabel,
    NNGuide as NNGuide,
    OpenMax as OpenMax,
    RankFeat as RankFeat,
    ReAct as ReAct,
    RelativeMahalanobis as RelativeMahalanobis,
    Residual as Residual,
    TemperatureScaling as TemperatureScaling,
    ViM as ViM,
)
from skood.preprocessing import (
    GlobalContrastNormalization as GlobalContrastNormalization,
)
from skood.training_time import (
    VMDLS as VMDLS,
    VOS as VOS,
    BoundarySampler as BoundarySampler,
    DeepSAD as DeepSAD,
    DeepSVDD as DeepSVDD,
    EnergyRegularized as EnergyRegularized,
    LogitNorm as LogitNorm,
    OODGen as OODGen,
    OutlierExposure as OutlierExposure,
    RegMixup as RegMixup,
)

__version__: str
