"""The detectors' interface to a network: features and logits of data sets."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import joblib
import numpy.typing as npt
import torch
from torch import Tensor

from skood._caching import cached
from skood._data.checked_data import CheckedData
from skood._torch.batching import batch_multiple, evaluating, map_batches, scoring_batch_size
from skood._torch.packing import content_of, tensors_of
from skood._torch.threads import computing
from skood.classifiers._forward import ForwardPass
from skood.classifiers._inputs import readable
from skood.classifiers._outputs import Outputs, log_probabilities
from skood.classifiers._reading import Reading, require
from skood.classifiers._trial import try_network

__all__ = ["Network"]


class Network(ForwardPass):
    """A trained module that is applied to data sets in batches, and whose outputs are cached.

    For the parameters, see :class:`ForwardPass`.
    """

    def read(self, data: CheckedData) -> Reading:
        """Determine how the module is read, on the first items of the user's data.

        Raises
        ------
        ValueError
            If the module does not accept the data, does not return one vector per item, or returns
            an output that depends on the other items.
        """
        if self.reading is None:
            with computing:
                known = self._recall(data, "network_readings")
                if known is None:
                    with evaluating(self.module), torch.no_grad():
                        known = try_network(self, data)
                    data.network_readings[self.module] = self._version(), known
            self.reading = known
        return self._known

    def require(self, reads: str, name: str) -> None:
        """Raise an error if the network lacks what an estimator reads.

        Parameters
        ----------
        reads : {"logits", "network", "features", "head"}
            As in :func:`~skood.classifiers._reading.require`.
        name : str
            Name of the estimator, for the error message.
        """
        is_stated = self.multilabel or self.output is not None
        require(self._known, reads, name=name, network=self.name, is_stated=is_stated)

    def in_float32(self) -> Network:
        """Return the same network in float32 if it computes in half precision.

        Half precision would lose a step along a gradient to rounding.
        """
        if self.dtype not in (torch.float16, torch.bfloat16):
            return self
        network = copy.copy(self)
        network.module = copy.deepcopy(self.module).float()
        # Factors that were determined in half precision are inaccurate.
        network.reading = None
        return network

    def map(
        self,
        function: Callable[[Any], Tensor | tuple[Tensor, ...]],
        data: CheckedData,
        description: str,
    ) -> npt.NDArray | tuple[npt.NDArray, ...]:
        """Apply a function of the network's input to every item, in batches."""
        reading = self.read(data)
        open_data, tensor = self.make_input(self.module, reading)

        def run(items: Any) -> Tensor | tuple[Tensor, ...]:
            values = function(tensor(items))
            return tuple(map(readable, values)) if isinstance(values, tuple) else readable(values)

        data = open_data(data)
        # An item of fields or tokens needs more memory than its values.
        shape = (1, data.n_values) if data.has_fields or reading.integers else data.item_shape
        size = self.batch_size or scoring_batch_size(self.device, shape)
        # Batches of rows are padded for our own networks, which are small; others may be large.
        few = batch_multiple(shape) if reading.certain else 1
        with evaluating(self.module):
            return map_batches(
                run,
                data,
                1 if reading.one_by_one else size,
                multiple_of=self.fixed_batch_size or few,
                device=self.device,
                n_workers=self.n_workers,
                verbose=self.verbose,
                description=description,
            )

    def outputs(self, data: CheckedData, memory: str | joblib.Memory | None = None) -> Outputs:
        """Return features and logits of every item, from a cache, an earlier pass or a new pass.

        Parameters
        ----------
        data : CheckedData
        memory : str, joblib.Memory or None
            Disk cache, keyed by the contents of the network and of the data.
        """
        known = self._recall(data, "network_outputs")
        if known is None:
            with _one_pass_over(data):
                known = self._recall(data, "network_outputs")
                if known is None:
                    known = self._new_outputs(data, memory)
                    data.network_outputs[self.module] = self._version(), known
        return known

    def _new_outputs(self, data: CheckedData, memory: str | joblib.Memory | None) -> Outputs:
        self.read(data)
        if memory is None:
            return _compute(self, data, "")
        compute = cached(memory, _compute, ignore=["network", "data"])
        return compute(self, data, joblib.hash((self._content(), data.content())))

    def _recall(self, data: CheckedData, what: str) -> Any:
        """Return what was stored for these data; for outputs, also rows of a larger data set."""
        version, known = getattr(data, what).get(self.module, (None, None))
        if known is not None and version == self._version():
            return known
        if data.parent is None:
            return None
        parent, rows = data.parent
        known = self._recall(parent, what)
        return known[rows] if isinstance(known, Outputs) else known

    def _version(self) -> tuple:
        """Return a key that changes when weights are changed in place or replaced."""
        tensors = tensors_of(self.module).values()
        return (
            tuple((id(t), 0 if t.is_inference() else t._version) for t in tensors),
            self.output,
            self.features_from,
            self.multilabel,
            self.is_extractor,
            self.settings,
        )

    def _content(self) -> str:
        """Return a hash of architecture and weights that is the same in every process."""
        how = self.output, self.features_from, self.multilabel, self.is_extractor, self.settings
        try:
            # The outputs do not depend on the data that the network was tried on.
            reading = self.reading and replace(self.reading, inputs=())
            return joblib.hash((content_of(self.module), how, reading))
        except Exception as error:
            raise ValueError(
                "memory= needs a network, and functions output= and features_from=, that can be "
                f"pickled, but {type(error).__name__}: {error}; define the functions in a module, "
                "or leave memory out"
            ) from error


# Locks of data sets, by process: a forked process does not release the locks of other threads.
_locks: WeakKeyDictionary[CheckedData, dict[int, threading.RLock]] = WeakKeyDictionary()


def _one_pass_over(data: CheckedData) -> threading.RLock:
    """Return a lock, so that threads that share data wait for each other's pass."""
    return _locks.setdefault(data, {}).setdefault(os.getpid(), threading.RLock())


def _compute(network: Network, data: CheckedData, content: str) -> Outputs:
    def features_and_logits(x: Any) -> tuple[Tensor, Tensor]:
        features, logits, _ = network.forward(x)
        return features, logits

    features, logits = network.map(features_and_logits, data, "forward pass")
    network.check_finite(logits)
    if network.is_extractor:
        return Outputs(logits[:, :0], logits[:, :0], features)
    log_proba = log_probabilities(logits, network.multilabel)
    reading = network.reading
    assert reading is not None
    normalized = reading.head is None and reading.link in ("softmax", "log_softmax")
    return Outputs(logits, log_proba, features, normalized, network.multilabel)
