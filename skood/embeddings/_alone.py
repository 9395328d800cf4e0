"""Comparison of the features of an item in a batch with its features alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from skood.classifiers._inputs import dtype_of
from skood.classifiers._returned import tolerance

__all__ = ["check_alone"]

# Ways to use a module whose features were compared.
_compared: WeakKeyDictionary[nn.Module, set[Any]] = WeakKeyDictionary()


def check_alone(
    compute: Callable[[dict[str, Tensor], Tensor | None], Tensor],
    x: dict[str, Tensor],
    mask: Tensor | None,
    vectors: Tensor,
    *,
    module: nn.Module,
    pooling: Any,
    pads_to_batch: bool,
    advice: str,
) -> None:
    """Raise an error if the features of an item depend on its batch, once for a module.

    The item with the most padding is run alone, without padding.

    Parameters
    ----------
    compute : callable
        Takes fields and mask of a batch; returns features (b, d).
    x : dict of Tensor
    mask : Tensor of shape (b, n_tokens) or None
        Which tokens are no padding.
    vectors : Tensor of shape (b, d)
        Features of the batch.
    module : Module
    pooling : object
    pads_to_batch : bool
        Whether the length of a batch is the length of its longest item.
    advice : str
        What may help against padding, for the error message.
    """
    if len(vectors) < 2:
        return
    row, kept = 0, None
    along: set[str] = set()
    if mask is not None and pads_to_batch:
        along = {name for name, part in x.items() if part.shape[:2] == mask.shape}
        row = int(mask.sum(1).argmin())
        if along and not bool(mask[row].all()):
            kept = mask[row].bool()
    # Padding on the other side may shift positions.
    side = None if kept is None else bool(kept[0])
    key = str(pooling), side
    known = _compared.setdefault(module, set())
    if key in known:
        return
    part = {name: values[row : row + 1] for name, values in x.items()}
    mask = None if mask is None else mask[row : row + 1]
    if kept is not None and mask is not None:
        part = {name: v[:, kept] if name in along else v for name, v in part.items()}
        mask = mask[:, kept]
    alone = compute(part, mask)[0]
    size = float(vectors[row].abs().amax()) or 1.0
    difference = float((vectors[row] - alone).abs().amax()) / size
    if not difference <= 10 * tolerance(dtype_of(module)):
        reason = (
            "the other items of the batch. Look for batch normalisation without running "
            "statistics, for dropout that stays on in eval mode, or give batch_size=1"
        )
        if kept is not None:
            reason = f"padding. {advice}batch_size=1 computes every item without padding"
        raise ValueError(
            f"the features that {type(module).__name__} computes of an item in a batch differ from "
            f"the features of the item alone by {difference:.2g} of their size: they depend on "
            f"{reason}"
        )
    known.add(key)
