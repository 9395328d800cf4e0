"""Estimators of the local intrinsic dimension against reference values and dense linear algebra."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from scipy.stats import spearmanr

from skood.density._invertible import MatrixDerivative
from skood.likelihood._dimension import (
    ConvolutionDimension,
    LanczosDimension,
    Spectrum,
    ThresholdDimension,
    count_above,
    spectral_scales,
)
from skood.likelihood._dimension_scale import (
    scale_of_dimension,
    scale_of_percentile,
    scale_of_plateau,
)

# Jacobians of 9 latents, whose singular values are 2e-6 to 20, and 60-digit dimensions.
REFERENCE = dict(np.load(Path(__file__).parent / "data" / "dimension.npz"))
SCALES = list(enumerate(REFERENCE["r"]))
each_reference = pytest.mark.parametrize("kind", ["", "rect_"], ids=["square", "tall"])


def reference(kind):
    J, z = (torch.from_numpy(REFERENCE[f"{kind}{name}"]) for name in ("J", "z"))
    return MatrixDerivative(J), z


def random_case(n_values, n_items=6, rank=None, dtype=torch.float64):
    """Jacobians whose singular values go from 1 to exp(-6), latents, and the eigenvalues of J'J."""
    rng = np.random.default_rng(n_values)
    rank = rank or n_values
    singular = np.exp(-np.linspace(0, 6, n_values)) * (np.arange(n_values) < rank)
    bases = np.linalg.qr(rng.normal(size=(2, n_items, n_values, n_values)))[0]
    J = torch.from_numpy(bases[0] * singular @ bases[1]).to(dtype)
    return MatrixDerivative(J), torch.from_numpy(rng.normal(size=(n_items, n_values))), singular**2


def smooth_count(eigenvalues, r):
    return (eigenvalues / (eigenvalues + np.exp(2 * r))).sum(-1)


def random_signs(n_probes, n_values):
    return 2.0 * np.random.default_rng(0).integers(2, size=(n_probes, n_values)) - 1


def estimators(n_values):
    lanczos = LanczosDimension(random_signs(2, n_values), 8)
    return {"threshold": ThresholdDimension(), "convolution": ConvolutionDimension()} | {
        "lanczos": lanczos
    }


@pytest.mark.parametrize(("k", "r"), SCALES)
def test_threshold_counts_as_the_reference(k, r):
    estimator, expected = ThresholdDimension(), REFERENCE["lid_threshold"][:, k]
    derivative, z = reference("")
    np.testing.assert_array_equal(estimator.at(derivative, z, r), expected)
    spectrum = estimator.spectrum(derivative, z)
    np.testing.assert_array_equal(estimator.dimension(spectrum, r), expected)


@each_reference
@pytest.mark.parametrize(("k", "r"), SCALES)
def test_convolution_is_that_of_the_reference(kind, k, r):
    """The square of J has a condition number of 6e12, which shows at the smallest scale."""
    estimator, expected = ConvolutionDimension(), REFERENCE[f"{kind}lid_r"][:, k]
    derivative, z = reference(kind)
    atol = 1e-3 if r < -10 else 1e-6
    np.testing.assert_allclose(estimator.at(derivative, z, r), expected, rtol=0, atol=atol)
    of_spectrum = estimator.dimension(estimator.spectrum(derivative, z), r)
    np.testing.assert_allclose(of_spectrum, expected, rtol=0, atol=atol)


