"""Mixtures of discretised logistic distributions over the levels of a pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "entropy",
    "level_log_prob",
    "log_prob",
    "n_parameters",
    "origin_and_unit",
    "sample",
    "split_parameters",
]


def origin_and_unit(n_levels: int, pixel_origin: str) -> tuple[float, float]:
    """Return the level that a network reads as 0, and the levels in one unit of its input.

    Parameters
    ----------
    n_levels : int
    pixel_origin : {"grey", "black"}
        "grey": pixels in [-1, 1]; "black": pixels in [0, 4), x / 64 for 256 levels.
    """
    half = (n_levels - 1) / 2
    return (half, half) if pixel_origin == "grey" else (0.0, n_levels / 4)


def n_parameters(n_channels: int, n_components: int) -> int:
    r"""Return the number of parameters per pixel, M (1 + 2 C + C (C - 1) / 2)."""
    return n_components * (1 + 2 * n_channels + n_channels * (n_channels - 1) // 2)


def split_parameters(
    raw: Tensor,
    n_channels: int,
    n_components: int,
    n_levels: int,
    min_scale: float,
    pixel_origin: str = "grey",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Turn the output of a network into the parameters of the mixture.

    The network's outputs have the origin o and the unit u of its input
    (:func:`origin_and_unit`): a location becomes u loc + o levels, and a scale
    u softplus(scale) + min_scale levels.

    Parameters
    ----------
    raw : Tensor of shape (N, M (1 + 2 C + C (C - 1) / 2), H, W)
    n_channels, n_components, n_levels : int
        C, M and the number of values a pixel can have.
    min_scale : float
        In levels.
    pixel_origin : {"grey", "black"}, default="grey"

    Returns
    -------
    logits : Tensor of shape (N, M, H, W)
    loc, scale : Tensor of shape (N, M, C, H, W)
        In levels.
    coefs : Tensor of shape (N, M, C (C - 1) / 2, H, W)
        Dependence of a channel on the earlier ones, in the order (1 on 0), (2 on 0), (2 on 1).
    """
    n, _, height, width = raw.shape
    n_coefs = n_channels * (n_channels - 1) // 2
    logits, loc, scale, coefs = raw.view(n, n_components, -1, height, width).split(
        (1, n_channels, n_channels, n_coefs), dim=2
    )
    origin, unit = origin_and_unit(n_levels, pixel_origin)
    scale = unit * F.softplus(scale) + min_scale
    return logits[:, :, 0], unit * (loc + origin / unit), scale, coefs


def _shift(loc: Tensor, coefs: Tensor, x: Tensor, channel: int, origin: float) -> Tensor:
    """Location of a channel given the channels before it, shape (N, M, H, W)."""
    first = channel * (channel - 1) // 2
    earlier = x[:, None, :channel] - origin
    return loc[:, :, channel] + (coefs[:, :, first : first + channel] * earlier).sum(2)


def log_prob(
    x: Tensor,
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    coefs: Tensor,
    n_levels: int,
    pixel_origin: str = "grey",
) -> Tensor:
    r"""Log-probability of whole pixels, in nats.

    .. math::
        \log p(x) = \log \sum_k \pi_k \prod_c P(x_c; m_{kc}, s_{kc}), \qquad
        P(x; m, s) = \sigma\!\left(\tfrac{x + 1/2 - m}{s}\right)
                   - \sigma\!\left(\tfrac{x - 1/2 - m}{s}\right)

    where the lowest level has all mass below it and the highest all mass above it (Salimans et
    al. 2017, section 2.1).

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        Levels 0 .. n_levels - 1.
    logits, loc, scale, coefs
        As :func:`split_parameters` returns them.
    n_levels : int
    pixel_origin : {"grey", "black"}, default="grey"
        Level from which the coefficients measure the earlier channels.

    Returns
    -------
    Tensor of shape (N, H, W)
    """
    origin, _ = origin_and_unit(n_levels, pixel_origin)
    shifted = torch.stack([_shift(loc, coefs, x, c, origin) for c in range(x.shape[1])], dim=2)
    log_channel = level_log_prob(x[:, None], shifted, scale, n_levels)
    return torch.logsumexp(F.log_softmax(logits, 1) + log_channel.sum(2), 1)


def entropy(
    x: Tensor,
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    coefs: Tensor,
    n_levels: int,
    pixel_origin: str = "grey",
) -> Tensor:
    """Entropy of the predicted distributions of the levels of x, in nats.

    The distribution of a channel is conditioned on the earlier channels of the same pixel.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
        Levels 0 .. n_levels - 1.
    logits, loc, scale, coefs
        As :func:`split_parameters` returns them.
    n_levels : int
    pixel_origin : {"grey", "black"}, default="grey"
        Level from which the coefficients measure the earlier channels.

    Returns
    -------
    Tensor of shape (N, H, W)
        Summed over the channels of a pixel.
    """
    origin, _ = origin_and_unit(n_levels, pixel_origin)
    log_weights = F.log_softmax(logits, 1)
    total = torch.zeros_like(x[:, 0])
    for channel in range(x.shape[1]):
        own = _shift(loc, coefs, x, channel, origin), scale[:, :, channel], n_levels
        for level in torch.arange(n_levels, dtype=x.dtype, device=x.device):
            log_level = torch.logsumexp(log_weights + level_log_prob(level, *own), 1)
            total -= log_level.exp() * log_level
        # Posterior of the components given this channel.
        log_weights = F.log_softmax(log_weights + level_log_prob(x[:, None, channel], *own), 1)
    return total


def level_log_prob(x: Tensor, loc: Tensor, scale: Tensor, n_levels: int) -> Tensor:
    r"""Log-probability of one discretised logistic distribution, in nats.

    With a < b the two arguments in :func:`log_prob`, log[sigma(b) - sigma(a)]
    = -softplus(-b) - softplus(a) + log(1 - exp(-1/s)) is finite for every m and s > 0.

    Parameters
    ----------
    x : Tensor
        Levels 0 .. n_levels - 1.
    loc, scale : Tensor
        In levels; the three broadcast together.
    n_levels : int

    Returns
    -------
    Tensor
    """
    log_below = -F.softplus(-(x + 0.5 - loc) / scale)
    log_above = -F.softplus((x - 0.5 - loc) / scale)
    inside = log_below + log_above + torch.log(-torch.expm1(-1 / scale))
    return torch.where(x < 0.5, log_below, torch.where(x > n_levels - 1.5, log_above, inside))


def sample(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    coefs: Tensor,
    n_levels: int,
    generator: torch.Generator,
    pixel_origin: str = "grey",
) -> Tensor:
    """Draw pixels, shape (N, C, H, W), as float levels."""
    origin, _ = origin_and_unit(n_levels, pixel_origin)
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-7)))
    component = (logits + gumbel).argmax(1, keepdim=True)[:, :, None]

    def of_component(values: Tensor) -> Tensor:
        return values.gather(1, component.expand(-1, -1, values.shape[2], -1, -1))

    loc, scale, coefs = of_component(loc), of_component(scale), of_component(coefs)
    n, _, n_channels, height, width = loc.shape
    x = torch.zeros(n, n_channels, height, width, device=loc.device)
    for channel in range(n_channels):
        uniform = torch.rand((n, height, width), generator=generator, device=loc.device)
        noise = torch.logit(uniform, eps=1e-7)
        mean = _shift(loc, coefs, x, channel, origin)[:, 0]
        x[:, channel] = (mean + scale[:, 0, channel] * noise).round().clamp(0, n_levels - 1)
    return x
