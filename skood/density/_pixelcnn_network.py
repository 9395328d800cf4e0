"""The network of PixelCNN++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._torch.fused import add_gated, concat_elu, crop

__all__ = ["PixelCNNLayer", "PixelCNNNetwork"]


class PixelCNNLayer(nn.Module):
    """Convolution over `reach` rows above and columns to the left of a pixel.

    A kernel that ends at its pixel, or before it, avoids the wasted work of a masked kernel. Torch
    pads all sides equally; the excess at the bottom and the right is cropped, here or by the user
    of the output.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: tuple[int, int] = (1, 1),
        reach: tuple[int, int] = (0, 0),
        *,
        stride: int = 1,
        cropped: bool = True,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in, *kernel_size))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.xavier_uniform_(self.weight)
        self.gain = nn.Parameter(torch.ones(n_out, 1, 1, 1)) if weight_norm else None
        self.reach = reach
        self.stride = stride
        self.cropped = cropped

    def kernel(self) -> Tensor:
        if self.gain is None:
            return self.weight
        return self.gain * self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None]

    def forward(self, x: Tensor, /) -> Tensor:
        y = F.conv2d(x, self.kernel(), self.bias, self.stride, self.reach)
        height, width = (-(-size // self.stride) for size in x.shape[2:])
        return crop(y, height, width) if self.cropped and any(self.reach) else y


class _Upsample(PixelCNNLayer):
    """Transposed convolution with stride 2 whose output is cropped to twice the input."""

    def __init__(self, n_features: int, kernel_size: tuple[int, int], *, weight_norm: bool) -> None:
        super().__init__(n_features, n_features, kernel_size, weight_norm=weight_norm)

    def forward(self, x: Tensor, /) -> Tensor:
        y = F.conv_transpose2d(x, self.kernel().transpose(0, 1), self.bias, stride=2)
        overlap = y.shape[3] - 2 * x.shape[3]
        return y[..., overlap:]


class _State(NamedTuple):
    """Activations of a stream, and their concatenated ELU, which several layers read."""

    value: Tensor
    active: Tensor

    @classmethod
    def of(cls, value: Tensor) -> _State:
        return cls(value, concat_elu(value))


class _Skip(PixelCNNLayer):
    """1 x 1 convolution of the concatenated ELU of tensors x, y, ..., joined by channel."""

    def forward(self, *active: Tensor) -> Tensor:
        # The kernel is for [x, y, -x, -y]; the inputs are [x, -x] and [y, -y].
        first, *rest = self.kernel().unflatten(1, (2, len(active), -1)).unbind(2)
        y = F.conv2d(active[0], first.flatten(1, 2), self.bias)
        for x, kernel in zip(active[1:], rest, strict=True):
            y = y + F.conv2d(x, kernel.flatten(1, 2))
        return y


class _GatedBlock(nn.Module):
    """Gated residual block, with an optional skip input and an optional condition.

    out = x + a sigmoid(b), where (a, b) are the halves of the second convolution.
    """

    # Rows -1 and 0; columns -1, 0, 1 of the vertical and -1, 0 of the horizontal stream.
    KERNELS = {"vertical": (2, 3), "horizontal": (2, 2)}
    REACH = (1, 1)

    def __init__(
        self,
        stream: str,
        n_filters: int,
        *,
        n_skip: int,
        n_classes: int,
        dropout: float,
        weight_norm: bool,
    ) -> None:
        super().__init__()
        shape, n_active = (self.KERNELS[stream], self.REACH), 2 * n_filters
        self.conv_in = PixelCNNLayer(n_active, n_filters, *shape, weight_norm=weight_norm)
        self.conv_skip = (
            _Skip(n_skip * n_active, n_filters, weight_norm=weight_norm) if n_skip else None
        )
        self.conv_out = PixelCNNLayer(
            n_active, 2 * n_filters, *shape, cropped=False, weight_norm=weight_norm
        )
        self.condition = (
            PixelCNNLayer(n_classes, 2 * n_filters, weight_norm=weight_norm) if n_classes else None
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: _State, skips: Sequence[_State] = (), condition: Tensor | None = None
    ) -> _State:
        h = self.conv_in(x.active)
        if self.conv_skip is not None:
            h = h + self.conv_skip(*(skip.active for skip in skips))
        h = self.conv_out(self.dropout(concat_elu(h)))
        if self.condition is not None:
            h = h + self.condition(condition)
        return _State.of(add_gated(x.value, h))


class PixelCNNNetwork(nn.Module):
    """The two-stream U-net of PixelCNN++, from rescaled pixels to mixture parameters.

    The vertical stream at (r, c) depends on the rows above r, the horizontal stream also on the
    pixels left of c in row r. On the way down the hierarchies, the vertical stream is a skip input
    of the horizontal stream; on the way up, each block also has its mirror image as a skip input.
    """

    def __init__(
        self,
        n_channels: int,
        n_out: int,
        *,
        n_filters: int,
        n_resnet: int,
        n_hierarchies: int,
        n_classes: int,
        dropout: float,
        weight_norm: bool,
    ) -> None:
        super().__init__()

        def conv(*shape: Any, stride: int = 1) -> PixelCNNLayer:
            return PixelCNNLayer(*shape, stride=stride, weight_norm=weight_norm)

        def pairs(n: int, vertical_skip: int, horizontal_skip: int) -> nn.ModuleList:
            skips = {"vertical": vertical_skip, "horizontal": horizontal_skip}
            return nn.ModuleList(
                nn.ModuleList(
                    _GatedBlock(
                        stream,
                        n_filters,
                        n_skip=n_skip,
                        n_classes=n_classes,
                        dropout=dropout,
                        weight_norm=weight_norm,
                    )
                    for stream, n_skip in skips.items()
                )
                for _ in range(n)
            )

        self.first_vertical = conv(n_channels, n_filters, (2, 3), (2, 1))
        self.first_above = conv(n_channels, n_filters, (1, 3), (1, 1))
        self.first_left = conv(n_channels, n_filters, (2, 1), (1, 1))
        self.down = nn.ModuleList(pairs(n_resnet, 0, 1) for _ in range(n_hierarchies))
        self.contract = nn.ModuleList(
            nn.ModuleList(
                conv(n_filters, n_filters, size, _GatedBlock.REACH, stride=2)
                for size in _GatedBlock.KERNELS.values()
            )
            for _ in range(n_hierarchies - 1)
        )
        self.up = nn.ModuleList(pairs(n_resnet + (i > 0), 1, 2) for i in range(n_hierarchies))
        self.expand = nn.ModuleList(
            nn.ModuleList(
                _Upsample(n_filters, size, weight_norm=weight_norm)
                for size in _GatedBlock.KERNELS.values()
            )
            for _ in range(n_hierarchies - 1)
        )
        self.head = conv(n_filters, n_out)
        self.scale = 2 ** (n_hierarchies - 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.scale, 0, -height % self.scale))
        v, h = (
            _State.of(self.first_vertical(x)),
            _State.of(self.first_above(x) + self.first_left(x)),
        )
        passed = [(v, h)]
        for i, blocks in enumerate(self.down):
            if i:
                v, h = (
                    _State.of(contract(s.value))
                    for contract, s in zip(self.contract[i - 1], (v, h), strict=True)
                )
                passed.append((v, h))
            for vertical, horizontal in blocks:
                v = vertical(v, condition=condition)
                h = horizontal(h, [v], condition)
                passed.append((v, h))
        passed.pop()
        for i, blocks in enumerate(self.up):
            if i:
                v, h = (
                    _State.of(expand(s.value))
                    for expand, s in zip(self.expand[i - 1], (v, h), strict=True)
                )
            for vertical, horizontal in blocks:
                v_down, h_down = passed.pop()
                v = vertical(v, [v_down], condition)
                h = horizontal(h, [v, h_down], condition)
        with torch.autocast(x.device.type, enabled=False):
            out = self.head(F.elu(h.value.to(self.head.weight.dtype)))
            return out[:, :, :height, :width]