def test_convolution_is_the_slope_of_a_log_density():
    """Of the linearised flow with Gaussian noise, whose logarithm is differentiated by r."""
    derivative, z, _ = random_case(7)
    J = derivative.jacobian()

    def log_density(r):
        covariance = J @ J.mT + torch.exp(2 * r) * torch.eye(7, dtype=torch.float64)
        centred = (J @ z[:, :, None])[:, :, 0]
        zero = torch.zeros_like(centred)
        return torch.distributions.MultivariateNormal(centred, covariance).log_prob(zero)

    for r in (-5.0, -2.0, 0.5):
        slope = torch.func.jacfwd(log_density)(torch.tensor(r, dtype=torch.float64))
        expected = 7 + slope
        dimension = ConvolutionDimension().at(derivative, z, r)
        torch.testing.assert_close(dimension, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", ["threshold", "convolution", "lanczos"])
@pytest.mark.parametrize("n_values", [5, 64, 70])
def test_at_is_the_dimension_of_the_spectrum(name, n_values):
    derivative, z, _ = random_case(n_values, dtype=torch.float32)
    estimator = estimators(n_values)[name]
    spectrum = estimator.spectrum(derivative, z)
    for r in (-7.03, -3.03, -1.03, 1.03):
        at = estimator.at(derivative, z, r)
        assert (at.shape, at.dtype) == ((6,), torch.float64)
        torch.testing.assert_close(estimator.dimension(spectrum, r), at, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["threshold", "convolution", "lanczos"])
def test_dimension_falls_from_all_to_none(name):
    derivative, z, _ = random_case(24, dtype=torch.float32)
    estimator = estimators(24)[name]
    spectrum = estimator.spectrum(derivative, z)
    if name == "convolution":
        # The expected squares of latents.
        spectrum = spectrum._replace(weights=torch.ones_like(spectrum.weights))
    curve = torch.stack([estimator.dimension(spectrum, r) for r in np.linspace(-16, 10, 60)])
    assert (curve.diff(dim=0) <= 1e-12).all()
    torch.testing.assert_close(curve[0], torch.full((6,), 24.0).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(curve[-1], torch.zeros(6).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 130, 200])
@pytest.mark.parametrize("value", [-1.3, 0.0, 1e-3, 5.0, 1e3])
def test_count_above_is_that_of_the_eigenvalues(n, value):
    a = torch.from_numpy(np.random.default_rng(n).normal(size=(5, n, n)))
    symmetric = a + a.mT
    expected = (torch.linalg.eigvalsh(symmetric) > value).sum(1)
    assert torch.equal(count_above(symmetric.clone(), value), expected)


@pytest.mark.parametrize("n", [9, 70, 150])
@pytest.mark.parametrize("rank", [1, 8])
def test_count_above_of_a_matrix_without_full_rank(n, rank):
    a = torch.from_numpy(np.random.default_rng(n).normal(size=(5, rank, n)))
    assert (torch.linalg.svdvals(a) > 1e-3).all()
    for value in (1e-10, 1e-6):
        assert (count_above(a.mT @ a, value) == rank).all()


@pytest.mark.parametrize("n", [3, 64, 150])
def test_count_above_where_a_block_is_singular(n):
    """Eigenvalues at the value itself are not above it, and do not divide what follows."""
    eye = torch.eye(n, dtype=torch.float64).repeat(3, 1, 1)
    assert (count_above(eye.clone(), 1.0) == 0).all()
    diagonal = torch.ones(n, dtype=torch.float64)
    diagonal[1::2] = 2
    assert (count_above(torch.diag(diagonal)[None].clone(), 1.0) == n // 2).all()
    # Eigenvalues of pairs, -1 and 1, whose blocks on the diagonal are 0.
    exchange = torch.eye(2 * n, dtype=torch.float64).flip(1)[None]
    assert (count_above(exchange.clone(), 0.0) == n).all()
    assert (count_above(torch.zeros(2, n, n, dtype=torch.float64), 0.0) == 0).all()


@pytest.mark.parametrize("name", ["threshold", "convolution", "lanczos"])
@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e30])
def test_a_derivative_that_overflows_spoils_no_other(name, bad):
    derivative, z, _ = random_case(70, n_items=3)
    matrices = derivative.jacobian().float() if name == "lanczos" else derivative.jacobian()
    estimator = estimators(70)[name]
    expected = estimator.at(MatrixDerivative(matrices), z, -3.0)
    spoilt = matrices.clone()
    spoilt[1, 4, 5] = bad
    dimension = estimator.at(MatrixDerivative(spoilt), z, -3.0)
    torch.testing.assert_close(dimension[[0, 2]], expected[[0, 2]], atol=1e-5, rtol=0)
    of_spectrum = estimator.dimension(estimator.spectrum(MatrixDerivative(spoilt), z), -3.0)
    for value in (dimension[1], of_spectrum[1]):
        assert 0 <= value <= 70
        assert value == 0 or np.isfinite(bad)


def test_convolution_at_a_scale_below_rounding_errors():
    derivative, z, _ = random_case(40, rank=10)
    dimension = ConvolutionDimension().at(derivative, z, -30.0)
    assert dimension.isfinite().all()
    assert (dimension > 9.9).all()


def test_lanczos_with_orthogonal_probes_and_all_steps_is_exact():
    derivative, z, eigenvalues = random_case(16, dtype=torch.float32)
    estimator = LanczosDimension(hadamard(16).astype(float), 16)
    spectrum = estimator.spectrum(derivative, z)
    assert spectrum.eigenvalues.shape == (6, 16 * 16)
    torch.testing.assert_close(spectrum.weights.sum(1), torch.full((6,), 16.0).double())
    for r in (-5.0, -3.0, -1.0, 1.0):
        expected = np.full(6, smooth_count(eigenvalues, r))
        dimension = estimator.dimension(spectrum, r)
        np.testing.assert_allclose(dimension, expected, atol=0.01)


def test_lanczos_of_one_probe_is_a_quadratic_form():
    derivative, z, _ = random_case(12, dtype=torch.float32)
    probe = random_signs(1, 12)
    J = derivative.jacobian().double().numpy()
    values, vectors = np.linalg.eigh(J.transpose(0, 2, 1) @ J)
    share = (vectors.transpose(0, 2, 1) @ probe[0]) ** 2
    for r in (-3.0, -1.0, 1.0):
        expected = (share * values / (values + np.exp(2 * r))).sum(1)
        dimension = LanczosDimension(probe, 12).at(derivative, z, r)
        np.testing.assert_allclose(dimension, expected, atol=0.01)


def test_lanczos_falls_with_every_step_to_what_it_approximates():
    """Gauss quadrature of 1 / (lambda + v), whose even derivatives are positive, is below it."""
    derivative, z, _ = random_case(64, dtype=torch.float32)
    probes = random_signs(1, 64)
    for r in (-3.0, -1.0):
        curve = torch.stack(
            [LanczosDimension(probes, m).at(derivative, z, r) for m in (1, 2, 4, 8, 16, 64)]
        )
        assert (curve.diff(dim=0) < 1e-3).all()


