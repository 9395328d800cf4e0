"""Models in a FrozenEstimator: one that is not fitted is an error, before any is trained."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

import skood
from skood import (
    KNN,
    MLP,
    MSP,
    VAE,
    VMDLS,
    WAIC,
    ConformalDetector,
    DeepEnsemble,
    EnsembleDetector,
    InlierFit,
    LikelihoodRatio,
    LocalIntrinsicDimension,
    LogitNorm,
    LogLikelihood,
    NeuralSplineFlow,
    OODGen,
    TunedThreshold,
)
from skood.classifiers import _base as classifiers_base
from skood.density import _base as density_base

X = np.random.default_rng(0).normal(size=(60, 4))
Y = np.arange(60) % 3
NETWORK = FrozenEstimator(MLP((4,)))
FLOW = FrozenEstimator(NeuralSplineFlow())

UNFITTED = {
    "classifier=FrozenEstimator(MLP": MSP(NETWORK),
    "classifier=FrozenEstimator(LogisticRegression": MSP(FrozenEstimator(LogisticRegression())),
    "classifier=FrozenEstimator(Pipeline": MSP(
        FrozenEstimator(make_pipeline(StandardScaler(), LogisticRegression()))
    ),
    "features=FrozenEstimator(MLP": KNN(NETWORK),
    "features=FrozenEstimator(PCA": KNN(FrozenEstimator(PCA(2))),
    "density=FrozenEstimator(NeuralSplineFlow": LogLikelihood(FLOW),
    "density=FrozenEstimator(GaussianMixture": LogLikelihood(FrozenEstimator(GaussianMixture())),
    # The density before it would be trained.
    "background=FrozenEstimator(NeuralSplineFlow": LikelihoodRatio(NeuralSplineFlow(), FLOW),
    "density[1]=FrozenEstimator(NeuralSplineFlow": WAIC([NeuralSplineFlow(), FLOW]),
    "density=FrozenEstimator(NeuralSplineFlow(...)) of Loc": LocalIntrinsicDimension(FLOW),
    "vae=FrozenEstimator(VAE": OODGen(MLP((4,)), FrozenEstimator(VAE(2))),
    # The backbone would be trained.
    "reconstruction=FrozenEstimator(Autoencoder": VMDLS(
        MLP((4,)), reconstruction=FrozenEstimator(skood.Autoencoder(2))
    ),
    "classifier__weights_init=FrozenEstimator(MLP": LogitNorm(MLP((4,), weights_init=NETWORK)),
    "classifier=FrozenEstimator(MLP(...)) of Deep": DeepEnsemble(NETWORK),
    "detector=FrozenEstimator(MSP": ConformalDetector(FrozenEstimator(MSP(MLP((4,))))),
    "detector__features=FrozenEstimator(MLP": ConformalDetector(KNN(NETWORK)),
    "detector__classifier=FrozenEstimator(MLP": TunedThreshold(MSP(NETWORK)),
    # The detector before it would be trained.
    "detectors[1]__classifier=FrozenEstimator(MLP": EnsembleDetector([KNN(MLP()), MSP(NETWORK)]),
    "classifier=FrozenEstimator(MLP(...)) of Conf": ConformalDetector(
        KNN(MLP((4,))), class_conditional=True, classifier=NETWORK
    ),
}


@pytest.fixture
def never_trains(monkeypatch):
    def train(*args, **kwargs):
        pytest.fail("a network was trained")

    monkeypatch.setattr(classifiers_base, "train", train)
    monkeypatch.setattr(density_base, "train", train)


@pytest.mark.parametrize("message", UNFITTED)
def test_unfitted_model_in_a_frozen_estimator(message, never_trains):
    with pytest.raises(NotFittedError) as raised:
        UNFITTED[message].fit(X, Y)
    assert str(raised.value).startswith(message)
    assert "Fit the" in str(raised.value)


def test_in_a_pipeline_and_in_inlier_fit(never_trains):
    for detector in (make_pipeline(StandardScaler(), KNN(NETWORK)), InlierFit(MSP(NETWORK))):
        with pytest.raises(NotFittedError, match="is not fitted"):
            detector.fit(X, Y)
    nested = ConformalDetector(make_pipeline(StandardScaler(), KNN(NETWORK)))
    with pytest.raises(NotFittedError, match=r"detector__steps\[knn\]__features=Frozen"):
        nested.fit(X, Y)


def test_what_comes_trained_is_accepted():
    """Also what has nothing to fit, and torch modules, which are trained as they are."""
    network = MLP((4,), max_epochs=2, random_state=0).fit(X, Y)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    for detector in (
        MSP(FrozenEstimator(network)),
        MSP(FrozenEstimator(module)),
        KNN(FrozenEstimator(FunctionTransformer())),
        KNN(FrozenEstimator(make_pipeline(StandardScaler(), PCA(2)).fit(X))),
    ):
        assert np.isfinite(detector.fit(X.astype("f4"), Y).score_samples(X.astype("f4"))).all()
