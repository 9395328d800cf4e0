"""VAE: likelihoods, points and samples against closed forms."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, xlogy
from scipy.stats import logistic, norm
from tiny_models import make_vae, set_scale

from skood.density._evidence import normal_points


def with_fixed_law(vae, X, raw, scale=None):
    """Fit, then make the decoder put out `raw` whatever z is, and q(z | x) the prior.

    Both bounds then are log p(x | z).
    """
    vae.fit(X)
    *_, last = (vae.module_.deconvolutions or vae.module_.decoder).children()
    with torch.no_grad():
        for parameter in vae.module_.parameters():
            parameter.zero_()
        last.bias.copy_(torch.as_tensor(raw, dtype=torch.float32))
    if scale is not None:
        set_scale(vae, scale)
    return vae


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


RAW = np.array([-1.5, 0.4, 2.0])


SCALE = np.array([0.02, 0.1, 0.3])


both_bounds = pytest.mark.parametrize("bound", ["importance", "elbo"])


@both_bounds
@pytest.mark.parametrize("form", ["uint8", "float32", "rows"])
class TestLikelihood:
    """Formulas written anew, in the units of X; three channels, or three features."""

    def data(self, form):
        rng = np.random.default_rng(0)
        X = rng.integers(256, size=(20, 3) if form == "rows" else (20, 3, 7, 5))
        X.flat[:4] = 0, 1, 254, 255
        # Location and scale of p(x | z), from 0 for black to 1 for white.
        per_channel = (3,) if form == "rows" else (3, 1, 1)
        high = 1 if form == "float32" else 255
        X = X.astype({"uint8": np.uint8, "float32": np.float32, "rows": float}[form])
        settings = {"value_range": (0, 255)} if form == "rows" else {}
        X = X / np.float32(255) if form == "float32" else X
        return X, high, sigmoid(RAW).reshape(per_channel), SCALE.reshape(per_channel), settings

    def scores(self, form, bound, likelihood, **more):
        X, *_, settings = self.data(form)
        vae = make_vae(likelihood=likelihood, bound=bound, **settings, **more)
        with_fixed_law(vae, X, RAW, None if likelihood == "bernoulli" else SCALE)
        return vae.score_samples(X)

    def test_bernoulli(self, bound, form):
        X, high, p, *_ = self.data(form)
        x = X.astype(float) / high
        expected = (xlogy(x, p) + xlogy(1 - x, 1 - p)).reshape(20, -1).sum(1)
        np.testing.assert_allclose(self.scores(form, bound, "bernoulli"), expected, rtol=1e-5)

    def test_gaussian(self, bound, form):
        X, high, p, scale, _ = self.data(form)
        expected = norm(high * p, high * scale).logpdf(X).reshape(20, -1).sum(1)
        np.testing.assert_allclose(self.scores(form, bound, "gaussian"), expected, rtol=1e-5)

    @pytest.mark.parametrize("n_levels", [256, 2, 9])
    def test_logistic(self, bound, form, n_levels):
        X, high, p, scale, _ = self.data(form)
        level = np.round(X.astype(float) / high * (n_levels - 1))
        law = logistic((n_levels - 1) * p, (n_levels - 1) * scale)
        above = np.where(level == n_levels - 1, 1.0, law.cdf(level + 0.5))
        below = np.where(level == 0, 0.0, law.cdf(level - 0.5))
        # Above the middle the tail on the other side keeps its digits.
        upper = law.sf(level - 0.5) - np.where(level == n_levels - 1, 0, law.sf(level + 0.5))
        mass = np.where(level > (n_levels - 1) * p, upper, above - below)
        expected = np.log(mass).reshape(20, -1).sum(1)
        scores = self.scores(form, bound, "logistic", n_levels=n_levels)
        np.testing.assert_allclose(scores, expected, rtol=2e-5)


@pytest.mark.parametrize(("likelihood", "n_levels"), [("logistic", 3), ("bernoulli", 2)])
@pytest.mark.parametrize("conditional", [False, True])
def test_probabilities_of_all_images_sum_to_one(likelihood, n_levels, conditional):
    rng = np.random.default_rng(0)
    X = rng.binomial(n_levels - 1, 0.3, size=(80, 1, 1)) * np.ones((1, 2, 2), dtype=int)
    every = np.indices((n_levels,) * 4).reshape(4, -1).T.reshape(-1, 2, 2)
    vae = make_vae(
        likelihood=likelihood,
        n_levels=n_levels,
        value_range=(0, n_levels - 1),
        conditional=conditional,
        max_steps=100,
        n_importance_samples=128,
    ).fit(X, np.arange(80) % 2)
    assert np.exp(vae.score_samples(every)).sum() == pytest.approx(1, abs=0.01)
    # The model is not constant: it has learned images of one level.
    assert np.ptp(vae.score_samples(every)) > 1


def test_score_is_the_integral_over_the_latents():
    """Trapezoids over the one latent, of the law that `inverse_transform` gives."""
    rng = np.random.default_rng(0)
    brightness, noise = rng.normal(size=(64, 1, 1)), rng.normal(size=(64, 5, 4))
    X = (255 * sigmoid(brightness + noise)).astype(np.uint8)
    vae = make_vae(
        n_latent=1,
        n_filters=(8,),
        hidden_features=(16,),
        likelihood="gaussian",
        max_steps=300,
        learning_rate=5e-3,
        validation_fraction=0,
        n_importance_samples=512,
        random_state=1,
    ).fit(X)
    z = np.linspace(-7, 7, 2001)
    location = vae.inverse_transform(z[:, None])
    assert np.ptp(location.mean((1, 2, 3))) > 150
    scale = 255 * vae.module_.scale().detach().numpy()
    by_pixel = norm(location[None], scale).logpdf(X[:8, None, None])
    terms = by_pixel.sum((2, 3, 4)) + norm.logpdf(z) + np.log(z[1] - z[0])
    np.testing.assert_allclose(vae.score_samples(X[:8]), logsumexp(terms, 1), atol=0.05)


@pytest.mark.parametrize(("n_points", "n_dimensions"), [(64, 8), (1024, 2), (4096, 1)])
def test_points_are_spread_evenly_over_a_standard_normal_law(n_points, n_dimensions):
    points = normal_points(n_points, n_dimensions).double().numpy()
    assert points.shape == (n_points, n_dimensions)
    cells = np.sort(np.floor(norm.cdf(points) * n_points * (1 - 1e-9)), axis=0)
    # Each of n_points equally probable intervals holds one point, up to float32's rounding.
    assert (cells == np.arange(n_points)[:, None]).mean() > 0.98
    np.testing.assert_allclose(points.mean(0), 0, atol=2 / n_points)
    np.testing.assert_allclose((points**2).mean(0), 1, atol=8 / n_points)
    if n_dimensions > 1:
        correlation = np.corrcoef(points.T) - np.eye(n_dimensions)
        assert abs(correlation).max() < 2 / np.sqrt(n_points)


def test_one_point():
    assert torch.isfinite(normal_points(1, 3)).all()
    assert torch.equal(normal_points(7, 3), normal_points.__wrapped__(7, 3))


class TestSamples:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_bernoulli_draws_are_black_or_white(self, dtype):
        high = 255 if dtype is np.uint8 else 1
        X = np.zeros((20, 3, 7, 5), dtype=dtype)
        drawn = with_fixed_law(make_vae(likelihood="bernoulli"), X, RAW).sample(200, random_state=0)
        assert drawn.dtype == dtype
        assert drawn.shape == (200, 3, 7, 5)
        assert set(np.unique(drawn)) == {0, high}
        share = drawn.mean((0, 2, 3)) / high
        np.testing.assert_allclose(share, sigmoid(RAW), atol=5 * 0.5 / np.sqrt(200 * 35))

    def test_gaussian_draws_have_the_location_and_scale_of_the_law(self):
        X = np.zeros((20, 3, 7, 5), dtype=np.uint8)
        raw, scale = np.array([-0.3, 0.4, 0.0]), np.array([0.02, 0.06, 0.1])
        vae = with_fixed_law(make_vae(likelihood="gaussian"), X, raw, scale)
        drawn = vae.sample(200, random_state=0)
        assert drawn.dtype == np.uint8
        error = 255 * scale / np.sqrt(200 * 35)
        assert (abs(drawn.mean((0, 2, 3)) - 255 * sigmoid(raw)) < 5 * error).all()
        np.testing.assert_allclose(drawn.std((0, 2, 3)), 255 * scale, rtol=5 / np.sqrt(2 * 7000))
        # Of a wide law what lies beyond black and white is clipped, not wrapped around.
        wide = with_fixed_law(make_vae(likelihood="gaussian"), X, RAW, np.full(3, 0.8))
        ends = np.isin(wide.sample(200, random_state=0), [0, 255]).mean((0, 2, 3))
        law = norm(sigmoid(RAW), 0.8)
        np.testing.assert_allclose(ends, law.cdf(0) + law.sf(1), atol=0.04)

    def test_logistic_draws_occur_as_often_as_their_score_says(self):
        X = np.zeros((20, 1, 1))
        vae = with_fixed_law(make_vae(n_levels=5), X, [0.4], [0.2])
        drawn = vae.sample(5000, random_state=0)
        levels, counts = np.unique(drawn, return_counts=True)
        np.testing.assert_array_equal(levels, np.arange(5) / 4)
        p = np.exp(vae.score_samples(levels[:, None, None]))
        assert p.sum() == pytest.approx(1, abs=1e-5)
        assert (abs(counts - 5000 * p) < 5 * np.sqrt(5000 * p * (1 - p))).all()

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.bool_])
    def test_rows_of_integers_keep_to_the_range_of_their_dtype(self, dtype):
        """Standardised rows have no bounds of their own; what goes beyond does not wrap around."""
        low, high = 0, 1
        if dtype is not np.bool_:
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        X = np.array([[low, high], [low, high - 1]] * 10).astype(dtype)
        drawn = make_vae().fit(X).sample(300, random_state=0)
        assert drawn.dtype == dtype
        assert (drawn[:, 0].astype(int) < low + 20).all()
        assert (drawn[:, 1].astype(int) > high - 20).all()

    def test_white_is_in_the_range(self):
        """-0.1 + (0.2 - -0.1) is more than 0.2, and the model would refuse its own samples."""
        X = np.full((20, 4, 4), 0.2)
        vae = make_vae(likelihood="bernoulli", value_range=(-0.1, 0.2)).fit(X)
        drawn = vae.sample(20, random_state=0)
        assert set(np.unique(drawn)) == {-0.1, 0.2}
        assert np.isfinite(vae.score_samples(drawn)).all()
