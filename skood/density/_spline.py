"""Rational-quadratic splines, without masks: every operation acts on all elements."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["IDENTITY_DERIVATIVE", "inverse_spline", "spline"]

# Least width and height of a bin, as fractions of the range, and least derivative at a knot.
_LEAST = 1e-3

# Unconstrained parameter of a derivative of 1.
IDENTITY_DERIVATIVE = math.log(math.expm1(1 - _LEAST))


def spline(x: Tensor, parameters: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    r"""Map each element by its own increasing spline; the identity outside of [-bound, bound].

    In a bin from :math:`x_k`, of width w, with :math:`\xi = (x - x_k) / w` and the slope s = h / w:

    .. math::
        y = y_k + h \frac{s \xi^2 + d_k \xi (1 - \xi)}{s + (d_{k+1} + d_k - 2s) \xi (1 - \xi)}

    Parameters
    ----------
    x : Tensor of shape (...)
    parameters : Tensor of shape (..., 3 K - 1)
        Unconstrained widths and heights of K bins, and derivatives at the K - 1 inner knots.
    bound : float

    Returns
    -------
    y : Tensor of shape (...)
    log_derivative : Tensor of shape (...)
        log dy/dx.

    References
    ----------
    .. [1] C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, "Neural Spline Flows", NeurIPS 2019,
       equations 4 and 5.
    """
    inside = x.clamp(-bound, bound)
    left, width, low, height, d, d_next = _bin_of(inside, parameters, bound, in_heights=False)
    slope = height / width
    xi = (inside - left) / width
    rest = xi * (1 - xi)
    denominator = slope + (d_next + d - 2 * slope) * rest
    y = low + height * (slope * xi.square() + d * rest) / denominator
    log_derivative = _log_derivative(xi, rest, slope, d, d_next, denominator)
    outside = x != inside
    return torch.where(outside, x, y), torch.where(outside, 0.0, log_derivative)


def inverse_spline(y: Tensor, parameters: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Undo `spline`.

    Parameters
    ----------
    y : Tensor of shape (...)
    parameters : Tensor of shape (..., 3 K - 1)
    bound : float

    Returns
    -------
    x : Tensor of shape (...)
    log_derivative : Tensor of shape (...)
        log dx/dy.

    References
    ----------
    .. [1] C. Durkan et al., "Neural Spline Flows", NeurIPS 2019, equations 6 to 8.
    """
    inside = y.clamp(-bound, bound)
    left, width, low, height, d, d_next = _bin_of(inside, parameters, bound, in_heights=True)
    slope = height / width
    above = inside - low
    bend = above * (d_next + d - 2 * slope)
    a = height * (slope - d) + bend
    b = height * d - bend
    c = -slope * above
    discriminant = (b.square() - 4 * a * c).clamp(min=0)
    xi = (2 * c / (-b - discriminant.sqrt())).clamp(0, 1)
    rest = xi * (1 - xi)
    denominator = slope + (d_next + d - 2 * slope) * rest
    log_derivative = _log_derivative(xi, rest, slope, d, d_next, denominator)
    outside = y != inside
    x = left + xi * width
    return torch.where(outside, y, x), torch.where(outside, 0.0, -log_derivative)


def _log_derivative(
    xi: Tensor, rest: Tensor, slope: Tensor, d: Tensor, d_next: Tensor, denominator: Tensor
) -> Tensor:
    """Return log dy/dx at `xi` in a bin."""
    numerator = d_next * xi.square() + 2 * slope * rest + d * (1 - xi).square()
    return 2 * (slope / denominator).log() + numerator.log()


def _bin_of(values: Tensor, parameters: Tensor, bound: float, *, in_heights: bool) -> list[Tensor]:
    """Left, width, low, height and both derivatives of the bin of each value."""
    n_bins = (parameters.shape[-1] + 1) // 3
    sizes = parameters[..., : 2 * n_bins].unflatten(-1, (2, n_bins)).softmax(-1)
    sizes = (2 * bound) * (_LEAST + (1 - _LEAST * n_bins) * sizes)
    # Right ends of all bins but the last, whose end is the bound.
    ends = sizes[..., :-1].cumsum(-1) - bound
    searched = ends[..., 1 if in_heights else 0, :]
    index = (values[..., None] >= searched).sum(-1, keepdim=True)
    # Knots from -bound to bound, of which a bin takes its own and the next one.
    knots = F.pad(F.pad(ends, (1, 0), value=-bound), (0, 1), value=bound)
    both = index[..., None, :].expand(*index.shape[:-1], 2, 1)
    starts = knots.gather(-1, both)[..., 0]
    stops = knots.gather(-1, both + 1)[..., 0]
    inner = F.pad(parameters[..., 2 * n_bins :], (1, 1), value=IDENTITY_DERIVATIVE)
    d = _LEAST + F.softplus(inner.gather(-1, torch.cat((index, index + 1), -1)))
    (left, low), (right, high) = starts.unbind(-1), stops.unbind(-1)
    return [left, right - left, low, high - low, d[..., 0], d[..., 1]]
