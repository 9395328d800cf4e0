"""Networks whose last layer is left out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BeforeHead", "BeforeTimmHead", "Tower"]


class BeforeHead(nn.Module):
    """Features of a classifier: the input of the linear layer that makes its logits.

    Parameters
    ----------
    network : Module
    head : str
        Name of the layer.
    """

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        seen: list[tuple[Tensor, Tensor]] = []
        hook = self.network.get_submodule(self.head).register_forward_hook(
            lambda _, given, made: seen.append((given[0], made))
        )
        try:
            logits = self.network(x)
        finally:
            hook.remove()
        if len(seen) != 1 or not torch.equal(seen[0][1], logits):
            raise ValueError(
                f"{type(self.network).__name__} does not return the output of its last linear "
                f"layer, {self.head!r}; choose the features with "
                "skood.FeatureExtractor(module, output=...)"
            )
        return seen[0][0]


class BeforeTimmHead(nn.Module):
    """Features of a classifier of timm, as it makes them with ``num_classes=0``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        network: Any = self.network
        return network.forward_head(network.forward_features(x), pre_logits=True)


class Tower(nn.Module):
    """One tower of a network of transformers for images and texts, or sounds and texts.

    Parameters
    ----------
    network : Module
    kind : {"image", "text", "audio"}
    """

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    @property
    def config(self) -> Any:
        return self.network.config

    def get_input_embeddings(self) -> Any:
        return self.network.text_model.get_input_embeddings()

    def forward(self, **fields: Tensor) -> Tensor:
        features = getattr(self.network, f"get_{self.kind}_features")(**fields)
        return features if isinstance(features, Tensor) else features.pooler_output
