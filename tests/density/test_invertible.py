"""Flows of rows and of images: maps to latents and back, and their derivatives."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skood import LogLikelihood
from skood._data.validation import check_data
from skood.density import NeuralSplineFlow
from skood.density._invertible import MatrixDerivative


@pytest.fixture(scope="module")
def rows():
    """Rows of correlated features with different scales, shape (300, 4)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)) * [1, 10, 0.1, 1] + [0, 50, 0, -3]


@pytest.fixture(scope="module")
def of_rows(rows):
    settings = {"n_transforms": 2, "n_bins": 6, "hidden_features": (16,), "max_epochs": 15}
    return NeuralSplineFlow(**settings, learning_rate=1e-2, random_state=0).fit(rows)


@pytest.fixture(scope="module", params=["rows", "digits"])
def case(request, rows, digits):
    """A flow; items; a unit of its network in units of X; logarithm of the volume of a bin."""
    if request.param == "rows":
        flow = request.getfixturevalue("of_rows")
        return flow, rows[:40], flow.scale_, np.log(flow.scale_).sum()
    # A pixel in [0, 1] has 17 levels, which are 0 to 16 in X.
    return request.getfixturevalue("of_digits"), digits[600:640, None], 17.0, 64 * np.log(17)


def test_decode_undoes_encode(case):
    flow, X, _, _ = case
    Z = flow.encode(X)
    assert (Z.shape, Z.dtype) == ((40, flow.n_latent), np.float64)
    decoded = flow.decode(Z)
    assert (decoded.shape, decoded.dtype) == (X.shape, np.float64)
    np.testing.assert_allclose(decoded, X, atol=1e-4 * np.ptp(X))


def test_encode_undoes_decode(case):
    """`encode` takes all outputs of `decode`, pixels beyond black and white too."""
    flow = case[0]
    Z = np.random.default_rng(0).normal(size=(40, flow.n_latent))
    np.testing.assert_allclose(flow.encode(flow.decode(Z)), Z, atol=1e-4)


def test_as_a_transformer(case):
    flow, X, _, _ = case
    np.testing.assert_array_equal(flow.transform(X), flow.encode(X))
    Z = flow.transform(X)
    np.testing.assert_array_equal(flow.inverse_transform(Z), flow.decode(Z))
    assert flow.get_feature_names_out().tolist() == [
        f"{type(flow).__name__.lower()}{j}" for j in range(flow.n_latent)
    ]


def test_latents_in_a_pipeline(rows, of_rows):
    pipeline = make_pipeline(FrozenEstimator(of_rows), StandardScaler()).fit(rows)
    np.testing.assert_allclose(pipeline.transform(rows).std(0), 1)
    np.testing.assert_allclose(pipeline.inverse_transform(pipeline.transform(rows)), rows, 1e-2)


def test_jacobian_is_that_of_decode(case):
    flow, X, unit, _ = case
    jacobian = flow.jacobian(X[:3])
    assert (jacobian.shape, jacobian.dtype) == ((3, flow.n_latent, flow.n_latent), np.float64)
    Z, step = flow.encode(X[:3]), 1e-2
    for j in range(0, flow.n_latent, 3):
        change = step * np.eye(flow.n_latent)[j]
        difference = (flow.decode(Z + change) - flow.decode(Z - change)) / (2 * step)
        slope = (difference / unit).reshape(3, -1)
        scale = abs(jacobian[:, :, j]).max(1, keepdims=True)
        np.testing.assert_allclose(jacobian[:, :, j] / scale, slope / scale, atol=0.03)


def test_density_is_that_of_the_latents_times_the_change_of_volume(case):
    flow, X, _, log_volume = case
    log_det = np.linalg.slogdet(flow.jacobian(X))[1]
    expected = norm.logpdf(flow.encode(X)).sum(1) - log_det - log_volume
    np.testing.assert_allclose(flow.score_samples(X), expected, atol=2e-3)


def test_statistics_are_the_parts_of_the_log_density(case):
    flow, X, _, log_volume = case
    statistics = flow.score_statistics(X)
    assert flow.statistics_names == ("log_prob", "latent_log_prob", "log_det")
    assert (statistics.shape, statistics.dtype) == ((40, 3), np.float64)
    np.testing.assert_array_equal(statistics[:, 0], flow.score_samples(X))
    np.testing.assert_array_equal(statistics[:, 1] + statistics[:, 2], statistics[:, 0])
    np.testing.assert_allclose(statistics[:, 1], norm.logpdf(flow.encode(X)).sum(1), atol=1e-4)
    log_det = np.linalg.slogdet(flow.jacobian(X))[1]
    np.testing.assert_allclose(statistics[:, 2], -log_det - log_volume, atol=2e-3)


