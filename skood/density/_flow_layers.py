"""Invertible layers over pixels, channels last: (b, h, w, c)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood.density._spline import IDENTITY_DERIVATIVE, inverse_spline, spline

__all__ = ["Coupling", "Mixing", "ResidualBlock", "squeeze", "unsqueeze"]

# Least scale of an affine coupling, and least standard deviation that ActNorm divides by.
_SMALLEST_SCALE = 1e-3

# Largest standard deviation, relative to the mean, of the rounding errors of a constant channel.
_ROUNDING = 1e-5


def squeeze(x: Tensor, factors: tuple[int, int]) -> Tensor:
    """Turn blocks of pixels into channels: (b, h, w, c) to (b, h / f, w / g, f g c)."""
    f, g = factors
    blocks = x.unflatten(2, (-1, g)).unflatten(1, (-1, f))
    return blocks.transpose(2, 3).flatten(3)


def unsqueeze(x: Tensor, factors: tuple[int, int]) -> Tensor:
    """Undo `squeeze`."""
    f, g = factors
    return x.unflatten(3, (f, g, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Mixing(nn.Module):
    r"""ActNorm, and, if `mixes`, an invertible matrix W = P L (U + diag(s)): y = W (a * x + b).

    Parameters
    ----------
    n_channels : int
    mixes : bool
        Without it, y = a * x + b.

    References
    ----------
    .. [1] D. P. Kingma and P. Dhariwal, "Glow: Generative Flow with Invertible 1x1
       Convolutions", NeurIPS 2018, sections 3.1 and 3.2.
    """

    def __init__(self, n_channels: int, *, mixes: bool) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(n_channels))
        self.shift = nn.Parameter(torch.zeros(n_channels))
        self.mixes = mixes
        if mixes:
            rotation = torch.linalg.qr(torch.randn(n_channels, n_channels))[0]
            permutation, lower, upper = torch.linalg.lu(rotation)
            diagonal = upper.diagonal()
            self.register_buffer("permutation", permutation.contiguous())
            self.register_buffer("sign", diagonal.sign())
            self.lower = nn.Parameter(lower.tril(-1))
            self.upper = nn.Parameter(upper.triu(1))
            self.log_diagonal = nn.Parameter(diagonal.abs().log())

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the mean of each channel of a * x + b to 0, and the variance to 1 unless it is 0."""
        std, mean = torch.std_mean(x.flatten(0, -2), 0, correction=0)
        # Rounding errors would grow with each layer, and overflow.
        is_constant = std < _ROUNDING * (1 + mean.abs())
        std = torch.where(is_constant, 1.0, std.clamp(min=_SMALLEST_SCALE))
        self.log_scale.copy_(-std.log())
        self.shift.copy_(-mean * self.log_scale.exp())

    def log_det(self) -> Tensor:
        """Log-determinant for one pixel."""
        log_det = self.log_scale.sum()
        return log_det + self.log_diagonal.sum() if self.mixes else log_det

    def _triangles(self) -> tuple[Tensor, Tensor]:
        eye = torch.eye(len(self.shift), dtype=self.shift.dtype, device=self.shift.device)
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        return self.lower.tril(-1) + eye, upper

    def forward(self, x: Tensor) -> Tensor:
        if not self.mixes:
            return x * self.log_scale.exp() + self.shift
        # bfloat16 would round away the dequantisation noise.
        with torch.autocast(x.device.type, enabled=False):
            lower, upper = self._triangles()
            matrix = self.permutation @ lower @ upper
            return F.linear(x, matrix * self.log_scale.exp(), matrix @ self.shift)

    def inverse(self, y: Tensor) -> Tensor:
        if not self.mixes:
            return (y - self.shift) * (-self.log_scale).exp()
        return F.linear(y, *self._inverse_map())

    def inverse_linear(self, tangents: Tensor) -> Tensor:
        """Apply the derivative of `inverse` to tangents of shape (..., c)."""
        if not self.mixes:
            return tangents * (-self.log_scale).exp()
        return F.linear(tangents, self._inverse_map()[0])

    def _inverse_map(self) -> tuple[Tensor, Tensor]:
        """Matrix and offset of the inverse."""
        # In float64, since errors add up over the layers.
        lower, upper = (triangle.double() for triangle in self._triangles())
        rotated = self.permutation.T.double()
        inner = torch.linalg.solve_triangular(lower, rotated, upper=False, unitriangular=True)
        inverse = torch.linalg.solve_triangular(upper, inner, upper=True)
        scale = (-self.log_scale.double()).exp()
        matrix = scale[:, None] * inverse
        return matrix.to(self.shift.dtype), -self.shift * scale.to(self.shift.dtype)


