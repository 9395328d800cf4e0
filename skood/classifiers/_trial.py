"""Trial of a network on the first items of the user's data: its input and its output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood.classifiers._forward import ForwardPass
from skood.classifiers._head import find_head
from skood.classifiers._inputs import first_layer, mismatch, n_items_of, ranges_of
from skood.classifiers._reading import Reading
from skood.classifiers._returned import layer_named, named_features, tolerance

__all__ = ["try_network"]

# Number of items on which a network is tried.
_TRIED = 8


def try_network(network: ForwardPass, data: CheckedData) -> Reading:
    """Determine how a network is read.

    The network runs on a few items in several forms, until it accepts one. It then runs on all of
    them but the first, which shows the layer that computes the output, and whether the output for
    an item depends on its batch.

    Parameters
    ----------
    network : ForwardPass
        Module in eval mode.
    data : CheckedData

    Raises
    ------
    ValueError
        If the module does not accept the data, does not return one vector per item, or returns an
        output that depends on the other items.
    """
    rows = np.arange(min(_TRIED, len(data)))
    others = rows[1:] if len(rows) > 2 else rows
    if network.fixed_batch_size is not None:
        # For a network that was exported for one batch size, change the order instead.
        rows = np.resize(rows, network.fixed_batch_size)
        others = np.roll(np.arange(len(rows)), 1)
    form, output = _first_output(network, data.subset(rows))
    network.check_finite(output, "the first ")
    with network.read_as(form):
        found, again = _second_output(network, data.subset(rows[others]), output.shape[1])
        x = network.input_of(data.subset(rows))
    one_by_one = _depends_on_batch(network, output[others], again)
    return replace(
        found,
        as_given=form.as_given,
        integers=form.integers,
        one_by_one=one_by_one,
        inputs=ranges_of(x),
    )


def _first_output(network: ForwardPass, data: CheckedData) -> tuple[Reading, Tensor]:
    """Return the first form of the data that the module accepts, and the output."""
    first_error: ValueError | None = None
    for form in _forms(network.module, data):
        with network.read_as(form):
            x = network.input_of(data)
            try:
                return form, _checked_output(network, x)
            except ValueError as error:
                first_error = first_error or error
    assert first_error is not None, "there is always a form to try"
    raise first_error


def _checked_output(network: ForwardPass, x: Any) -> Tensor:
    returned = network.call(x)
    try:
        return network.output_of(returned, n_items_of(x))
    except ValueError as error:
        on_rows = isinstance(first_layer(network.module), nn.Linear)
        if on_rows and isinstance(x, Tensor) and x.ndim == 4:
            # A linear layer treats the last axis of images as features.
            raise ValueError(
                f"{mismatch(network.module, x)}. {error}; or give X as rows, or begin the "
                "network with nn.Flatten"
            ) from error
        raise


def _second_output(
    network: ForwardPass, data: CheckedData, n_outputs: int
) -> tuple[Reading, Tensor]:
    """Return the reading of the module's layers in a pass, and the output."""
    x = network.input_of(data)
    returned: list[Any] = []
    seen: list[Any] = []

    def run() -> Tensor:
        returned.append(network.call(x))
        return network.output_of(returned[0], len(data))

    def features() -> Tensor | None:
        return named_features(network.features_from, returned[0], seen, len(data))

    if network.is_extractor:
        output = run()
        return Reading(n_outputs=output.shape[1], n_features=output.shape[1]), output
    layer = layer_named(network.module, network.features_from)
    hook = layer and layer.register_forward_hook(lambda layer, args, out: seen.append(out))
    try:
        found = find_head(network.module, n_outputs, run, features)
    finally:
        if hook is not None:
            hook.remove()
    return found, network.output_of(returned[0], len(data))


def _depends_on_batch(network: ForwardPass, output: Tensor, again: Tensor) -> bool:
    """Whether the same items have different outputs in another batch."""
    # Dynamic quantisation computes its scale from the whole batch.
    if any("quantized.dynamic" in type(layer).__module__ for layer in network.module.modules()):
        return True
    size = float(output.abs().amax()) or 1.0
    difference = float((output.double() - again.double()).abs().amax())
    if difference <= 100 * tolerance(output.dtype) * size:
        return False
    raise ValueError(
        f"{network.name} puts out different values for the same items in another batch: the "
        f"difference is {difference / size:.2g} of the size of the output. A score must depend on "
        "its item alone. Look for dropout that stays on in eval mode, batch normalisation without "
        "running statistics, or a layer that needs batch_first=True"
    )


def _forms(module: nn.Module, data: CheckedData) -> Iterator[Reading]:
    """Yield the forms in which the module may accept the data, the most likely first."""
    first = first_layer(module)
    whole = not data.has_fields and data.dtype.kind in "iu"
    integers = [False]
    if whole and isinstance(first, (nn.Embedding, nn.EmbeddingBag)):
        integers = [True]
    elif whole and data.dtype != np.uint8 and not data.is_image:
        integers = [False, True]
    shapes = [False]
    if not data.has_fields and len(data.came_as) == 2:
        # Grey images, or signals and sequences.
        shapes = [False, True] if isinstance(first, nn.Conv2d) else [True, False]
    for as_given in shapes:
        for of_integers in integers:
            yield Reading(as_given=as_given, integers=of_integers)