def test_gradient_is_the_slope_of_the_log_density(case):
    """Along lines, by differences, in the units of the network's input."""
    flow, X, unit, _ = case
    X = X[:8].astype(float)
    # The network reads levels 0 to 16 as 0 to 1.
    unit = 16.0 if X.ndim > 2 else unit
    X = np.clip(X, 0.5, 15.5) if X.ndim > 2 else X
    gradient = flow.log_density_gradient(X)
    assert (gradient.shape, gradient.dtype) == (X.shape, np.float64)
    rng, step, axes = np.random.default_rng(0), 2e-3, tuple(range(1, X.ndim))
    length = np.sqrt((gradient**2).sum(axes))
    for direction in (gradient, *rng.normal(size=(4, *X.shape))):
        direction = direction / np.sqrt((direction**2).sum(axes, keepdims=True))
        move = step * direction * unit
        difference = (flow.score_samples(X + move) - flow.score_samples(X - move)) / (2 * step)
        slope = (gradient * direction).sum(axes)
        np.testing.assert_allclose(difference / length, slope / length, atol=0.03)


def test_nothing_depends_on_the_batch(case):
    flow, X, _, _ = case
    Z = flow.encode(X)
    of_items = "encode", "jacobian", "score_samples", "score_statistics", "log_density_gradient"
    for method, items in [("decode", Z), *((method, X) for method in of_items)]:
        function = getattr(flow, method)
        values = function(items)
        parts = [function(items[i : i + 7]) for i in range(0, 40, 7)]
        # Batches of rows are filled. The last one of images is not, and sums differ in order. The
        # size of a derivative is its length: a column of the Jacobian, the gradient of an item.
        axes = {"jacobian": 1, "log_density_gradient": tuple(range(1, X.ndim))}.get(method, ())
        atol = 2e-6 * np.sqrt((values**2).sum(axes)).max() if X.ndim > 2 else 0
        np.testing.assert_allclose(np.concatenate(parts), values, 0, atol, err_msg=method)
        whole = items[:32]
        np.testing.assert_array_equal(function(whole[::-1])[::-1], function(whole), err_msg=method)
        np.testing.assert_allclose(function(items[::-1])[::-1], values, 0, atol, err_msg=method)


def test_linearize(case):
    """Latents, log-densities and derivatives of the same items, batch after batch."""
    flow, X, _, _ = case
    sizes = []

    def function(network, x):
        z, log_prob, derivative = flow.linearize(network, x)
        sizes.append(len(z))
        linear = derivative()
        pushed = linear.push(z)
        expected = (linear.jacobian() @ z[:, :, None])[:, :, 0]
        return z, log_prob, (pushed - expected).abs().amax(1) / expected.abs().amax(1)

    data = check_data(flow, X, reset=False)
    Z, log_prob, error = flow.map(data, function, batch_size=16)
    # Rows are filled to a multiple of 32, within the size of a batch.
    assert sizes == [16, 16, 8 if X.ndim > 2 else 16]
    np.testing.assert_allclose(Z, flow.encode(X), atol=1e-5)
    np.testing.assert_allclose(log_prob, flow.score_samples(X), atol=1e-3)
    assert log_prob.dtype == np.float64
    assert error.max() < 1e-4
    # The default is the size of a scoring batch.
    sizes.clear()
    flow.map(data, lambda _, x: (sizes.append(len(x)), x)[1])
    assert sizes == ([32, 8] if X.ndim > 2 else [64])


def test_jacobians_take_bounded_memory(case):
    flow = case[0]
    assert flow.jacobian_batch_size() * flow.n_latent**2 <= 2**22
    assert flow.jacobian_batch_size() == 32


def test_derivative_can_be_differentiated(case):
    flow, X, _, _ = case
    data = check_data(flow, X[:2], reset=False)

    def function(network, x):
        z, _, derivative = flow.linearize(network, x)
        linear = derivative()
        with torch.enable_grad():
            tangents = z.clone().requires_grad_()
            pushed = linear.push(tangents)
            (product,) = torch.autograd.grad(pushed, tangents, pushed.detach())
        return product, linear.jacobian()

    product, jacobian = flow.map(data, function, batch_size=2)
    Z = flow.encode(X[:2])
    expected = np.einsum("bij,bik,bk->bj", jacobian, jacobian, Z)
    np.testing.assert_allclose(product, expected, atol=1e-4 * abs(expected).max())


def test_matrix_derivative():
    matrices = torch.tensor([[[1.0, 2.0], [0.0, 3.0]]])
    derivative = MatrixDerivative(matrices)
    assert torch.equal(derivative.push(torch.tensor([[1.0, -1.0]])), torch.tensor([[-1.0, -3.0]]))
    assert torch.equal(derivative.jacobian(), matrices)


def test_frozen_flow(case):
    flow, X, _, _ = case
    detector = LogLikelihood(FrozenEstimator(flow)).fit(X)
    np.testing.assert_array_equal(detector.score_samples(X), flow.score_samples(X))
    assert detector.density_.estimator is flow


def test_errors(case):
    flow, X, _, _ = case
    n = flow.n_latent
    with pytest.raises(ValueError, match=f"Z has {n + 1} columns; expected n_latent={n}"):
        flow.decode(np.zeros((2, n + 1)))
    with pytest.raises(ValueError, match="Z contains NaN"):
        flow.decode(np.full((2, n), np.nan))
    with pytest.raises(ValueError, match="contains NaN"):
        flow.encode(np.full_like(X, np.nan))
    with pytest.raises(ValueError, match=r"rescale Z$"):
        flow.decode(np.full((2, n), 1e300))
