"""The network of PixelCNN++."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PixelCNNLayer", "PixelCNNNetwork"]


def _concat_elu(x: Tensor) -> Tensor:
    # In place, the backward pass reads the output and computes no exponential again.
    return F.elu(torch.cat([x, -x], 1), inplace=True)


class PixelCNNLayer(nn.Module):
    """Convolution on a padded (or, with negative padding, cropped) input.

    Shifting the input instead of masking the kernel spends no work on what is masked.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel_size: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        *,
        stride: int = 1,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in, *kernel_size))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.xavier_uniform_(self.weight)
        self.gain = nn.Parameter(torch.ones(n_out, 1, 1, 1)) if weight_norm else None
        self.padding = padding
        self.stride = stride

    def kernel(self) -> Tensor:
        if self.gain is None:
            return self.weight
        return self.gain * self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None]

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = F.pad(x, self.padding)
        return F.conv2d(x, self.kernel(), self.bias, self.stride)


class _Upsample(PixelCNNLayer):
    """Transposed convolution with stride 2 whose output is cropped to twice the input."""

    def __init__(self, n_features: int, kernel_size: tuple[int, int], *, weight_norm: bool) -> None:
        super().__init__(n_features, n_features, kernel_size, weight_norm=weight_norm)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, self.kernel().transpose(0, 1), self.bias, stride=2)
        overlap = y.shape[3] - 2 * x.shape[3]
        return y[..., overlap:]


class _GatedBlock(nn.Module):
    """Gated residual block, with a skip input and a condition where it has them.

    out = x + a sigmoid(b), where (a, b) are the halves of the second convolution.
    """

    # Rows -1 and 0; columns -1, 0, 1 of the vertical and -1, 0 of the horizontal stream.
    SHAPES = {"vertical": ((2, 3), (1, 1, 1, 0)), "horizontal": ((2, 2), (1, 0, 1, 0))}

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
        kernel_size, padding = self.SHAPES[stream]

        def conv(n_in: int, n_out: int, *shape: Any) -> PixelCNNLayer:
            return PixelCNNLayer(n_in, n_out, *shape, weight_norm=weight_norm)

        self.conv_in = conv(2 * n_filters, n_filters, kernel_size, padding)
        self.conv_skip = conv(2 * n_skip * n_filters, n_filters) if n_skip else None
        self.conv_out = conv(2 * n_filters, 2 * n_filters, kernel_size, padding)
        self.condition = conv(n_classes, 2 * n_filters) if n_classes else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, skip: Tensor | None, condition: Tensor | None) -> Tensor:
        h = self.conv_in(_concat_elu(x))
        if self.conv_skip is not None:
            h = h + self.conv_skip(_concat_elu(skip))
        h = self.conv_out(self.dropout(_concat_elu(h)))
        if self.condition is not None:
            h = h + self.condition(condition)
        a, b = h.chunk(2, 1)
        return x + a * torch.sigmoid(b)


class PixelCNNNetwork(nn.Module):
    """The two-stream U-net of PixelCNN++, from pixels in [-1, 1] to mixture parameters.

    The vertical stream at (r, c) sees the rows above r, the horizontal stream also the pixels
    left of c in row r. Down the hierarchies the horizontal stream takes the vertical one as a
    skip input; up again each block also takes its mirror image from the way down.
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
        self.scale = 2 ** (n_hierarchies - 1)

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

        self.first_vertical = conv(n_channels, n_filters, (2, 3), (1, 1, 2, -1))
        self.first_above = conv(n_channels, n_filters, (1, 3), (1, 1, 1, -1))
        self.first_left = conv(n_channels, n_filters, (2, 1), (1, -1, 1, 0))
        self.down = nn.ModuleList(pairs(n_resnet, 0, 1) for _ in range(n_hierarchies))
        self.contract = nn.ModuleList(
            nn.ModuleList(conv(n_filters, n_filters, *shape, stride=2) for shape in shapes)
            for shapes in [_GatedBlock.SHAPES.values()] * (n_hierarchies - 1)
        )
        self.up = nn.ModuleList(pairs(n_resnet + (i > 0), 1, 2) for i in range(n_hierarchies))
        self.expand = nn.ModuleList(
            nn.ModuleList(
                _Upsample(n_filters, size, weight_norm=weight_norm)
                for size, _ in _GatedBlock.SHAPES.values()
            )
            for _ in range(n_hierarchies - 1)
        )
        self.head = conv(n_filters, n_out)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.scale, 0, -height % self.scale))
        v, h = self.first_vertical(x), self.first_above(x) + self.first_left(x)
        passed = [(v, h)]
        for i, blocks in enumerate(self.down):
            if i:
                v, h = (
                    contract(s) for contract, s in zip(self.contract[i - 1], (v, h), strict=True)
                )
                passed.append((v, h))
            for vertical, horizontal in blocks:
                v = vertical(v, None, condition)
                h = horizontal(h, v, condition)
                passed.append((v, h))
        passed.pop()
        for i, blocks in enumerate(self.up):
            if i:
                v, h = (expand(s) for expand, s in zip(self.expand[i - 1], (v, h), strict=True))
            for vertical, horizontal in blocks:
                v_down, h_down = passed.pop()
                v = vertical(v, v_down, condition)
                h = horizontal(h, torch.cat([v, h_down], 1), condition)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(F.elu(h.to(self.head.weight.dtype)))[:, :, :height, :width]
