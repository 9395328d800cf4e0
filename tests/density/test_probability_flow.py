"""Likelihood, dimension and samples of a diffusion model, with scores that are known exactly."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from skood.density._denoiser import Denoiser, rademacher
from skood.density._noise_schedule import VarianceExploding, VariancePreserving, mean_and_std
from skood.density._probability_flow import (
    ancestral_sample,
    denoise,
    log_density,
    noise_and_trace,
)

SCHEDULE = VariancePreserving(0.1, 20.0)


@pytest.fixture(scope="module")
def mixture():
    """Gaussians on affine subspaces: the stored values, and the noise in items of their mixture."""
    stored = dict(np.load(Path(__file__).parent / "data" / "flipd.npz"))
    means = torch.from_numpy(stored["means"])
    covariances = torch.stack(
        [torch.from_numpy(stored[f"A{k}"] @ stored[f"A{k}"].T) for k in range(3)]
    )
    return stored, noise_of_mixture(torch.from_numpy(stored["weights"]), means, covariances)


def noise_of_mixture(weights, means, covariances):
    """Make the function that finds the noise in items of a Gaussian mixture, from its score."""
    eye = torch.eye(means.shape[1], dtype=means.dtype)

    def noise(x, log_ratio):
        psi, sigma = mean_and_std(log_ratio)
        precisions = torch.linalg.inv(psi**2 * covariances + sigma**2 * eye)
        apart = x[:, None] - psi * means
        pulled = torch.einsum("kde,bke->bkd", precisions, apart)
        log_joint = weights.log() + 0.5 * torch.linalg.slogdet(precisions).logabsdet
        log_joint = log_joint - 0.5 * (apart * pulled).sum(-1)
        return sigma * (log_joint.softmax(1)[:, :, None] * pulled).sum(1)

    return noise


def denoiser_of(noise, schedule=SCHEDULE):
    return Denoiser(noise, schedule, (-5.0, 5.0), log_density=None)


def test_schedule_of_the_variance_preserving_sde():
    t = torch.linspace(1e-4, 1, 50, dtype=torch.float64)
    b = 0.1 * t + 19.9 * t**2 / 2
    psi, sigma = mean_and_std(SCHEDULE.log_ratio(t))
    torch.testing.assert_close(psi, (-b / 2).exp(), rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma, (1 - (-b).exp()).sqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(SCHEDULE.time(SCHEDULE.log_ratio(t)), t, rtol=1e-9, atol=0)


def test_schedule_of_the_variance_exploding_sde():
    schedule = VarianceExploding(0.01, 50.0)
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    log_ratio = schedule.log_ratio(t)
    torch.testing.assert_close(log_ratio.exp(), 0.01 * 5000.0**t, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.time(log_ratio), t, rtol=0, atol=1e-12)
    denoiser = denoiser_of(None, schedule)
    torch.testing.assert_close(denoiser.std(log_ratio), log_ratio.exp())
    # The network reads noisy items of variance 1.
    x, noise = torch.tensor([[2.0]]), torch.tensor([-0.5])
    s = 0.01 * 5000**0.5
    expected = torch.tensor([[(2 - 0.5 * s) / (1 + s**2) ** 0.5]])
    torch.testing.assert_close(denoiser.noisy(x, 0.5, noise), expected)


@pytest.mark.parametrize("t", [0.1, 0.4])
def test_scores_and_dimensions_with_exploding_variance(mixture, t):
    """Against derivatives of the log-density of x + sigma epsilon, by autograd."""
    stored, noise = mixture
    sigma = 0.01 * 1000.0**t
    denoiser = denoiser_of(noise, VarianceExploding(0.01, 10.0))
    means, weights = torch.from_numpy(stored["means"]), torch.from_numpy(stored["weights"])
    covariances = [torch.from_numpy(stored[f"A{k}"] @ stored[f"A{k}"].T) for k in range(3)]
    blurred = torch.stack(covariances) + sigma**2 * torch.eye(means.shape[1])

    def log_prob(x):
        parts = torch.distributions.MultivariateNormal(means, blurred).log_prob(x)
        return (weights.log() + parts).logsumexp(0)

    x = torch.from_numpy(stored["x"][:6])
    score = torch.stack([torch.func.grad(log_prob)(row) for row in x])
    hessians = torch.stack([torch.func.hessian(log_prob)(row) for row in x])
    log_ratio = denoiser.log_ratio(t)
    torch.testing.assert_close(denoiser.score(x, log_ratio), score, rtol=1e-6, atol=1e-6)
    trace = torch.einsum("kdd->k", hessians)
    dimension = x.shape[1] + sigma**2 * (trace + score.square().sum(1))
    found = denoiser.dimension(x, log_ratio, None)
    torch.testing.assert_close(found, dimension, rtol=1e-6, atol=1e-6)


def test_scores_traces_and_dimensions_agree_with_the_reference(mixture):
    stored, noise = mixture
    beta_min, beta_max, t_max = stored["beta"]
    # Time runs from 0 to t_max in the reference.
    schedule = VariancePreserving(beta_min * t_max, beta_max * t_max)
    denoiser = denoiser_of(noise, schedule)
    x = torch.from_numpy(stored["x"])
    for k, t in enumerate(stored["t"]):
        log_ratio = denoiser.log_ratio(float(t / t_max))
        sigma = mean_and_std(log_ratio)[1]
        psi = mean_and_std(log_ratio)[0]
        np.testing.assert_allclose(
            denoiser.score(x, log_ratio), stored["score"][:, k], rtol=1e-7, atol=1e-6
        )
        trace = -noise_and_trace(noise, psi * x, log_ratio, None)[1] / sigma
        np.testing.assert_allclose(trace, stored["trace"][:, k], rtol=1e-7, atol=1e-6)
        np.testing.assert_allclose(
            denoiser.dimension(x, log_ratio, None), stored["flipd"][:, k], rtol=1e-7, atol=1e-6
        )


def test_dimension_of_a_subspace_is_its_own(mixture):
    stored, noise = mixture
    rng = np.random.default_rng(0)
    for k, n_dimensions in enumerate(stored["dims"]):
        x = stored["means"][k] + rng.normal(size=(50, n_dimensions)) @ stored[f"A{k}"].T
        found = denoiser_of(noise).dimension(torch.from_numpy(x), torch.tensor(-4.5).double(), None)
        assert float(found.median()) == pytest.approx(n_dimensions, abs=0.05)


@pytest.mark.parametrize(("n_steps", "tolerance"), [(20, 0.1), (100, 5e-4)])
def test_log_density_of_a_mixture(n_steps, tolerance):
    rng = np.random.default_rng(1)
    means, factors = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 4)) / 3
    covariances = factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(4)
    weights = np.array([0.2, 0.3, 0.5])
    # At time 1, a mean that is not 0 has a larger effect than a variance that is not 1.
    means -= weights @ means
    noise = noise_of_mixture(*map(torch.from_numpy, (weights, means, covariances)))
    parts = zip(means, covariances, strict=True)
    x = np.concatenate([multivariate_normal(m, c).rvs(5, rng) for m, c in parts])
    low, high = (float(SCHEDULE.log_ratio(torch.tensor(t))) for t in (1e-3, 1.0))
    found = log_density(noise, torch.from_numpy(x), (low, high), n_steps, None)
    blurred = covariances + math.exp(2 * low) * np.eye(4)
    parts = zip(means, blurred, strict=True)
    densities = [multivariate_normal(m, c).pdf(x) for m, c in parts]
    np.testing.assert_allclose(found, np.log(weights @ densities), atol=tolerance)


def test_probes_estimate_the_trace_without_bias(mixture):
    stored, noise = mixture
    x, log_ratio = torch.from_numpy(stored["x"][:8]), torch.tensor(-0.5).double()
    found, exact = noise_and_trace(noise, x, log_ratio, None)
    torch.testing.assert_close(found, noise(x, log_ratio))
    probes = rademacher((400, 1, 8)).double()
    products = torch.stack([noise_and_trace(noise, x, log_ratio, probe)[1] for probe in probes])
    error = products.std(0) / 400**0.5
    assert ((products.mean(0) - exact).abs() < 4 * error + 1e-9).all()
    together = noise_and_trace(noise, x, log_ratio, probes[:, 0])[1]
    torch.testing.assert_close(together, products.mean(0))


def test_trace_of_a_linear_map_by_signs_is_exact_on_the_diagonal():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    slopes = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.25])
    _, trace = noise_and_trace(lambda x, _: slopes * x, x, torch.tensor(0.0), rademacher((1, 5)))
    torch.testing.assert_close(trace, torch.full((3,), 2.75).double())


def test_denoising_draws_from_a_mixture():
    """The ODE takes standard normal points to a one-dimensional mixture by their quantiles."""
    weights, means = torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.0], [0.5]]).double()
    variances = torch.tensor([[[0.04]], [[0.01]]]).double()
    low, high = (float(SCHEDULE.log_ratio(torch.tensor(t))) for t in (1e-3, 1.0))
    z = torch.special.ndtri((torch.arange(1000).double() + 0.5) / 1000)[:, None]
    grid = torch.linspace(high, low, 101).double()
    x = denoise(noise_of_mixture(weights, means, variances), z, grid)[:, 0]
    assert bool((x.diff() > 0).all())
    assert float((x < -0.2).double().mean()) == pytest.approx(0.3, abs=2e-3)
    for of_part, mean, variance in ((x < -0.2, -1.0, 0.04), (x > -0.2, 0.5, 0.01)):
        assert float(x[of_part].mean()) == pytest.approx(mean, abs=0.01)
        assert float(x[of_part].var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("start", [-1.0, 0.5, 2.0])
def test_ancestral_samples_are_drawn_from_the_posterior(start):
    """Of a normal distribution: many places with one noisy value."""
    mean, variance, y = 0.3, 0.25, 1.2
    n = 8_000
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(400, n, generator=generator).double()

    def noise(x, log_ratio):
        psi, sigma = mean_and_std(log_ratio)
        return sigma * (x - psi * mean) / (psi**2 * variance + sigma**2)

    grid = torch.linspace(start, -5.0, 401).double()
    x = mean_and_std(grid[0])[0] * torch.full((1, n), y).double()
    found = ancestral_sample(noise, x, grid, draws)[0]
    kept = variance / (variance + math.exp(2 * start))
    assert float(found.mean()) == pytest.approx(mean + kept * (y - mean), abs=0.02)
    assert float(found.var()) == pytest.approx(variance * (1 - kept), rel=0.06)
