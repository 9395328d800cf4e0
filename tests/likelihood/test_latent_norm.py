"""LatentNorm: its statistics against the chi-squared distribution, and where latents come from."""

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp, xlogy
from scipy.stats import chi2, multivariate_normal
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skood import VAE, Autoencoder, HierarchicalVAE, LatentNorm, NeuralSplineFlow
from skood.likelihood._latent_norm import log_p_value


@pytest.fixture(scope="module")
def Z():
    """Standard normal rows, and some nearer to the origin and farther from it, (300, 5)."""
    Z = np.random.default_rng(0).normal(size=(300, 5))
    Z[250:275] *= 0.1
    Z[275:] *= 5
    return Z


def detector(Z, statistic):
    """Fitted on rows that are latents themselves."""
    return LatentNorm(FunctionTransformer(), statistic=statistic).fit(Z)


def test_norm_and_annulus(Z):
    norms = np.sqrt((Z**2).sum(1))
    np.testing.assert_allclose(detector(Z, "norm").score_samples(Z), -norms)
    annulus = detector(Z, "annulus").score_samples(Z)
    np.testing.assert_allclose(annulus, -np.abs(norms - np.sqrt(5)))


def test_p_value(Z):
    scores = detector(Z, "pvalue").score_samples(Z)
    law = chi2(5)
    squares = (Z**2).sum(1)
    expected = 2 * np.minimum(law.cdf(squares), law.sf(squares))
    np.testing.assert_allclose(np.exp(scores), expected, rtol=1e-9)
    # p-values of what they are made for are uniform.
    p = np.sort(np.exp(scores[:250]))
    assert np.abs(p - (np.arange(250) + 0.5) / 250).max() < 1.36 / np.sqrt(250)
    assert np.median(scores[250:]) < np.log(1e-3)


def test_shell(Z):
    """The density of latents times the area of the sphere through them."""
    scores = detector(Z, "shell").score_samples(Z)
    norms = np.sqrt((Z**2).sum(1))
    area = 8 / 3 * np.pi**2 * norms**4
    expected = multivariate_normal(np.zeros(5)).logpdf(Z) + np.log(area)
    np.testing.assert_allclose(scores, expected)
    # A density of norms: d/dr F(r^2).
    step = 1e-4
    slope = (chi2(5).cdf((norms + step) ** 2) - chi2(5).cdf((norms - step) ** 2)) / (2 * step)
    np.testing.assert_allclose(np.exp(scores), slope, atol=1e-6)


def test_all_but_the_norm_reject_both_sides():
    Z = np.random.default_rng(1).normal(size=(200, 50))
    near, far = 0.1 * Z[:9], 3 * Z[:9]
    for statistic in ("pvalue", "shell", "annulus"):
        fitted = detector(Z, statistic)
        assert (fitted.predict(near) == -1).all()
        assert (fitted.predict(far) == -1).all()
    fitted = detector(Z, "norm")
    assert (fitted.predict(near) == 1).all()
    assert (fitted.predict(far) == -1).all()


@pytest.mark.parametrize("n_latent", [2, 50, 784, 20_000])
@pytest.mark.parametrize("part", [1e-6, 0.1, 0.5, 0.9, 1.1, 1.5, 10, 1e4])
def test_p_value_of_far_tails(n_latent, part):
    """For an even number, the chi-squared distribution is a sum of Poisson probabilities."""
    a, x = n_latent // 2, n_latent / 2 * part
    k = np.arange(4 * a + 100)
    terms = xlogy(k, x) - gammaln(k + 1) - x
    above = logsumexp(terms[:a])
    # Of x far above a, these are few of the terms of what is nearly 1.
    below = logsumexp(terms[a:]) if part < 2 else 0.0
    expected = np.log(2) + min(above, below)
    value = log_p_value(np.array([np.sqrt(2 * x)]), n_latent)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)


def test_p_values_fall_with_the_distance_from_the_median():
    norms = np.sqrt(np.linspace(0, 5000, 4001))
    values = log_p_value(norms, 784)
    assert values.max() == pytest.approx(0, abs=0.05)
    assert values[0] == -np.inf
    middle = values.argmax()
    assert (np.diff(values[: middle + 1]) > 0).all()
    assert (np.diff(values[middle:]) < 0).all()
    assert np.isfinite(log_p_value(np.array([1e3, 1e150, 1e300]), 3)).all()


@pytest.mark.parametrize(
    "latents",
    [
        NeuralSplineFlow(1, 4, (8,), max_epochs=2, random_state=0),
        VAE(2, hidden_features=(4,), max_steps=5, random_state=0),
        make_pipeline(
            Autoencoder(2, hidden_features=(4,), max_steps=5, random_state=0), PCA(whiten=True)
        ),
        PCA(2, whiten=True),
    ],
    ids=lambda latents: type(latents).__name__,
)
def test_latents_of_transformers(Z, latents):
    fitted = LatentNorm(latents, statistic="norm").fit(Z)
    expected = -np.linalg.norm(fitted.latents_.transform(Z), axis=1)
    np.testing.assert_allclose(fitted.score_samples(Z), expected)
    assert fitted.offset_ == pytest.approx(np.percentile(expected, 5))


