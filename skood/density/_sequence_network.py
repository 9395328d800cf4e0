"""Networks that predict each symbol of a sequence from the symbols before it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SequenceNetwork"]


class _CausalLayer(nn.Module):
    """Gated residual layer: a dilated convolution over positions t, t - d, t - 2 d, ...

    The convolution is a linear layer on its inputs, side by side: a convolution with a kernel one
    pixel high has wrong gradients in bfloat16 on some CPUs.
    """

    def __init__(self, n_features: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.filter = nn.Linear(kernel_size * n_features, 2 * n_features)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(n_features, n_features)
        # The positions of the inputs, relative to the output.
        self.delays = [dilation * k for k in reversed(range(kernel_size))]

    def forward(self, h: Tensor) -> Tensor:
        length, reach = h.shape[1], self.delays[0]
        padded = F.pad(h, (0, 0, reach, 0))
        return self._gated(h, [padded[:, reach - d : reach - d + length] for d in self.delays])

    def step(self, past: list[Tensor]) -> Tensor:
        """Compute the newest position from the inputs at all positions, each of shape (b, C)."""
        zeros = torch.zeros_like(past[-1])
        inputs = [past[-1 - d] if d < len(past) else zeros for d in self.delays]
        return self._gated(past[-1], inputs)

    def _gated(self, h: Tensor, inputs: list[Tensor]) -> Tensor:
        a, b = self.filter(torch.cat(inputs, -1)).chunk(2, -1)
        return h + self.out(self.dropout(a.tanh() * b.sigmoid()))


class _Convolutions(nn.Module):
    """Causal layers with dilations 1, 2, 4, ..., and a linear layer before them."""

    def __init__(
        self, n_in: int, n_features: int, n_layers: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.first = nn.Linear(n_in, n_features)
        dilations, reach = [], 1
        for _ in range(n_layers):
            dilations.append(reach)
            reach *= kernel_size
        self.layers = nn.ModuleList(
            _CausalLayer(n_features, kernel_size, dilation, dropout) for dilation in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for layer in self.layers:
            h = layer(h)
        return h

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = state or [[] for _ in self.layers]
        h = self.first(x)
        for layer, past in zip(self.layers, state, strict=True):
            past.append(h)
            # Older inputs are not read again.
            del past[: -1 - layer.delays[0]]
            h = layer.step(past)
        return h, state


class _RecurrentLayer(nn.Module):
    """Long short-term memory (LSTM), whose forget gates start open, with a bias of 1.

    ``nn.LSTM`` has the same function, but also holds its weights outside of its parameters.
    """

    def __init__(self, n_in: int, n_features: int) -> None:
        super().__init__()
        self.input = nn.Linear(n_in, 4 * n_features)
        self.recurrent = nn.Linear(n_features, 4 * n_features, bias=False)
        nn.init.zeros_(self.input.bias)
        # Of the input, forget, cell and output gates.
        nn.init.ones_(self.input.bias.detach()[n_features : 2 * n_features])

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the outputs (b, L, C) and the state after the last position."""
        if state is None:
            zeros = x.new_zeros(1, len(x), self.recurrent.in_features)
            state = zeros, zeros
        bias = self.input.bias
        weights = [self.input.weight, self.recurrent.weight, bias, torch.zeros_like(bias)]
        h, *state = torch.lstm(x, state, weights, True, 1, 0.0, self.training, False, True)
        return h, tuple(state)


class _Recurrent(nn.Module):
    def __init__(self, n_in: int, n_features: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        sizes = [n_in, *[n_features] * (n_layers - 1)]
        self.layers = nn.ModuleList(_RecurrentLayer(size, n_features) for size in sizes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        return x

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        x, new = x[:, None], []
        for layer, old in zip(self.layers, state or [None] * len(self.layers), strict=True):
            x, after = layer(x, old)
            new.append(after)
        return x[:, 0], new


class SequenceNetwork(nn.Module):
    """Logits of each symbol, given the symbols before it.

    Symbols are codes 0, 1, ..., and a negative code is padding. In place of the symbol before the
    first, the network reads zeros.

    Parameters
    ----------
    n_symbols : int
    network : {"convolution", "lstm"}
    hidden_features, n_layers : int
    kernel_size : int
        Of convolutions.
    embedding_size : int or None
        None: one-hot vectors.
    dropout : float
    """

    def __init__(
        self,
        n_symbols: int,
        *,
        network: str,
        hidden_features: int,
        n_layers: int,
        kernel_size: int,
        embedding_size: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.n_symbols = n_symbols
        self.embedding = None if embedding_size is None else nn.Embedding(n_symbols, embedding_size)
        n_in = embedding_size or n_symbols
        self.body: Any = (
            _Recurrent(n_in, hidden_features, n_layers, dropout)
            if network == "lstm"
            else _Convolutions(n_in, hidden_features, n_layers, kernel_size, dropout)
        )
        self.head = nn.Linear(hidden_features, n_symbols)

    def forward(self, codes: Tensor) -> Tensor:
        """Return logits of shape (b, L, n_symbols), float32, for codes (b, L), int64."""
        previous = F.pad(codes[:, :-1], (1, 0), value=-1)
        return self._logits(self.body(self._vectors(previous)))

    def step(self, previous: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the logits of the next symbol, (b, n_symbols), and the state for the one after.

        Parameters
        ----------
        previous : Tensor of shape (b,), int64
            Codes of the symbol before; -1 at the first position.
        state : object, default=None
            From the step before; None at the first position.
        """
        h, state = self.body.step(self._vectors(previous), state)
        return self._logits(h), state

    def _vectors(self, codes: Tensor) -> Tensor:
        is_symbol = (codes >= 0)[..., None]
        codes = codes.clamp(min=0)
        if self.embedding is None:
            vectors = F.one_hot(codes, self.n_symbols).float()
        else:
            vectors = self.embedding(codes)
        return vectors * is_symbol

    def _logits(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            return self.head(F.elu(h.to(self.head.weight.dtype)))
