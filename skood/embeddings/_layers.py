"""Hidden states of a network of transformers, averaged over its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LayerAverage"]


class LayerAverage(nn.Module):
    """Network whose tokens are the mean over the layers of a network of transformers.

    Intermediate layers tell more about some texts than the last one; [1]_ averages all of them. The
    mean over layers is the same before and after the mean over tokens.

    Parameters
    ----------
    network : Module
        A network of transformers that returns ``hidden_states`` with ``output_hidden_states=True``.
    layers : sequence of int, default=None
        Which of the ``hidden_states`` are averaged: 0 is the embedding of the tokens, 1 the output
        of the first layer, -1 the output of the last layer. None: all layers but the embedding.

    Notes
    -----
    Since transformers 5, a network that has returned its hidden states holds hooks that cannot be
    pickled, and neither can an extractor of it: save the network by its own ``save_pretrained``.

    References
    ----------
    .. [1] P. Colombo, E. D. C. Gomes, G. Staerman, N. Noiry, P. Piantanida, "Beyond
       Mahalanobis-Based Scores for Textual OOD Detection", NeurIPS 2022.

    Examples
    --------
    >>> from skood import CosinePrototypes
    >>> from skood.embeddings import LayerAverage, from_huggingface
    >>> averaged = LayerAverage(network, layers=(1, -1))  # doctest: +SKIP
    >>> features = from_huggingface(averaged, processor=tokenizer)  # doctest: +SKIP
    >>> CosinePrototypes(features).fit(texts)  # doctest: +SKIP
    """

    def __init__(self, network: nn.Module, layers: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.layers = None if layers is None else tuple(layers)
        if self.layers == ():
            raise ValueError("layers is empty; expected numbers of layers, or None for all")

    @property
    def config(self) -> Any:
        """Configuration of the network."""
        return self.network.config

    @property
    def main_input_name(self) -> str:
        """Name of the input that the network reads."""
        return self.network.main_input_name

    def get_input_embeddings(self) -> nn.Module:
        """Layer that embeds the tokens.

        Returns
        -------
        Module
        """
        return self.network.get_input_embeddings()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **fields: Any
    ) -> Tensor:
        """Return the mean over layers.

        Parameters
        ----------
        input_ids : Tensor of shape (b, n_tokens)
        attention_mask : Tensor of shape (b, n_tokens), default=None
        **fields : Tensor
            Further inputs of the network.

        Returns
        -------
        Tensor of shape (b, n_tokens, d), float32
        """
        returned = self.network(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, **fields
        )
        states = getattr(returned, "hidden_states", None)
        if states is None:
            raise ValueError(
                f"{type(self.network).__name__} returns no hidden_states; expected a network of "
                "transformers"
            )
        chosen = range(1, len(states)) if self.layers is None else self.layers
        wrong = [k for k in chosen if not -len(states) <= k < len(states)]
        if wrong:
            raise ValueError(
                f"layers has {wrong[0]}, but {type(self.network).__name__} returns "
                f"{len(states)} hidden_states, 0 to {len(states) - 1}"
            )
        # One layer after another, so that half precision adds in float32.
        total = sum(states[k].float() for k in chosen)
        assert isinstance(total, torch.Tensor)
        return total / len(chosen)
