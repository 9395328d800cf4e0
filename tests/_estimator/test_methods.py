"""What models of the wrong kind cost: nothing, since they are refused before they are trained."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

import skood
from skood import LikelihoodRatio, TwoStep
from skood._estimator.methods import check_provides, provides


class Conditional(BaseEstimator):
    """Methods that depend on a parameter, or on what `fit` learns."""

    def __init__(self, flag=False):
        self.flag = flag

    def fit(self, X, y=None):
        self.inner_ = skood.Diffusion()
        return self

    @available_if(lambda self: hasattr(self.inner_, "denoiser"))
    def by_attribute(self):
        """Available once fitted."""

    @available_if(lambda self: check_is_fitted(self) or True)
    def by_check(self):
        """Available once fitted."""

    @available_if(lambda self: self.flag)
    def by_parameter(self):
        """Available by `flag` alone."""

    @property
    def score_above(self):
        return self.inner_.denoiser


class Delegating(BaseEstimator):
    """Passes everything on to what `fit` makes."""

    def fit(self, X, y=None):
        self.inner_ = KernelDensity().fit(X)
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(object.__getattribute__(self, "inner_"), name)


def test_methods_that_may_come_with_the_fit():
    model = Conditional()
    for method in ("by_attribute", "by_check", "score_above"):
        assert not hasattr(model, method)
        assert provides(model, method)
    assert not provides(model, "by_parameter")
    assert not provides(model, "denoiser")
    assert provides(Conditional(flag=True), "by_parameter")
    assert provides(Delegating(), "denoiser")
    assert not provides(Delegating().fit(np.eye(3)), "denoiser")


def test_what_is_passed_on():
    diffusion = skood.Diffusion()
    for model in (diffusion, FrozenEstimator(diffusion)):
        check_provides(model, "linearize", "denoiser", message="needed")
    pipeline = make_pipeline(StandardScaler(), diffusion)
    for model in (pipeline, FrozenEstimator(pipeline)):
        with pytest.raises(
            TypeError,
            match=r"^needed\. The Pipeline does not pass on denoiser of the Diffusion inside: "
            "make a Pipeline of its other steps and the detector$",
        ):
            check_provides(model, "denoiser", message="needed", error=TypeError)
    with pytest.raises(
        ValueError, match=r"^needed\. The GridSearchCV .* give the Diffusion itself"
    ):
        check_provides(GridSearchCV(diffusion, {}), "denoiser", message="needed")
    with pytest.raises(ValueError, match=r"^needed$"):
        check_provides(make_pipeline(PCA(), skood.VAE()), "denoiser", message="needed")


def untrainable(cls):
    """Return a subclass whose training fails."""

    class Untrainable(cls):
        def _train(self, *args, **kwargs):
            raise AssertionError("was trained")

        def fit(self, X, y=None):
            raise AssertionError("was trained")

    Untrainable.__name__ = f"Untrainable{cls.__name__}"
    return Untrainable


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(60, 4))


KDE = untrainable(KernelDensity)()
VAE = untrainable(skood.VAE)
FLOW = untrainable(skood.NeuralSplineFlow)()
DIFFUSION = untrainable(skood.Diffusion)()


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (skood.ApproximateMass(KDE), "has no log_density_gradient"),
        (skood.ApproximateMass(VAE(likelihood="bernoulli")), "has no log_density_gradient"),
        (skood.CCLR(FLOW), "is not a diffusion model; CCLR needs a Diffusion"),
        (skood.CCLR(make_pipeline(StandardScaler(), DIFFUSION)), "is not a diff.* other steps"),
        (skood.ScoreNorm(VAE()), "is not a diffusion model; ScoreNorm needs a Diffusion"),
        (skood.ScoreNorm(GridSearchCV(DIFFUSION, {})), "is not a diffusion model.* itself"),
        (skood.ScoreNorm(DIFFUSION, t=1e-6), "expected a time from t_min=1e-05"),
        (skood.DiffusionReconstruction(KDE), "is not a diffusion model"),
        (skood.DiffusionReconstruction(DIFFUSION, times=[0.1, 1e-6]), "expected a time from t_min"),
        (skood.LikelihoodRegret(FLOW), "expected a VAE that is not conditional"),
        (skood.LikelihoodRegret(VAE(conditional=True)), "expected a VAE that is not conditional"),
        (skood.HierarchicalRatio(VAE()), "HierarchicalRatio needs a HierarchicalVAE"),
        (skood.LocalIntrinsicDimension(VAE()), "expected an ImageFlow, a NeuralSplineFlow or"),
        (skood.LocalIntrinsicDimension(FLOW, estimator="flipd"), "does not suit a flow model"),
        (skood.LocalIntrinsicDimension(DIFFUSION, scale=9.0), "models noise from -6.9.* to 5"),
        (
            LikelihoodRatio(FLOW, [KDE, StandardScaler()]),
            "background holds StandardSc.*score_samples",
        ),
        (LikelihoodRatio(FLOW, skood.PixelCNN()), "but PixelCNN models images"),
        (skood.WAIC([FLOW, skood.PixelCNN()]), "but PixelCNN models images"),
        (skood.WAIC([FLOW, StandardScaler()]), "density holds StandardScaler"),
        (skood.WAIC(untrainable(skood.VAE)(random_state=0)), "has random_state=0, with which all"),
        (TwoStep(FLOW), "has a decoder that cannot be differentiated"),
        (TwoStep(make_pipeline(StandardScaler(), VAE(2))), "has a decoder that cannot be .*VAE"),
        (TwoStep(VAE(2, conditional=True)), "a conditional VAE has a decoder for each class"),
        (TwoStep(VAE(5)), "makes 5 latents of items of 4 values"),
        (TwoStep(VAE(2), skood.PixelCNN()), "models images, but latents are rows"),
        (skood.BoundarySampler(FLOW), "expected a skood.density.VAE"),
        (skood.OODGen(vae=make_pipeline(StandardScaler(), VAE(2))), "expected a skood.density.VAE"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_a_model_of_the_wrong_kind_is_not_trained(X, detector, message):
    with pytest.raises((ValueError, TypeError), match=message):
        detector.fit(X, np.arange(60) % 2)


def test_images_and_rows_do_not_mix(X):
    images = np.random.default_rng(0).random((20, 4, 4))
    with pytest.raises(ValueError, match="but NeuralSplineFlow models rows"):
        LikelihoodRatio(VAE(), skood.NeuralSplineFlow()).fit(images)
    # Parameters of the background are checked, too.
    with pytest.raises(ValueError, match="'n_bins' parameter of NeuralSplineFlow"):
        LikelihoodRatio(FLOW, skood.NeuralSplineFlow(n_bins=0)).fit(X)


def test_what_cannot_be_told_before_is_told_after(X):
    """A model that lacks the method once it is fitted."""

    class Late(KernelDensity):
        @property
        def denoiser(self):
            return self.inner_.denoiser

        @property
        def map(self):
            return self.inner_.map

    assert provides(Late(), "denoiser")
    with pytest.raises(ValueError, match="is not a diffusion model"):
        skood.ScoreNorm(FrozenEstimator(KernelDensity().fit(X))).fit(X)
    with pytest.raises((ValueError, AttributeError), match=r"inner_|diffusion"):
        skood.ScoreNorm(Late()).fit(X)
    with pytest.raises((NotFittedError, AttributeError)):
        Conditional().by_check()
