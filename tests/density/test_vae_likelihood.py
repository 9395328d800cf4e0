"""VAE: bounds, likelihoods, latents and samples, against closed forms."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, xlogy
from scipy.stats import logistic, multivariate_normal, norm
from sklearn.decomposition import FactorAnalysis

from skood.density import VAE
from skood.density._evidence import normal_points


def make_vae(**kwargs):
    settings = {
        "n_latent": 2,
        "n_filters": (3,),
        "hidden_features": (6,),
        "max_steps": 3,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "random_state": 0,
    }
    return VAE(**{**settings, **kwargs})


def inverse_softplus(y):
    return np.log(np.expm1(y))


def set_scale(vae, scale):
    """Give the likelihood this scale, in the units of the network."""
    raw = torch.as_tensor(inverse_softplus(np.asarray(scale) - 1e-3) / 10, dtype=torch.float32)
    with torch.no_grad():
        vae.module_.raw_scale.copy_(raw.reshape(-1, *[1] * (vae.module_.raw_scale.ndim - 1)))


class LinearGaussian:
    """Law of rows, p(x | y) = N(means[y], W W' + diag(sigma^2)), and a VAE that states it.

    The columns of W are orthogonal in the metric of 1 / sigma^2, so that the posterior of z has
    a diagonal covariance, and the encoder can be exact.
    """

    def __init__(self, n_classes=1, seed=0):
        rng = np.random.default_rng(seed)
        self.sigma = rng.uniform(0.3, 2, size=5) * [1, 10, 0.1, 1, 1]
        axes = np.linalg.qr(rng.normal(size=(5, 2)))[0] * [1.5, 0.8]
        self.W = self.sigma[:, None] * axes
        self.means = rng.normal(size=(n_classes, 5)) * 2 * self.sigma + [100, 0, 0, -5, 1]
        self.prior = np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum()
        self.members = np.repeat(np.arange(n_classes), 60 * np.arange(1, n_classes + 1))
        self.cov = self.W @ self.W.T + np.diag(self.sigma**2)
        self.X = rng.multivariate_normal(np.zeros(5), self.cov, size=len(self.members))
        self.X += self.means[self.members]

    def log_density(self, X):
        """Log p(x | y) for each class, shape (n, n_classes)."""
        return np.stack([multivariate_normal(m, self.cov).logpdf(X) for m in self.means], 1)

    def posterior(self, X, members):
        """Mean and variance of p(z | x, y)."""
        back = self.W.T / self.sigma**2
        variance = 1 / (1 + np.diag(back @ self.W))
        return (X - self.means[members]) @ back.T * variance, variance

    def vae(self, labels=None, *, shift=0.0, widen=1.0, **settings):
        """VAE with these weights; its q(z | x) has a mean off by `shift`, a variance by `widen`."""
        conditional = labels is not None
        vae = make_vae(hidden_features=(), conditional=conditional, max_steps=1, **settings)
        vae.fit(self.X, labels)
        means = (self.means - vae.mean_) / vae.scale_
        W, sigma = self.W / vae.scale_[:, None], self.sigma / vae.scale_
        back = W.T / sigma**2
        variance = 1 / (1 + np.diag(back @ W))
        back = back * variance[:, None]
        none = np.zeros_like(back)
        weights = {
            "encoder.0.weight": np.concatenate([back, none]),
            "decoder.0.weight": W,
            "encoder.0.bias": np.concatenate(
                [shift - back @ means[0], np.log(widen * variance)],
            ),
            "decoder.0.bias": means[0],
        }
        if conditional:
            moved = means - means[0]
            seen = np.concatenate([-back @ moved.T, np.zeros((2, len(means)))])
            weights["encoder.0.weight"] = np.c_[weights["encoder.0.weight"], seen]
            weights["decoder.0.weight"] = np.c_[W, moved.T]
        state = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in weights.items()}
        vae.module_.load_state_dict({**vae.module_.state_dict(), **state})
        set_scale(vae, sigma)
        return vae


class TestLinearGaussian:
    """A VAE without hidden layers is factor analysis, whose density is known."""

    @pytest.mark.parametrize("n_importance_samples", [1, 3, 64])
    def test_importance_bound_is_exact_with_the_exact_posterior(self, n_importance_samples):
        law = LinearGaussian()
        vae = law.vae(n_importance_samples=n_importance_samples)
        scores = vae.score_samples(law.X)
        np.testing.assert_allclose(scores, law.log_density(law.X)[:, 0], atol=1e-4)

    def test_elbo_is_exact_with_the_exact_posterior(self):
        law = LinearGaussian()
        vae = law.vae(bound="elbo", n_importance_samples=1024)
        scores = vae.score_samples(law.X)
        np.testing.assert_allclose(scores, law.log_density(law.X)[:, 0], atol=1e-2)

    @pytest.mark.parametrize(("shift", "widen"), [(0.5, 1.0), (0.0, 2.0), (-0.3, 0.5)])
    def test_bounds_with_a_wrong_encoder(self, shift, widen):
        """The elbo falls short by KL(q || p(z | x)), the importance bound by less and less."""
        law = LinearGaussian()
        exact = law.log_density(law.X)[:, 0]
        variance = law.posterior(law.X, 0)[1]
        divergence = 0.5 * (widen + shift**2 / variance - 1 - np.log(widen)).sum()
        vae = law.vae(shift=shift, widen=widen)
        elbo = vae.set_params(bound="elbo", n_importance_samples=1024).score_samples(law.X)
        np.testing.assert_allclose(elbo, exact - divergence, atol=2e-2)
        vae.set_params(bound="importance")
        errors = []
        for n in (64, 4096):
            scores = vae.set_params(n_importance_samples=n).score_samples(law.X[:32])
            assert (scores > elbo[:32] + 0.8 * divergence).all()
            errors.append(abs(scores - exact[:32]).max())
        assert errors[0] > 2 * errors[1]
        assert errors[1] < 5e-3

    def test_conditional_scores_are_those_of_the_mixture(self):
        law = LinearGaussian(n_classes=3)
        labels = np.array(["cat", "dog", "eel"])[law.members]
        vae = law.vae(labels)
        assert vae.classes_.tolist() == ["cat", "dog", "eel"]
        np.testing.assert_allclose(np.exp(vae.class_log_prior_), law.prior)
        expected = logsumexp(law.log_density(law.X) + np.log(law.prior), axis=1)
        np.testing.assert_allclose(vae.score_samples(law.X), expected, atol=2e-4)

    @pytest.mark.parametrize(("shift", "widen"), [(0.0, 1.0), (0.5, 2.0)])
    def test_statistics(self, shift, widen):
        law = LinearGaussian()
        vae = law.vae(shift=shift, widen=widen, n_importance_samples=1024)
        statistics = dict(zip(vae.statistics_names, vae.score_statistics(law.X).T, strict=True))
        mean, variance = law.posterior(law.X, 0)
        mean, variance = mean + shift, widen * variance
        log_p = law.log_density(law.X)[:, 0]
        np.testing.assert_allclose(statistics["log_prob"], log_p, atol=2e-2)
        np.testing.assert_array_equal(statistics["log_prob"], vae.score_samples(law.X))
        entropy = norm(0, np.sqrt(variance)).entropy().sum()
        np.testing.assert_allclose(statistics["entropy"], entropy, rtol=1e-5)
        # E log N(z; 0, 1) = log N(mean; 0, 1) - variance / 2.
        cross_entropy = variance.sum() / 2 - norm.logpdf(mean).sum(1)
        np.testing.assert_allclose(statistics["cross_entropy"], cross_entropy, rtol=1e-5)
        np.testing.assert_allclose(statistics["divergence"], cross_entropy - entropy, atol=1e-4)
        residual = (law.X - law.means[0] - mean @ law.W.T) / law.sigma
        spread = (variance * (law.W / law.sigma[:, None]) ** 2).sum() / 2
        expected = norm.logpdf(residual).sum(1) - np.log(law.sigma).sum() - spread
        np.testing.assert_allclose(statistics["log_likelihood"], expected, atol=2e-2)
        # Whatever `score_samples` returns.
        vae.set_params(bound="elbo")
        np.testing.assert_array_equal(vae.score_statistics(law.X)[:, 0], statistics["log_prob"])
        elbo = statistics["log_likelihood"] - statistics["divergence"]
        np.testing.assert_allclose(vae.score_samples(law.X), elbo, rtol=1e-6)

    def test_statistics_of_a_conditional_model(self):
        law = LinearGaussian(n_classes=3)
        vae = law.vae(law.members)
        statistics = dict(zip(vae.statistics_names, vae.score_statistics(law.X).T, strict=True))
        np.testing.assert_array_equal(statistics["log_prob"], vae.score_samples(law.X))
        joint = law.log_density(law.X) + np.log(law.prior)
        weights = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        given = []
        for k in range(3):
            mean, variance = law.posterior(law.X, k)
            given.append(0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(1))
        expected = (weights * np.stack(given, 1)).sum(1)
        np.testing.assert_allclose(statistics["divergence"], expected, atol=2e-3)

    @pytest.mark.parametrize("n_classes", [1, 3])
    def test_gradient(self, n_classes):
        law = LinearGaussian(n_classes)
        vae = law.vae(None if n_classes == 1 else law.members, n_importance_samples=16)
        joint = law.log_density(law.X) + np.log(law.prior)
        weights = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        away = law.X - weights @ law.means
        expected = -np.linalg.solve(law.cov, away.T).T * vae.scale_
        gradient = vae.log_density_gradient(law.X)
        assert gradient.dtype == np.float64
        np.testing.assert_allclose(gradient, expected, atol=2e-3)
        np.testing.assert_array_equal(vae.log_density_gradient(law.X[3:9]), gradient[3:9])

    @pytest.mark.parametrize("n_classes", [1, 3])
    def test_latents_are_the_posterior_mean(self, n_classes):
        law = LinearGaussian(n_classes)
        labels = None if n_classes == 1 else np.array(["cat", "dog", "eel"])[law.members]
        vae = law.vae(labels)
        mean = law.posterior(law.X, law.members)[0]
        latents = vae.transform(law.X, labels)
        assert latents.dtype == np.float64
        np.testing.assert_allclose(latents, mean, atol=1e-5)
        decoded = law.means[law.members] + mean @ law.W.T
        np.testing.assert_allclose(vae.reconstruct(law.X, labels), decoded, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(
            vae.inverse_transform(latents, labels), vae.reconstruct(law.X, labels)
        )

    def test_most_probable_class_stands_in_for_labels(self):
        law = LinearGaussian(n_classes=3)
        labels = np.array(["cat", "dog", "eel"])[law.members]
        vae = law.vae(labels)
        likely = (law.log_density(law.X) + np.log(law.prior)).argmax(1)
        assert 0.02 < (likely != law.members).mean() < 0.5
        latents = vae.transform(law.X)
        np.testing.assert_allclose(latents, law.posterior(law.X, likely)[0], atol=1e-5)
        np.testing.assert_array_equal(
            vae.reconstruct(law.X), vae.inverse_transform(latents, vae.classes_[likely])
        )

    def test_samples_have_the_moments_of_the_law(self):
        law = LinearGaussian(n_classes=2)
        drawn = law.vae(law.members).sample(20_000, random_state=0)
        mean = law.prior @ law.means
        between = (law.means - mean).T * law.prior @ (law.means - mean)
        cov = law.cov + between
        std = np.sqrt(np.diag(cov))
        np.testing.assert_allclose((drawn.mean(0) - mean) / std, 0, atol=5 / np.sqrt(20_000))
        np.testing.assert_allclose(
            (np.cov(drawn.T) - cov) / np.outer(std, std), 0, atol=8 / np.sqrt(20_000)
        )
        # And those of a draw of latents are all there is between rows, without the noise.
        Z = np.random.default_rng(0).normal(size=(20_000, 2))
        decoded = law.vae(law.members).inverse_transform(Z, np.ones(20_000, dtype=int))
        np.testing.assert_allclose(decoded, law.means[1] + Z @ law.W.T, rtol=1e-5, atol=1e-4)

    def test_training_finds_the_maximum_of_the_likelihood(self):
        """That of factor analysis, which scikit-learn finds by EM."""
        law = LinearGaussian(seed=3)
        X = np.random.default_rng(1).multivariate_normal(law.means[0], law.cov, size=400)
        best = FactorAnalysis(2, tol=1e-6, max_iter=2000).fit(X)
        vae = make_vae(
            hidden_features=(), max_steps=None, max_epochs=80, batch_size=50, validation_fraction=0
        ).fit(X)
        assert best.score(X) - 0.08 < vae.score(X) < best.score(X) + 1e-3
        assert vae.history_["loss"][-1] == pytest.approx(-vae.score(X), abs=0.15)
        assert vae.history_["loss"][0] > vae.history_["loss"][-1] + 0.5


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
    # The model is no constant: images of one level are what it has learned.
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

    def test_classes_occur_as_in_training(self):
        law = LinearGaussian(n_classes=3)
        law.means = np.arange(3)[:, None] * 100 * law.sigma
        law.X = law.means[law.members] + np.random.default_rng(0).normal(size=law.X.shape)
        drawn = law.vae(law.members).sample(2000, random_state=0)
        nearest = abs(drawn[:, None] - law.means).sum(2).argmin(1)
        np.testing.assert_allclose(np.bincount(nearest) / 2000, law.prior, atol=0.05)

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
