"""VAE: bounds, statistics, latents and samples against a linear Gaussian law."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from sklearn.decomposition import FactorAnalysis
from tiny_models import make_vae, set_scale


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
        """The gap of the elbo is KL(q || p(z | x)); the gap of the importance bound shrinks."""
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
        # Without the noise, rows differ by the draws of their latents alone.
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

    def test_classes_occur_as_in_training(self):
        law = LinearGaussian(n_classes=3)
        law.means = np.arange(3)[:, None] * 100 * law.sigma
        law.X = law.means[law.members] + np.random.default_rng(0).normal(size=law.X.shape)
        drawn = law.vae(law.members).sample(2000, random_state=0)
        nearest = abs(drawn[:, None] - law.means).sum(2).argmin(1)
        np.testing.assert_allclose(np.bincount(nearest) / 2000, law.prior, atol=0.05)