class Coupling(nn.Module):
    """Changes one half of the channels, by maps whose parameters depend on the other half.

    Parameters
    ----------
    n_channels : int
    is_flipped : bool
        Whether the first half is changed, given the second.
    is_pixel : bool
        Whether images have one pixel: the conditioner then has linear layers.
    mask : {"half", "alternating"}
        The halves: the first and the last channels, or those with an odd and with an even index.
    coupling : {"spline", "affine"}
        Rational-quadratic splines, or y = (sigmoid(s + 2) + 0.001) x + t.
    n_bins : int
    bound : float
        Splines are the identity outside of [-bound, bound].
    n_filters, n_blocks : int
        Channels and residual blocks of the conditioner.
    dropout : float
    """

    def __init__(
        self,
        n_channels: int,
        *,
        is_flipped: bool,
        is_pixel: bool,
        mask: str,
        coupling: str,
        n_bins: int,
        bound: float,
        n_filters: int,
        n_blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.is_flipped = is_flipped
        self.is_pixel = is_pixel
        self.coupling = coupling
        self.bound = bound
        sizes = (n_channels // 2, n_channels - n_channels // 2)
        self.sizes = sizes
        self.alternates = mask == "alternating"
        n_given, self.n_changed = sizes[::-1] if is_flipped else sizes
        n_parameters = 3 * n_bins - 1 if coupling == "spline" else 2
        outer = nn.Linear if is_pixel else partial(nn.Conv2d, kernel_size=1)
        inner = nn.Linear if is_pixel else partial(nn.Conv2d, kernel_size=3, padding=1)
        last = outer(n_filters, self.n_changed * n_parameters)
        # Splines start as the identity, affine maps without a shift.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if coupling == "spline":
            last.bias.data.view(self.n_changed, -1)[:, 2 * n_bins :] = IDENTITY_DERIVATIVE
        self.conditioner = nn.Sequential(
            outer(n_given, n_filters),
            *(ResidualBlock(inner, n_filters, dropout) for _ in range(n_blocks)),
            last,
        )

    def parameters_of(self, given: Tensor) -> Tensor:
        """Parameters of the changed channels, (b, h, w, n_changed, n_parameters)."""
        if not self.is_pixel:
            given = given.permute(0, 3, 1, 2)
        return self.shaped(self.conditioner(given))

    def shaped(self, output: Tensor) -> Tensor:
        """Bring the conditioner's output into the shape of `parameters_of`, float32 at least."""
        if not self.is_pixel:
            output = output.permute(0, 2, 3, 1)
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        return output.unflatten(-1, (self.n_changed, -1))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Given and changed channels."""
        first, second = (x[..., 1::2], x[..., ::2]) if self.alternates else x.split(self.sizes, -1)
        return (second, first) if self.is_flipped else (first, second)

    def join(self, given: Tensor, changed: Tensor) -> Tensor:
        """Undo `split`."""
        first, second = (changed, given) if self.is_flipped else (given, changed)
        if not self.alternates:
            return torch.cat((first, second), -1)
        # Of an odd number of channels, the last is even.
        even, last = second.tensor_split((self.sizes[0],), -1)
        return torch.cat((torch.stack((even, first), -1).flatten(-2), last), -1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and the log-derivative of each changed value, (b, h, w, n_changed)."""
        given, changed = self.split(x)
        parameters = self.parameters_of(given)
        with torch.autocast(x.device.type, enabled=False):
            changed, log_derivative = self._map(changed, parameters)
        return self.join(given, changed), log_derivative

    def inverse(self, y: Tensor) -> Tensor:
        given, changed = self.split(y)
        return self.join(given, self.inverse_of_changed(changed, self.parameters_of(given))[0])

    def _map(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        if self.coupling == "spline":
            return spline(x, parameters, self.bound)
        scale, shift = _scale_and_shift(parameters)
        return x * scale + shift, scale.log()

    def inverse_of_changed(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Undo the map of the changed channels; return the log-derivative as well."""
        if self.coupling == "spline":
            return inverse_spline(y, parameters, self.bound)
        scale, shift = _scale_and_shift(parameters)
        return (y - shift) / scale, -scale.log()


def _scale_and_shift(parameters: Tensor) -> tuple[Tensor, Tensor]:
    raw, shift = parameters.unbind(-1)
    return torch.sigmoid(raw + 2) + _SMALLEST_SCALE, shift


class ResidualBlock(nn.Module):
    """x + layer(dropout(relu(layer(relu(x)))))."""

    def __init__(self, layer: Callable[[int, int], nn.Module], size: int, dropout: float) -> None:
        super().__init__()
        self.first = layer(size, size)
        self.second = layer(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.dropout(F.relu(self.first(F.relu(x)))))
