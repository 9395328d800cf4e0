"""A small fitted estimator of every family, for files that must load for ever."""

import numpy as np
import tiny_models
import torch
from estimators import (
    WORDS,
    tiny_autoencoder,
    tiny_concepts,
    tiny_diffusion,
    tiny_flow,
    tiny_hierarchical_vae,
    tiny_image_flow,
    tiny_mlp,
    tiny_vae,
)
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skood

_rng = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], 20)
ROWS = np.round(_rng.normal(size=(60, 4)) + 3.0 * LABELS[:, None], 3)
# Pixels of 8 levels; the class is the position of a bright bar.
IMAGES = np.round(_rng.uniform(0, 4, size=(60, 1, 8, 8))) / 7
for _row, _label in enumerate(LABELS):
    IMAGES[_row, 0, 2 * _label : 2 * _label + 2] += 3 / 7
IMAGES = IMAGES.astype(np.float32)
COLUMNS = ROWS[:, :1]
# Sequences of four symbols.
SYMBOLS = ROWS.round().astype(np.int64) % 4
FLOATS = ROWS.astype(np.float32)

_IMAGE = {"max_epochs": 2, "batch_size": 16}
_NET = {**_IMAGE, "random_state": 0}


# A classifier that many detectors share; `fitted` trains it.
MLP = skood.MLP((4,), max_epochs=5, batch_size=16, random_state=0)


def mlp(**kwargs):
    return tiny_mlp(random_state=0, **kwargs)


def densities():
    """Return densities and autoencoders, and the data of each."""
    image = {"n_filters": 2, "n_resnet": 1, "n_levels": 8, **_NET}
    return {
        "flow_of_one_column": (tiny_flow(random_state=0), COLUMNS),
        "flow": (
            skood.NeuralSplineFlow(2, 4, (6, 5), max_epochs=2, random_state=0),
            ROWS,
        ),
        "pixelcnn": (skood.PixelCNN(**image), IMAGES),
        "pixelcnn_deep": (
            skood.PixelCNN(n_hierarchies=2, weight_norm=False, conditional=True, **image),
            IMAGES,
        ),
        "image_flow": (
            skood.ImageFlow((1, 1), n_filters=3, n_blocks=1, n_bins=3, n_levels=8, **_NET),
            IMAGES,
        ),
        "image_flow_affine": (tiny_image_flow(random_state=0, coupling="affine"), ROWS),
        "image_flow_alternating": (
            skood.ImageFlow(
                (1, 1),
                n_filters=(2, 3),
                n_blocks=1,
                n_bins=3,
                n_levels=8,
                mask="alternating",
                last_convolution=True,
                **_NET,
            ),
            IMAGES,
        ),
        "diffusion": (tiny_diffusion(random_state=0), ROWS),
        "diffusion_exploding": (tiny_diffusion(sde="ve", random_state=0), ROWS),
        "diffusion_of_images": (
            skood.Diffusion(n_filters=(2, 3), n_blocks=1, n_steps=2, **_NET),
            IMAGES,
        ),
        "vae": (tiny_vae(random_state=0), ROWS),
        "vae_of_images": (tiny_models.make_vae(n_levels=8), IMAGES),
        "vae_conditional": (
            tiny_models.make_vae(likelihood="bernoulli", conditional=True),
            IMAGES,
        ),
        "hierarchical_vae": (tiny_hierarchical_vae(random_state=0), ROWS),
        "hierarchical_vae_of_images": (
            skood.HierarchicalVAE((2, 1), n_filters=(3,), hidden_features=(6,), **_NET),
            IMAGES,
        ),
        "hierarchical_vae_of_maps": (
            skood.HierarchicalVAE(
                (1, 2),
                n_spatial_layers=1,
                n_blocks=1,
                likelihood="bernoulli",
                binarize="dynamic",
                n_filters=(3,),
                hidden_features=(6,),
                **_NET,
            ),
            IMAGES,
        ),
        "sequence": (
            skood.SequenceDensity(
                hidden_features=3,
                n_layers=2,
                kernel_size=3,
                embedding_size=2,
                symbols=range(5),
                handle_unknown="class",
                **_NET,
            ),
            SYMBOLS,
        ),
        "sequence_lstm": (
            skood.SequenceDensity("lstm", hidden_features=3, n_layers=2, **_NET),
            SYMBOLS,
        ),
        "autoencoder": (tiny_autoencoder(random_state=0), ROWS),
        "autoencoder_of_images": (tiny_models.make_autoencoder(), IMAGES),
        "two_step": (skood.TwoStep(tiny_autoencoder(1), tiny_flow(), random_state=0), ROWS),
        "two_step_linear": (skood.TwoStep(PCA(1), KernelDensity(), random_state=0), ROWS),
    }


