"""Rational-quadratic splines against reference values, and as increasing maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import jacfwd, jacrev, vmap

from skood.density._spline import IDENTITY_DERIVATIVE, inverse_spline, spline

# Of nflows, in float64: splines of 8 bins within [-3, 3].
REFERENCE = {
    name: torch.from_numpy(values)
    for name, values in np.load(Path(__file__).parent / "data" / "spline.npz").items()
}
OF_REFERENCE = torch.cat([REFERENCE[name] for name in ("uw", "uh", "ud")], -1)


def random_parameters(*shape, n_bins=5, size=1.5):
    generator = torch.Generator().manual_seed(n_bins)
    return size * torch.randn(*shape, 3 * n_bins - 1, generator=generator, dtype=torch.float64)


def knots(sizes, bound):
    """Ends of the bins, of both sides, of a spline with 5 unconstrained sizes."""
    sizes = 1e-3 + (1 - 5e-3) * sizes.softmax(-1)
    return torch.cat((torch.zeros(len(sizes), 1), sizes.cumsum(-1)), 1) * 2 * bound - bound


def test_reference():
    y, log_derivative = spline(REFERENCE["x"], OF_REFERENCE, 3.0)
    torch.testing.assert_close(y, REFERENCE["y"], atol=1e-11, rtol=0)
    torch.testing.assert_close(log_derivative, REFERENCE["logabsdet"], atol=1e-9, rtol=0)


def test_reference_of_the_inverse():
    x, log_derivative = inverse_spline(REFERENCE["inv_input"], OF_REFERENCE, 3.0)
    torch.testing.assert_close(x, REFERENCE["inv_output"], atol=1e-11, rtol=0)
    torch.testing.assert_close(log_derivative, REFERENCE["inv_logabsdet"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("n_bins", [2, 5, 40])
@pytest.mark.parametrize("bound", [0.3, 3.0])
def test_inverse_undoes_the_spline(n_bins, bound):
    parameters = random_parameters(6, 301, n_bins=n_bins)
    x = torch.linspace(-1.5 * bound, 1.5 * bound, 301, dtype=torch.float64).expand(6, 301)
    y, log_derivative = spline(x, parameters, bound)
    back, log_inverse = inverse_spline(y, parameters, bound)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_inverse, -log_derivative, atol=1e-7, rtol=0)
    there, _ = spline(inverse_spline(x, parameters, bound)[0], parameters, bound)
    torch.testing.assert_close(there, x, atol=1e-10, rtol=0)


def test_inverse_in_float32():
    """To the precision of y; the precision of x is lower by the slope, exp(-7) or smaller."""
    parameters = random_parameters(1000, n_bins=8, size=1.0).float()
    y = torch.linspace(-3.5, 3.5, 1000)
    x, log_derivative = inverse_spline(y, parameters, 3.0)
    assert x.dtype == log_derivative.dtype == torch.float32
    torch.testing.assert_close(spline(x, parameters, 3.0)[0], y, atol=2e-5, rtol=0)


@pytest.mark.parametrize("function", [spline, inverse_spline])
def test_derivative_is_that_of_autograd(function):
    parameters = random_parameters(400, n_bins=7)
    x = torch.linspace(-4, 4, 400, dtype=torch.float64, requires_grad=True)
    y, log_derivative = function(x, parameters, 3.0)
    (derivative,) = torch.autograd.grad(y.sum(), x)
    assert (derivative > 0).all()
    torch.testing.assert_close(log_derivative, derivative.log(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("function", [spline, inverse_spline])
def test_identity_beyond_the_bound(function):
    x = torch.tensor([-1e30, -100.0, -3.0001, 3.0001, 7.0, 1e30], dtype=torch.float64)
    parameters = random_parameters(6).requires_grad_()
    y, log_derivative = function(x, parameters, 3.0)
    assert torch.equal(y, x)
    assert torch.equal(log_derivative, torch.zeros(6, dtype=torch.float64))
    (gradient,) = torch.autograd.grad((y + log_derivative).sum(), parameters)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("function", [spline, inverse_spline])
def test_nothing_jumps_at_a_knot(function):
    """Value and derivative are continuous, at the bound as at the knots within."""
    parameters = random_parameters(50, size=0.7)
    widths, heights = parameters[:, :5], parameters[:, 5:10]
    places = knots(widths if function is spline else heights, 3.0)
    parameters = parameters[:, None].expand(50, 6, -1)
    step = 1e-9
    (below, slope_below), (above, slope_above) = (
        function(places + side, parameters, 3.0) for side in (-step, step)
    )
    torch.testing.assert_close(above, below, atol=1e-6, rtol=0)
    torch.testing.assert_close(slope_above, slope_below, atol=1e-5, rtol=0)
    assert (above > below).all()


@pytest.mark.parametrize("function", [spline, inverse_spline])
def test_bound_belongs_to_itself(function):
    ends = torch.tensor([-3.0, 3.0], dtype=torch.float64)
    y, log_derivative = function(ends, random_parameters(2), 3.0)
    torch.testing.assert_close(y, ends, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_derivative, torch.zeros_like(ends), atol=1e-9, rtol=0)


def test_identity_parameters():
    parameters = torch.zeros(101, 3 * 8 - 1, dtype=torch.float64)
    parameters[:, 16:] = IDENTITY_DERIVATIVE
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    for function in (spline, inverse_spline):
        y, log_derivative = function(x, parameters, 3.0)
        torch.testing.assert_close(y, x, atol=1e-12, rtol=0)
        torch.testing.assert_close(log_derivative, torch.zeros_like(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("function", [spline, inverse_spline])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_parameters(function, size):
    """The least width, height and derivative hold where a softmax is one or zero."""
    parameters = random_parameters(20, 1, n_bins=8, size=size).expand(20, 500, -1)
    x = torch.linspace(-3.2, 3.2, 500, dtype=torch.float64).expand(20, 500)
    assert (function(x, parameters, 3.0)[0].diff(dim=1) > 0).all()
    parameters = parameters.float().requires_grad_()
    y, log_derivative = function(x.float(), parameters, 3.0)
    (gradient,) = torch.autograd.grad((y + log_derivative).sum(), parameters)
    for values in (y, log_derivative, gradient):
        assert values.isfinite().all()


@pytest.mark.parametrize("function", [spline, inverse_spline])
def test_under_vmap_and_in_forward_mode(function):
    parameters = random_parameters(5, 4)
    x = torch.linspace(-4, 4, 20, dtype=torch.float64).view(5, 4)
    expected = function(x, parameters, 3.0)
    got = vmap(lambda x, p: function(x, p, 3.0))(x, parameters)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)

    def value(x, p):
        return function(x, p, 3.0)[0]

    for argnums in (0, 1):
        forward, backward = (vmap(jac(value, argnums))(x, parameters) for jac in (jacfwd, jacrev))
        torch.testing.assert_close(forward, backward, atol=1e-10, rtol=1e-8)
    slopes = vmap(jacfwd(value))(x, parameters).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(slopes, expected[1].exp())