def test_whitened_rows_are_at_the_mahalanobis_distance(Z):
    mixed = Z @ np.random.default_rng(0).normal(size=(5, 5)) + 3
    scores = LatentNorm(PCA(whiten=True), statistic="norm").fit(mixed).score_samples(mixed)
    centered = mixed - mixed.mean(0)
    squares = np.einsum("ij,jk,ik->i", centered, np.linalg.inv(np.cov(mixed.T)), centered)
    np.testing.assert_allclose(scores, -np.sqrt(squares))


def test_images(of_digits, digits):
    frozen = LatentNorm(FrozenEstimator(of_digits)).fit(digits[:64])
    norms = np.linalg.norm(of_digits.encode(digits[:5]), axis=1)
    np.testing.assert_allclose(frozen.score_samples(digits[:5]), log_p_value(norms, 64))


def rows_of(mean, deviations, n_rows=200):
    """Normal rows, of these means and standard deviations exactly."""
    rows = np.random.default_rng(0).normal(size=(n_rows, len(deviations)))
    return mean + deviations * (rows - rows.mean(0)) / rows.std(0)


@pytest.mark.parametrize(
    ("mean", "deviations", "is_refused"),
    [
        (0.0, np.array([1.0, 1.0, 1.0]), False),
        # A trained model is not exact.
        (0.45, np.array([0.4, 1.0, 1.4]), False),
        (0.0, np.array([0.1, 1.0, 1.0]), False),
        # Limits of 200 rows: 0.5 + 0.14, and 2 or 1/2 times 1.2.
        (0.63, np.array([1.0, 1.0, 1.0]), False),
        (0.66, np.array([1.0, 1.0, 1.0]), True),
        (0.0, np.array([1.0, 1.0, 2.39]), False),
        (0.0, np.array([1.0, 1.0, 2.41]), True),
        (0.0, np.array([0.42, 0.42, 0.42]), False),
        (0.0, np.array([0.41, 0.41, 0.41]), True),
    ],
)
def test_only_latents_near_standard_normal_are_taken(mean, deviations, is_refused):
    rows = rows_of(mean, deviations)
    identity = LatentNorm(FunctionTransformer(), threshold_fraction=0)
    if not is_refused:
        identity.fit(rows)
        return
    with pytest.raises(ValueError, match=r"are not standard normal: in 200 training rows their"):
        identity.fit(rows)


def test_limits_are_wider_for_few_rows():
    """Twenty standard normal rows are taken, whatever the draw."""
    for seed in range(50):
        rows = np.random.default_rng(seed).normal(size=(20, 8))
        LatentNorm(FunctionTransformer(), threshold_fraction=0).fit(rows)


@pytest.mark.parametrize("latents", [PCA(), PCA(2), FunctionTransformer()])
def test_latents_without_a_law_are_refused(latents):
    rows = 5 * np.random.default_rng(0).normal(size=(200, 3)) + [0, 0, 20]
    with pytest.raises(ValueError, match=r"not standard normal.*means are .*PCA\(whiten=True\)"):
        LatentNorm(latents).fit(rows)
    LatentNorm(make_pipeline(latents, PCA(whiten=True))).fit(rows)


def test_whitened_directions_without_variance_are_refused():
    """Whitening divides rounding errors by rounding errors."""
    rows = np.random.default_rng(0).normal(size=(200, 3)) @ np.eye(3, 6)
    rows[0, 5] = 1e-30
    latents = PCA(whiten=True).fit(rows)
    latents.explained_variance_[3:] = 1e-40
    latents.components_[3:] = latents.components_[0]
    with pytest.raises(ValueError, match="of few components as latents"):
        LatentNorm(FrozenEstimator(latents)).fit(rows)


def test_flows_and_vaes_are_taken_as_they_are():
    """Their training makes latents standard normal, as far as it gets."""
    rows = np.random.default_rng(0).normal(size=(100, 3))
    vae = VAE(4, hidden_features=(4,), max_steps=5, random_state=0).fit(rows)
    assert np.sqrt(np.square(vae.transform(rows)).mean()) < 0.4
    LatentNorm(FrozenEstimator(vae)).fit(rows)
    flow = NeuralSplineFlow(1, 4, (8,), max_epochs=1, random_state=0).fit(rows)
    LatentNorm(FrozenEstimator(flow)).fit(3 * rows)
    layered = HierarchicalVAE((4, 4), hidden_features=(8,), max_steps=5, random_state=0)
    with pytest.raises(ValueError, match=r"(?s)HierarchicalVAE.*are not standard normal"):
        LatentNorm(layered).fit(rows)


def test_errors(Z):
    with pytest.raises(ValueError, match="'statistic' parameter"):
        LatentNorm(PCA(), statistic="volume").fit(Z)
    with pytest.raises(ValueError, match="'latents' parameter"):
        LatentNorm(KernelDensity()).fit(Z)