def classifiers():
    """Return classifiers, and the data of each."""
    return {
        "mlp": (mlp(), ROWS),
        "mlp_of_images": (skood.MLP((4,), **_NET), IMAGES),
        "convnet": (skood.ConvNet((3, 4), **_NET), IMAGES),
        "convnet_wide": (skood.ConvNet((3,), hidden_features=4, **_NET), IMAGES),
        "shallow_convnet": (
            skood.ShallowConvNet((3, 4), hidden_features=5, **_NET),
            IMAGES,
        ),
        "densenet": (skood.DenseNet(10, growth_rate=1, **_NET), IMAGES),
        "lenet": (skood.LeNet((3, 2), **_NET), IMAGES),
        "mnist_convnet": (skood.MNISTConvNet(3, hidden_features=4, **_NET), IMAGES),
    }


def large_classifiers():
    """Return the classifiers whose narrowest network is too large for a stored file."""
    return {
        "airbench": (skood.Airbench((8, 12, 12)), np.tile(IMAGES, (1, 1, 2, 2))),
        "resnet": (skood.ResNet(18), IMAGES),
        "resnet_bottleneck": (skood.ResNet(50, stem="large"), IMAGES),
        "vgg": (skood.VGG(11), np.tile(IMAGES, (1, 1, 4, 4))),
        "wide_resnet": (skood.WideResNet(10, 1), IMAGES),
    }


def detectors():
    """Return detectors of each kind, and the data of each."""
    knn, trained = skood.KNN(n_neighbors=2), FrozenEstimator(MLP)
    rows = {
        "log_likelihood": skood.LogLikelihood(tiny_flow()),
        "log_likelihood_kernel": skood.LogLikelihood(KernelDensity()),
        "log_likelihood_mixture": skood.LogLikelihood(GaussianMixture(2)),
        "log_likelihood_pipeline": skood.LogLikelihood(
            make_pipeline(StandardScaler(), PCA(2), KernelDensity())
        ),
        "likelihood_ratio": skood.LikelihoodRatio(tiny_flow()),
        "local_intrinsic_dimension": skood.LocalIntrinsicDimension(tiny_flow(), combine="min"),
        "local_intrinsic_dimension_joint": skood.LocalIntrinsicDimension(
            tiny_flow(), estimator="convolution", combine="joint"
        ),
        "local_intrinsic_dimension_all": skood.LocalIntrinsicDimension(
            tiny_flow(), estimator="convolution"
        ),
        "cclr": skood.CCLR(tiny_diffusion(), n_draws=2),
        "diffusion_reconstruction": skood.DiffusionReconstruction(
            tiny_diffusion(), times=(0.1, 0.3), n_steps=1
        ),
        "input_complexity": skood.InputComplexity(
            KernelDensity(), image_shape="row", value_range="minmax"
        ),
        "likelihood_regret": skood.LikelihoodRegret(tiny_vae(), n_steps=2, n_points=2),
        "score_norm": skood.ScoreNorm(tiny_diffusion()),
        "typicality": skood.Typicality(KernelDensity()),
        "waic": skood.WAIC(tiny_flow(), 2),
        "approximate_mass": skood.ApproximateMass(tiny_flow()),
        "density_of_states": skood.DensityOfStates(tiny_flow()),
        "density_of_states_svm": skood.DensityOfStates(tiny_vae(), estimator="svm"),
        "hierarchical_ratio": skood.HierarchicalRatio(
            tiny_hierarchical_vae(), n_importance_samples=4, lower_latents="sample"
        ),
        "hierarchical_ratio_mode": skood.HierarchicalRatio(
            tiny_hierarchical_vae(), n_importance_samples=4
        ),
        "latent_norm": skood.LatentNorm(tiny_flow()),
        "ash": skood.ASH(trained),
        "adascale": skood.AdaSCALE(trained),
        "csp": tiny_concepts(skood.CSP, WORDS, adjectives=WORDS[::-1], n_negatives=2, n_groups=2),
        "dice": skood.DICE(trained),
        "deep_ensemble": skood.DeepEnsemble(tiny_mlp(), n_members=2),
        "energy": skood.Energy(mlp()),
        "entropy": skood.Entropy(LogisticRegression()),
        "external": skood.ExternalDetector(GaussianMixture(2)),
        "fdbd": skood.FDBD(trained),
        "gen": skood.GEN(trained),
        "gmm": skood.GMM(),
        "grad_norm": skood.GradNorm(trained),
        "gram": skood.Gram(trained),
        "iodin": skood.IODIN(trained),
        "kl_matching": skood.KLMatching(trained),
        "knn": knn,
        "kernel_pca": skood.KernelPCA(n_fourier_features=32),
        "lts": skood.LTS(trained),
        "cosine_prototypes": skood.CosinePrototypes(),
        "layer_mahalanobis": skood.LayerMahalanobis(trained),
        "mcm": tiny_concepts(skood.MCM),
        "mc_dropout": skood.MCDropout(mlp(dropout=0.2), n_samples=4),
        "msp": skood.MSP(trained),
        "mahalanobis": skood.Mahalanobis(mlp()),
        "mahalanobis_of_rows": skood.Mahalanobis(StandardScaler()),
        "max_logit": skood.MaxLogit(trained),
        "nac": skood.NAC(trained),
        "nci": skood.NCI(trained),
        "neco": skood.NECO(),
        "neglabel": tiny_concepts(skood.NegLabel, WORDS, n_negatives=0.8, n_groups=1),
        "nn_guide": skood.NNGuide(trained, n_neighbors=2),
        "odin": skood.ODIN(trained),
        "openmax": skood.OpenMax(trained, rows="all"),
        "pnml": skood.PNML(trained),
        "react": skood.ReAct(trained),
        "relative_mahalanobis": skood.RelativeMahalanobis(),
        "residual": skood.Residual(trained),
        "scale": skood.SCALE(trained),
        "she": skood.SHE(trained),
        "temperature_scaling": skood.TemperatureScaling(trained),
        "vra": skood.VRA(trained),
        "vim": skood.ViM(trained),
        "deep_sad": skood.DeepSAD(mlp(), n_latent=4),
        "deep_svdd": skood.DeepSVDD(mlp(), n_latent=4),
        "deep_svdd_pretrained": skood.DeepSVDD(mlp(), n_latent=4, n_pretraining_epochs=1),
        "deep_svdd_soft": skood.DeepSVDD(
            mlp(), n_latent=4, objective="soft-boundary", n_warm_up_epochs=5
        ),
        "energy_regularized": skood.EnergyRegularized(mlp(), skood.synthetic_outliers),
        "logit_norm": skood.LogitNorm(skood.MLP((4,), max_epochs=30, batch_size=16)),
        "oodgen": skood.OODGen(mlp(), tiny_vae(conditional=True)),
        "outlier_exposure": skood.OutlierExposure(mlp(), skood.synthetic_outliers),
        "reg_mixup": skood.RegMixup(mlp()),
        "vmdls": skood.VMDLS(skood.MLP((4,), max_epochs=10), 2),
        "vos": skood.VOS(mlp(), n_candidates=100),
        "conformal": skood.ConformalDetector(knn, alpha=0.1),
        "conformal_classes": skood.ConformalDetector(
            skood.MSP(mlp()), class_conditional=True, alpha=0.2
        ),
        "conformal_training_conditional": skood.ConformalDetector(
            knn, alpha=0.3, calibration="training-conditional", delta=0.2
        ),
        "tuned_threshold": skood.TunedThreshold(knn),
        "ensemble": skood.EnsembleDetector(
            [("knn", knn), ("mahalanobis", skood.Mahalanobis())], alpha=0.1
        ),
        "inlier_fit": skood.InlierFit(make_pipeline(StandardScaler(), GaussianMixture(2))),
    }
    images = {
        "deep_svdd_of_images": skood.DeepSVDD(skood.ConvNet((3, 4), **_IMAGE), n_latent=3),
        "rank_feat": skood.RankFeat(skood.ConvNet((3,), **_NET)),
    }
    return {
        **{name: (detector, ROWS) for name, detector in rows.items()},
        **{name: (detector, IMAGES) for name, detector in images.items()},
    }


