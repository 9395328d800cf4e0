"""VAE: the bounds against closed forms, the loss, what is learned, latents and samples."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, xlogy
from scipy.stats import logistic, multivariate_normal, norm
from sklearn.decomposition import FactorAnalysis
from torch import distributions, nn

from skood.density import VAE
from skood.density._vae import _normal_points


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
        for n in (2, 16, 4096):
            scores = vae.set_params(n_importance_samples=n).score_samples(law.X[:32])
            assert (elbo[:32] + 0.1 * divergence < scores).mean() > (0.4 if n == 2 else 0.9)
            errors.append(abs(scores - exact[:32]).max())
        assert errors[0] > 2 * errors[1] > 4 * errors[2]
        assert errors[2] < 2e-2

    def test_conditional_scores_are_those_of_the_mixture(self):
        law = LinearGaussian(n_classes=3)
        labels = np.array(["cat", "dog", "eel"])[law.members]
        vae = law.vae(labels)
        assert vae.classes_.tolist() == ["cat", "dog", "eel"]
        np.testing.assert_allclose(np.exp(vae.class_log_prior_), law.prior)
        expected = logsumexp(law.log_density(law.X) + np.log(law.prior), axis=1)
        np.testing.assert_allclose(vae.score_samples(law.X), expected, atol=2e-4)

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
        X = {"uint8": np.uint8, "float32": np.float32, "rows": float}[form](X)
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
        n_importance_samples=512,
    ).fit(X, np.arange(80) % 3)
    assert np.exp(vae.score_samples(every)).sum() == pytest.approx(1, abs=0.01)
    # The model is no constant: images of one level are what it has learned.
    assert np.ptp(vae.score_samples(every)) > 1


def test_score_is_the_integral_over_the_latents(images):
    """Trapezoids over the one latent, of the law that `inverse_transform` gives."""
    vae = make_vae(n_latent=1, likelihood="gaussian", max_steps=60, n_importance_samples=512)
    vae.fit(images)
    z = np.linspace(-7, 7, 2001)
    location = vae.inverse_transform(z[:, None])
    scale = 255 * vae.module_.scale().detach().numpy()
    by_pixel = norm(location[None], scale).logpdf(images[:8, None, None])
    terms = by_pixel.sum((2, 3, 4)) + norm.logpdf(z) + np.log(z[1] - z[0])
    np.testing.assert_allclose(vae.score_samples(images[:8]), logsumexp(terms, 1), atol=0.02)


class TestLoss:
    def data(self, form):
        X = np.random.default_rng(0).random((24, 6) if form == "rows" else (24, 3, 5, 4))
        return X, np.arange(24) % 3

    @pytest.mark.parametrize("form", ["rows", "images"])
    @pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
    @pytest.mark.parametrize("conditional", [False, True])
    def test_is_the_negative_elbo_of_one_draw(self, form, likelihood, conditional):
        X, y = self.data(form)
        settings = {"likelihood": likelihood, "conditional": conditional, "value_range": (0, 1)}
        vae = make_vae(**settings).fit(X, y)
        module, x = vae.module_.train(), torch.as_tensor(X, dtype=torch.float32)
        condition = torch.as_tensor(y) if conditional else None
        one_hot = torch.eye(3)[condition] if conditional else None
        with torch.random.fork_rng():
            torch.manual_seed(7)
            found = vae._log_prob(module, x, condition)
            torch.manual_seed(7)
            noise = torch.randn(24, 2)
        mean, log_variance = module.encode(x, one_hot)
        q = distributions.Normal(mean, (log_variance / 2).exp())
        raw = module.decode(q.loc + q.scale * noise, one_hot)
        if likelihood == "bernoulli":
            terms = -nn.functional.binary_cross_entropy(raw.sigmoid(), x, reduction="none")
        else:
            terms = distributions.Normal(raw.sigmoid(), module.scale()).log_prob(x)
        kl = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).sum(1)
        torch.testing.assert_close(
            found.float(), terms.flatten(1).sum(1) - kl, rtol=1e-4, atol=1e-4
        )
        assert found.std() > 1e-3

    @pytest.mark.parametrize("form", ["rows", "images"])
    @pytest.mark.parametrize("conditional", [False, True])
    def test_history_starts_at_the_elbo_of_the_untrained_model(self, form, conditional):
        X, y = self.data(form)
        settings = {"learning_rate": 1e-12, "max_steps": 1, "batch_size": 24, "value_range": (0, 1)}
        vae = make_vae(**settings, conditional=conditional, validation_fraction=0).fit(X, y)
        x, numbers = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(y)
        vae.set_params(bound="elbo", n_importance_samples=256)
        with torch.no_grad():
            elbo = vae._bound(vae.module_, x, numbers if conditional else None).mean()
        # One draw of z for each item.
        assert vae.history_["loss"][0] == pytest.approx(-float(elbo), abs=0.3)
        assert list(vae.history_) == ["loss"]

    def test_validation_loss_is_the_elbo_of_what_was_held_out(self):
        X = np.repeat(self.data("images")[0][:1], 20, axis=0)
        vae = make_vae(validation_fraction=0.5, bound="elbo", n_importance_samples=10).fit(X)
        assert len(vae.history_["validation_loss"]) == 3
        best = min(vae.history_["validation_loss"])
        assert best == pytest.approx(-vae.score(X), rel=1e-6)

    @pytest.mark.parametrize("form", ["rows", "images"])
    def test_sample_latents_false_trains_on_the_mean(self, form):
        X, _ = self.data(form)
        drawn, mean = (make_vae(sample_latents=s, value_range=(0, 1)).fit(X) for s in (True, False))
        x = torch.as_tensor(X, dtype=torch.float32)
        losses = {}
        for vae in (drawn, mean):
            module = vae.module_.train()
            with torch.random.fork_rng():
                losses[vae] = [vae._log_prob(module, x, None).detach() for _ in range(2)]
        assert (losses[drawn][0] != losses[drawn][1]).all()
        assert torch.equal(*losses[mean])
        with torch.no_grad():
            z, log_variance = mean.module_.encode(x, None)
            log_likelihood = mean._log_likelihood(mean.module_, x, mean.module_.decode(z, None))
        divergence = 0.5 * (z.square() + log_variance.exp() - 1 - log_variance).sum(1)
        torch.testing.assert_close(losses[mean][0], log_likelihood - divergence, rtol=1e-5, atol=0)
        # A score is a bound all the same, from draws.
        few = mean.set_params(n_importance_samples=1).score_samples(X)
        assert (mean.set_params(n_importance_samples=64).score_samples(X) != few).all()

    def test_reg_weight_adds_the_squared_kernels_once_a_step(self):
        for form, n_kernels in [("rows", 4), ("images", 6)]:
            X, y = self.data(form)
            plain, penalised = (
                make_vae(
                    reg_weight=w, learning_rate=1e-12, max_steps=1, conditional=True,
                    n_filters=(3,), value_range=(0, 1), likelihood="gaussian",
                ).fit(X, y)
                for w in (0.0, 2.5)
            )  # fmt: skip
            kernels = {k: v for k, v in penalised.module_.state_dict().items() if "weight" in k}
            assert len(kernels) == n_kernels + (form == "images")
            squares = sum(float(v.double().square().sum()) for v in kernels.values())
            added = penalised.history_["loss"][0] - plain.history_["loss"][0]
            assert added == pytest.approx(2.5 * squares, rel=1e-4)


VARIANTS = {
    "rows": ((30, 6), {}),
    "rows of levels": ((30, 6), {"likelihood": "logistic", "value_range": (0, 1)}),
    "grey": ((30, 8, 6), {"likelihood": "bernoulli", "n_filters": (3, 4)}),
    "colour": ((30, 3, 7, 5), {"n_filters": (3, 4)}),
    "conditional": ((30, 3, 7, 5), {"conditional": True, "likelihood": "gaussian"}),
    "no convolutions": ((30, 4, 3), {"n_filters": (), "hidden_features": (8,)}),
    "no hidden layers": ((30, 4, 3), {"hidden_features": ()}),
    "conditional rows": ((30, 6), {"conditional": True, "hidden_features": (7, 5)}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def data_of(variant):
    shape, settings = VARIANTS[variant]
    return np.random.default_rng(0).random(shape), np.arange(30) % 3, settings


@every_variant
def test_training_moves_every_parameter(variant):
    X, y, settings = data_of(variant)
    settings = {**settings, "max_steps": 5, "validation_fraction": 0, "learning_rate": 1e-2}
    trained = make_vae(**settings).fit(X, y).module_
    untrained = make_vae(**{**settings, "learning_rate": 1e-12}).fit(X, y).module_
    before = dict(untrained.named_parameters())
    assert ("raw_scale" in before) == (settings.get("likelihood") != "bernoulli")
    for name, parameter in trained.named_parameters():
        assert (parameter - before[name]).abs().max() > 1e-3, name


@every_variant
def test_loss_falls(variant):
    X, y, settings = data_of(variant)
    # Every other item is the first one, which a model can learn.
    X[::2] = X[0]
    vae = make_vae(**settings, max_steps=None, max_epochs=40, validation_fraction=0).fit(X, y)
    losses = np.array(vae.history_["loss"])
    assert losses[-5:].mean() < losses[:5].mean() - 0.5


@every_variant
@both_bounds
def test_score_belongs_to_the_item(variant, bound):
    """Bitwise the same in any batch and order, and every time."""
    X, y, settings = data_of(variant)
    X = np.concatenate([X, X[::-1] ** 2])
    vae = make_vae(**settings, bound=bound, n_importance_samples=8).fit(X, np.tile(y, 2))
    scores, latents = vae.score_samples(X), vae.transform(X)
    assert scores.dtype == np.float64
    assert scores.shape == (60,)
    assert vae.score(X) == scores.mean()
    np.testing.assert_array_equal(vae.score_samples(X), scores)
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_array_equal(vae.score_samples(X[order]), scores[order])
    np.testing.assert_array_equal(vae.transform(X[order]), latents[order])
    parts = [vae.score_samples(X[i : i + 33]) for i in range(0, 60, 33)]
    np.testing.assert_array_equal(np.concatenate(parts), scores)
    for i in (0, 31, 59):
        np.testing.assert_array_equal(vae.score_samples(X[i : i + 1]), scores[i : i + 1])
        labels = np.tile(y, 2)[i : i + 1]
        np.testing.assert_array_equal(
            vae.transform(X[i : i + 1], labels), vae.transform(X, np.tile(y, 2))[i : i + 1]
        )


@pytest.mark.parametrize(("n_points", "n_dimensions"), [(64, 8), (1024, 2), (4096, 1)])
def test_points_are_spread_evenly_over_a_standard_normal_law(n_points, n_dimensions):
    points = _normal_points(n_points, n_dimensions).double().numpy()
    assert points.shape == (n_points, n_dimensions)
    cells = np.sort(np.floor(norm.cdf(points) * n_points * (1 - 1e-9)), axis=0)
    # Each of n_points equally probable intervals holds one point, up to float32's rounding.
    assert (cells == np.arange(n_points)[:, None]).mean() > 0.98
    np.testing.assert_allclose(points.mean(0), 0, atol=1 / n_points)
    np.testing.assert_allclose((points**2).mean(0), 1, atol=8 / n_points)
    if n_dimensions > 1:
        correlation = np.corrcoef(points.T) - np.eye(n_dimensions)
        assert abs(correlation).max() < 2 / np.sqrt(n_points)


def test_one_point():
    assert torch.isfinite(_normal_points(1, 3)).all()
    assert torch.equal(_normal_points(7, 3), _normal_points.__wrapped__(7, 3))


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

    @every_variant
    def test_are_decided_by_random_state(self, variant):
        X, y, settings = data_of(variant)
        vae = make_vae(**settings).fit(X, y)
        drawn = vae.sample(3, random_state=0)
        assert drawn.shape == (3, *vae.input_shape_)
        np.testing.assert_array_equal(vae.sample(3, random_state=0), drawn)
        assert (vae.sample(3, random_state=1) != drawn).any()
        assert (vae.sample(3) != vae.sample(3)).any()
        assert vae.sample().shape == (1, *vae.input_shape_)

    def test_many_are_drawn_in_parts_that_differ(self):
        vae = make_vae().fit(np.random.default_rng(0).random((20, 3)))
        drawn = vae.sample(2500, random_state=0)
        assert drawn.shape == (2500, 3)
        assert len(np.unique(drawn, axis=0)) == 2500

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16])
    def test_rows_of_integers_keep_to_the_range_of_their_dtype(self, dtype):
        """Standardised rows have no bounds of their own; what goes beyond does not wrap around."""
        info = np.iinfo(dtype)
        X = np.array([[info.min, info.max], [info.min + 1, info.max - 1]] * 10, dtype=dtype)
        drawn = make_vae().fit(X).sample(300, random_state=0)
        assert drawn.dtype == dtype
        assert (drawn[:, 0] < info.min + 20).all()
        assert (drawn[:, 1] > info.max - 20).all()
