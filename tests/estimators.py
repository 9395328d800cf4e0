"""Tiny instances of every public estimator, which the tests share."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler
from torch import nn

import skood
from skood import LikelihoodRatio, LogLikelihood, NeuralSplineFlow, PixelCNN
from skood.base import estimator, parameter
from skood.classifiers import NeuralClassifier


def tiny_flow(**kwargs):
    return NeuralSplineFlow(n_transforms=1, n_bins=4, hidden_features=(8,), max_epochs=3, **kwargs)


def tiny_pixelcnn(**kwargs):
    settings = {"n_levels": 16, "value_range": "minmax", "image_shape": "row", "max_epochs": 3}
    return PixelCNN(n_filters=4, n_resnet=1, **{**settings, **kwargs})


def tiny_image_flow(**kwargs):
    settings = {"n_levels": 16, "value_range": "minmax", "image_shape": "row", "max_epochs": 3}
    return skood.ImageFlow((1, 2), 4, 1, n_bins=4, **{**settings, **kwargs})


def tiny_diffusion(**kwargs):
    return skood.Diffusion(n_blocks=1, hidden_features=8, n_steps=2, max_epochs=3, **kwargs)


def tiny_vae(**kwargs):
    return skood.VAE(1, hidden_features=(8,), max_epochs=3, n_importance_samples=4, **kwargs)


def tiny_hierarchical_vae(**kwargs):
    return skood.HierarchicalVAE(
        (1, 1, 1), hidden_features=(8,), max_epochs=3, n_importance_samples=4, **kwargs
    )


def tiny_autoencoder(n_latent=2, **kwargs):
    # Of 8 units, all may be dead after three epochs.
    return skood.Autoencoder(
        n_latent, hidden_features=(16,), n_filters=(4,), max_epochs=3, **kwargs
    )


def tiny_mlp(**kwargs):
    return skood.MLP((8, 8), max_epochs=10, batch_size=16, **kwargs)


@estimator
class TinyMaps(NeuralClassifier):
    """Takes rows, and has a feature map."""

    max_epochs: int = parameter(default=10, kw_only=True)
    batch_size: int = parameter(default=16, kw_only=True)

    def _build(self, item_shape, n_classes):
        maps = nn.Flatten(), nn.Unflatten(1, (1, 1, -1)), nn.Conv2d(1, 4, 1), nn.ReLU()
        return nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_classes))


def tiny_concepts(cls, *words, **kwargs):
    """Return a detector on words, with vectors of 3 values for rows of any width."""
    # One of scikit-learn's checks expects four classes.
    texts = np.array([[1.0, 0.2, 0.1], [1.0, -1.0, 0.5], [1.0, 1.0, 0.5], [-1.0, 0.2, 0.3]])
    tower = RBFSampler(n_components=3, random_state=0)
    return cls(texts, *words, features=tower, temperature=0.1, **kwargs)


# Vectors of words that are no classes.
WORDS = np.array([[0.2, 0.3, 1.0], [0.1, -0.9, 1.0], [0.0, 0.4, 1.0], [0.5, 0.5, -1.0]])


class SyntheticOutliers:
    """The function of that name; its address would be part of the names of tests."""

    def __call__(self, X, random_state):
        return skood.synthetic_outliers(X, random_state=random_state)

    def __repr__(self):
        return "synthetic_outliers"


ESTIMATORS = [
    tiny_flow(),
    tiny_pixelcnn(),
    tiny_image_flow(),
    tiny_diffusion(),
    tiny_vae(),
    tiny_hierarchical_vae(),
    tiny_autoencoder(),
    skood.TwoStep(tiny_autoencoder(n_latent=1), KernelDensity()),
    skood.TwoStep(PCA(1), tiny_flow()),
    tiny_mlp(),
    skood.BoundarySampler(tiny_vae()),
    skood.GlobalContrastNormalization(),
    LogLikelihood(tiny_flow()),
    LogLikelihood(KernelDensity()),
    LikelihoodRatio(tiny_flow()),
    LikelihoodRatio(tiny_pixelcnn()),
    LikelihoodRatio(KernelDensity()),
    LikelihoodRatio(tiny_flow(), mutation_rate=[0.1, 0.3]),
    skood.LocalIntrinsicDimension(tiny_flow()),
    skood.CCLR(tiny_diffusion(), n_draws=2),
    skood.DiffusionReconstruction(tiny_diffusion(), times=(0.1, 0.3), n_steps=1),
    skood.InputComplexity(KernelDensity(), image_shape="row", value_range="minmax"),
    skood.LikelihoodRegret(tiny_vae(), n_steps=3, n_points=2),
    skood.LikelihoodRegret(tiny_vae(), optimize="encoder", n_steps=2, n_points=2),
    skood.LocalIntrinsicDimension(tiny_diffusion()),
    skood.ScoreNorm(tiny_diffusion()),
    skood.Typicality(KernelDensity()),
    skood.WAIC(tiny_flow(), 2),
    skood.WAIC(KernelDensity(), 3, bootstrap=True),
    skood.LocalIntrinsicDimension(tiny_image_flow(), estimator="lanczos", scale=-1.0, n_steps=2),
    skood.ApproximateMass(tiny_flow()),
    skood.ApproximateMass(tiny_vae(likelihood="gaussian")),
    skood.DensityOfStates(tiny_flow()),
    skood.DensityOfStates(tiny_vae(), estimator="svm"),
    skood.DensityOfStates(KernelDensity()),
    skood.HierarchicalRatio(tiny_hierarchical_vae(), n_importance_samples=4),
    skood.LatentNorm(tiny_flow()),
    skood.LatentNorm(PCA(whiten=True), statistic="norm"),
    skood.ASH(tiny_mlp()),
    skood.AdaSCALE(tiny_mlp()),
    tiny_concepts(skood.CSP, WORDS, adjectives=WORDS[::-1], n_negatives=2, n_groups=2),
    skood.CosinePrototypes(),
    skood.DICE(tiny_mlp()),
    skood.DeepEnsemble(tiny_mlp(), n_members=2),
    skood.DeepSAD(tiny_mlp(), n_latent=4),
    skood.DeepSVDD(tiny_mlp(), n_latent=4),
    skood.DeepSVDD(tiny_mlp(), n_latent=4, objective="soft-boundary", n_warm_up_epochs=5),
    skood.Energy(tiny_mlp()),
    skood.EnergyRegularized(tiny_mlp(), SyntheticOutliers()),
    skood.Entropy(LogisticRegression()),
    skood.ExternalDetector(GaussianMixture(2, init_params="random")),
    skood.FDBD(tiny_mlp()),
    skood.GEN(tiny_mlp()),
    skood.GMM(),
    skood.GradNorm(tiny_mlp()),
    skood.Gram(tiny_mlp()),
    skood.IODIN(tiny_mlp()),
    skood.KLMatching(tiny_mlp()),
    skood.KNN(n_neighbors=2),
    skood.KernelPCA(n_fourier_features=32),
    skood.LTS(tiny_mlp()),
    skood.LayerMahalanobis(tiny_mlp()),
    skood.LogitNorm(skood.MLP((8, 8), max_epochs=30, batch_size=16, learning_rate=0.01)),
    skood.MCDropout(tiny_mlp(dropout=0.2), n_samples=4),
    tiny_concepts(skood.MCM),
    skood.MSP(tiny_mlp()),
    skood.MSP(LogisticRegression()),
    skood.Mahalanobis(),
    skood.Mahalanobis(StandardScaler()),
    skood.Mahalanobis(tiny_mlp(), normalize=True),
    skood.MaxLogit(tiny_mlp()),
    skood.NAC(tiny_mlp()),
    skood.NCI(tiny_mlp()),
    skood.NECO(),
    skood.NNGuide(tiny_mlp(), n_neighbors=2),
    tiny_concepts(skood.NegLabel, WORDS, n_negatives=0.8, n_groups=1),
    skood.ODIN(tiny_mlp()),
    skood.OODGen(tiny_mlp(), tiny_vae(conditional=True)),
    skood.OpenMax(tiny_mlp(), rows="all"),
    skood.OutlierExposure(tiny_mlp(), SyntheticOutliers()),
    skood.PNML(tiny_mlp()),
    skood.RankFeat(TinyMaps()),
    skood.ReAct(tiny_mlp()),
    skood.RegMixup(tiny_mlp()),
    skood.RelativeMahalanobis(),
    skood.Residual(tiny_mlp()),
    skood.SCALE(tiny_mlp()),
    skood.SHE(tiny_mlp()),
    skood.TemperatureScaling(tiny_mlp()),
    # Its batches are balanced by its own parameters.
    skood.VMDLS(skood.MLP((8, 8), max_epochs=10), 2),
    skood.VOS(tiny_mlp(), n_candidates=100),
    skood.VRA(tiny_mlp()),
    skood.ViM(tiny_mlp()),
]
# Networks for images, which check_estimator's rows are not, what cannot be trained at all, and what
# is made of another detector (checked in its own tests).
NOT_FOR_ROWS = {
    skood.Airbench,
    skood.CausalLanguageModel,
    skood.ConformalDetector,
    skood.ConvNet,
    skood.DenseNet,
    skood.DriftMonitor,
    skood.EnsembleDetector,
    skood.FeatureExtractor,
    skood.InlierFit,
    skood.LeNet,
    skood.MNISTConvNet,
    skood.PretrainedClassifier,
    skood.ResNet,
    skood.SequenceDensity,
    skood.ShallowConvNet,
    skood.TunedThreshold,
    skood.VGG,
    skood.WideResNet,
}