def fitted(estimator, X):
    """Fit with the labels, and with known outliers where they are needed."""
    if estimator is not MLP and not hasattr(MLP, "module_"):
        MLP.fit(ROWS, LABELS)
    if "random_state" in estimator.get_params() and estimator.random_state is None:
        estimator.set_params(random_state=0)
    y = LABELS
    if isinstance(estimator, (skood.DeepSAD, skood.EnergyRegularized)):
        y = np.where(np.arange(60) % 10 == 0, -1, LABELS)
    return estimator.fit(X, y)


def programs():
    """Return detectors around a user's own network, and the data of each."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        encoder = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    return {
        "program": (skood.ViM(network), FLOATS),
        "program_gradients": (skood.ODIN(network), FLOATS),
        "program_features": (skood.KNN(skood.FeatureExtractor(encoder), n_neighbors=2), IMAGES),
    }


def stored():
    """Return the families of which a file is stored, and the data of each."""
    steps = {"global_contrast_normalization": (skood.GlobalContrastNormalization(), ROWS)}
    return {**densities(), **steps, **classifiers(), **detectors(), **programs()}


def method_and_scores(estimator, X):
    """Return what an estimator computes of rows, and the method that computes it."""
    # Ranks would turn rounding into steps.
    methods = "score_pairs", "score_samples", "decision_function", "transform"
    method = next(method for method in methods if hasattr(estimator, method))
    return method, np.asarray(getattr(estimator, method)(X), np.float64)


def scores(estimator, X):
    """Return the numbers of an estimator that a file must preserve, for a few rows."""
    return method_and_scores(estimator, X[::6])[1]