def test_eight_steps_of_lanczos_are_near():
    derivative, z, eigenvalues = random_case(128, dtype=torch.float32)
    for r in (-1.5, -0.5):
        estimator = LanczosDimension(random_signs(40, 128), 8)
        dimension = estimator.at(derivative, z, r)
        np.testing.assert_allclose(dimension, smooth_count(eigenvalues, r), rtol=0.06)


def test_eight_steps_of_lanczos_order_items_by_their_dimension():
    """From one probe: what all of them are wrong by does not matter to a threshold."""
    derivative, z, eigenvalues = random_case(128, n_items=40)
    sizes = np.exp(np.random.default_rng(0).normal(size=(40, 1)))
    matrices = (derivative.jacobian() * torch.from_numpy(sizes)[:, :, None]).float()
    dimension = LanczosDimension(random_signs(1, 128), 8).at(MatrixDerivative(matrices), z, -3.0)
    expected = smooth_count(eigenvalues * sizes**2, -3.0)
    assert spearmanr(dimension, expected).statistic > 0.95


def test_lanczos_ends_early_where_nothing_is_left():
    """Jacobians with k different singular values give Krylov spaces of at most k vectors."""
    z = torch.zeros(3, 10)
    estimator = LanczosDimension(random_signs(2, 10), 8)
    for J, expected in (
        (torch.eye(10), 10 / (1 + np.exp(-2.0))),
        (torch.zeros(10, 10), 0.0),
    ):
        dimension = estimator.at(MatrixDerivative(J.repeat(3, 1, 1)), z, -1.0)
        np.testing.assert_allclose(dimension, expected, atol=1e-5)
    # The number of steps is at most the number of dimensions.
    assert LanczosDimension(random_signs(1, 3), 8).n_steps == 3


def over_scales(estimator, spectrum):
    """Dimensions at any scale, and the ends of the scales."""
    return lambda r: estimator.dimension(spectrum, r).numpy(), spectral_scales(spectrum)


@pytest.mark.parametrize("name", ["threshold", "convolution", "lanczos"])
@pytest.mark.parametrize("target", [0.5, 3.0, 10.0, 19.0])
def test_scale_of_dimension(name, target):
    derivative, z, _ = random_case(20, n_items=200, dtype=torch.float32)
    estimator = estimators(20)[name]
    # Of various sizes, so that the mean of counts takes many values.
    sizes = torch.from_numpy(np.random.default_rng(0).lognormal(size=200))
    spectrum = estimator.spectrum(derivative, z)
    spectrum = spectrum._replace(eigenvalues=spectrum.eigenvalues * sizes[:, None])
    r = scale_of_dimension(*over_scales(estimator, spectrum), target, 50)
    step = 1 / 200 if name == "threshold" else 1e-6
    assert estimator.dimension(spectrum, r).mean() == pytest.approx(target, abs=1.01 * step)


def test_scale_of_dimension_at_the_ends():
    derivative, z, _ = random_case(20)
    estimator = ThresholdDimension()
    spectrum = estimator.spectrum(derivative, z)
    for target in (0.0, 20.0):
        r = scale_of_dimension(*over_scales(estimator, spectrum), target, 50)
        assert estimator.dimension(spectrum, r).mean() == pytest.approx(target)
    nothing = Spectrum(torch.zeros(3, 4).double(), torch.ones(3, 4).double())
    assert scale_of_dimension(*over_scales(estimator, nothing), 2.0, 50) == pytest.approx(-1)


def falling(levels):
    """Dimensions of one row, which fall to each level at the given scales."""
    return lambda r: np.array([next(d for end, d in levels if r < end)])


def test_scale_of_plateau():
    """The longest of two steps, without the lowest and the highest, which are longer."""
    levels = [(-6, 100.0), (-5, 60.0), (-1, 40.0), (0, 20.0), (9, 0.0)]
    assert scale_of_plateau(falling(levels), (-12, 8), 100) == pytest.approx(-3, abs=0.4)
    # A slope of less than 5 % of 100 dimensions is a plateau, too.
    sloped = scale_of_plateau(lambda r: np.array([np.clip(50 - r, 0, 99)]), (-30, 30), 100)
    assert -30 < sloped < 30
    with pytest.raises(ValueError, match="has none: it changes by 5 of 100 dimensions or more"):
        scale_of_plateau(lambda r: np.array([50 - 8 * r]), (-8, 8), 100)


def test_scale_of_percentile():
    """One row in twenty may lack dimensions, three may not."""
    late = np.array([-3.0] + 19 * [0.0])

    def dimensions(r):
        return np.where(r < late, 50.0, 0.0)

    assert scale_of_percentile(dimensions, (-10, 5), 50, 50) == pytest.approx(0, abs=1e-6)
    late[:3] = -3
    assert scale_of_percentile(dimensions, (-10, 5), 50, 50) == pytest.approx(-3, abs=1e-6)
