"""The detectors' interface to a network: logits and features from one pass."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import joblib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skood._caching import cached
from skood._checked_data import CheckedData
from skood._torch.batching import (
    batch_multiple,
    evaluating,
    map_batches,
    scoring_batch_size,
)
from skood._torch.packing import content_of, tensors_of
from skood.classifiers._reading import Head, Reading, as_logits, find_head, pick, tolerance

__all__ = ["Network", "Outputs", "copies_of", "n_items_of", "requiring_gradient"]

# A network's mode and hooks are shared, and it uses all cores: only one thread runs at a time.
_one_at_a_time = threading.RLock()

# Items on which a network is tried.
_TRIED = 8


@dataclass(frozen=True)
class Outputs:
    """Outputs of a classifier for a data set.

    Attributes
    ----------
    logits : ndarray of shape (n, n_classes)
    log_proba : ndarray of shape (n, n_classes), nats
    features : ndarray of shape (n, d)
        Penultimate features; d is 0 where they are not known.
    normalized : bool
        Whether `logits` are logarithms of probabilities, whose size says nothing.
    multilabel : bool
        Whether every class has a probability of its own, the sigmoid of its logit.
    """

    logits: npt.NDArray
    log_proba: npt.NDArray
    features: npt.NDArray
    normalized: bool = False
    multilabel: bool = False

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: slice | npt.NDArray[np.integer]) -> Outputs:
        return self._each(lambda array: array[rows])

    def astype(self, dtype: npt.DTypeLike, order: Literal["K", "C"] = "K") -> Outputs:
        """Return the same numbers in another precision, or order in memory."""
        return self._each(lambda array: array.astype(dtype, order=order, copy=False))

    def _each(self, function: Callable[[npt.NDArray], npt.NDArray]) -> Outputs:
        arrays = map(function, (self.logits, self.log_proba, self.features))
        return Outputs(*arrays, self.normalized, self.multilabel)


class Network:
    """A trained module with its preprocessing.

    Parameters
    ----------
    module : Module
    make_input : callable
        Takes the module and a :class:`~skood.classifiers._reading.Reading`; returns a function that brings checked
        data into the module's shape, and one that turns items into its input, on its device.
    reading : Reading or None, default=None
        How the module's output is read; None finds it out on the first data.
    output : str, int, callable or None, default=None
        Which part of what the module returns are the logits.
    features_from : str, callable or None, default=None
        Name of the layer whose output are the features, or a function of what the module returns.
    multilabel : bool, default=False
        Whether the classes do not exclude each other.
    is_extractor : bool, default=False
        Whether the output is a feature, and no head is looked for.
    step : Tensor or float, default=1.0
        Change of the module's input for a perturbation of size 1: 1 for pixels in [0, 1],
        the standard deviation of each feature for rows.
    settings : tuple, default=()
        Whatever else the outputs depend on, for the cache.
    batch_size : int or None, default=None
        Items in a batch; None chooses it by the device and the size of an item.
    n_workers : int or None, default=None
        Processes that read streamed data.
    verbose : {"auto"}, bool or int, default="auto"
    """

    def __init__(
        self,
        module: nn.Module,
        make_input: Callable[[nn.Module, Reading], tuple[Callable, Callable]],
        *,
        reading: Reading | None = None,
        output: Any = None,
        features_from: Any = None,
        multilabel: bool = False,
        is_extractor: bool = False,
        step: Tensor | float = 1.0,
        settings: tuple = (),
        batch_size: int | None = None,
        n_workers: int | None = None,
        verbose: bool | int | str = "auto",
    ) -> None:
        self.module = module
        self.make_input = make_input
        self.output = output
        self.features_from = features_from
        self.multilabel = multilabel
        self.is_extractor = is_extractor
        self.step = step
        self.settings = settings
        self.batch_size = batch_size
        self.n_workers = n_workers
        self.verbose = verbose
        self._set(reading)

    def _set(self, reading: Reading | None) -> None:
        self.reading = reading
        if reading is not None:
            self.open, self.tensor = self.make_input(self.module, reading)

    @property
    def device(self) -> torch.device:
        return device_of(self.module)

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of(self.module)

    @property
    def _is_fixed(self) -> bool:
        """Whether the network may have been exported for the batch size that the user gives."""
        return self.batch_size is not None and _is_exported(self.module)

    @property
    def name(self) -> str:
        return type(self.module).__name__

    @property
    def n_classes(self) -> int:
        """Number of columns of the logits."""
        n_outputs = self._known.n_outputs
        return 2 if n_outputs == 1 and not self._keeps_one else n_outputs

    @property
    def last_layer(self) -> nn.Module | None:
        """The layer that makes the logits, if one does."""
        head = self._known.head
        return None if head is None else self.module.get_submodule(head.name)

    @property
    def _known(self) -> Reading:
        assert self.reading is not None, "`read` comes first"
        return self.reading

    @property
    def _keeps_one(self) -> bool:
        return self.multilabel or self.is_extractor or self._known.certain

    @property
    def head(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weight (n_classes, d) and bias (n_classes,) that make the logits of the features."""
        layer, head = self.last_layer, self._known.head
        assert layer is not None and head is not None and head.is_linear
        weight = layer.weight.detach().double().cpu().flatten(1).numpy()
        bias = np.zeros(len(weight))
        if layer.bias is not None:
            bias = layer.bias.detach().double().cpu().numpy()
        weight, bias = head.scale * weight, head.scale * bias
        if len(weight) == 1 and not self._keeps_one:
            weight, bias = np.vstack([0 * weight, weight]), np.append(0.0, bias)
        return weight, bias

    def read(self, data: CheckedData) -> Reading:
        """Find out how the module is to be read, on the first items of the user's data.

        Raises
        ------
        ValueError
            When the module does not take the data, does not put out one vector for each item, or
            its output for an item depends on the others.
        """
        if self.reading is None:
            with _one_at_a_time:
                known = self._recall(data, "network_readings")
                if known is None:
                    with evaluating(self.module), torch.no_grad():
                        known = self._find_reading(data)
                    data.network_readings[self.module] = self._version(), known
            self._set(known)
        return self._known

    def _find_reading(self, data: CheckedData) -> Reading:
        n_items = min(_TRIED, len(data))
        rows = np.arange(n_items)
        if self._is_fixed:
            rows = np.resize(rows, self.batch_size)
        some = data.subset(rows)
        first_error: Exception | None = None
        for form in _forms(self.module, data):
            try:
                self._set(form)
                x = self._input(some)
                output = self._first_output(x)
                break
            except ValueError as error:
                first_error = first_error or error
        else:
            self._set(None)
            assert first_error is not None, "there is always a form to try"
            raise first_error
        self._check_finite(_readable(output).cpu().numpy(), "the first ")
        # Another batch of the same items: without the first, or in another order.
        others = np.arange(1, n_items) if n_items > 2 else np.arange(n_items)
        if self._is_fixed:
            others = np.roll(np.arange(len(rows)), 1)
        fewer = some.subset(others)
        returned: list[Any] = []

        def run() -> Tensor:
            returned.append(self._call(self._input(fewer)))
            return self._output(returned[0], len(fewer))

        layer, named = self._named_layer(), []
        hook = None
        if layer is not None:
            hook = layer.register_forward_hook(lambda layer, args, out: named.append(out))
        try:
            if self.is_extractor:
                again = run()
                found = Reading(n_outputs=output.shape[1], n_features=output.shape[1])
            else:
                found = find_head(
                    self.module, run, lambda: self._named_features(returned[0], named, len(fewer))
                )
                again = self._output(returned[0], len(fewer))
        finally:
            if hook is not None:
                hook.remove()
        form = self._known
        return replace(
            found,
            as_given=form.as_given,
            integers=form.integers,
            one_by_one=self._depends_on_batch(output[others], again),
        )

    def _first_output(self, x: Any) -> Tensor:
        returned = self._call(x)
        try:
            return self._output(returned, n_items_of(x))
        except ValueError as error:
            on_rows = isinstance(_first_layer(self.module), nn.Linear)
            if on_rows and isinstance(x, Tensor) and x.ndim > 2:
                # A linear layer takes the last axis of images for features.
                raise ValueError(
                    f"{_mismatch(self.module, x)}. {error}; or give X as rows, or begin the "
                    "network with nn.Flatten"
                ) from error
            raise

    def _check_finite(self, logits: npt.NDArray, which: str = "the ") -> None:
        wrong = ~np.isfinite(logits).all(1)
        if wrong.any():
            raise ValueError(
                f"the network {self.name} makes logits that are NaN or inf of {wrong.sum()} of "
                f"{which}{len(logits)} items of X; rescale X to the values that the network was "
                "trained on, or look for NaN among its weights"
            )

    def _depends_on_batch(self, output: Tensor, again: Tensor) -> bool:
        """Whether the same items have other outputs in another batch."""
        # The scale of a dynamic quantisation is that of the whole batch.
        if any("quantized.dynamic" in type(layer).__module__ for layer in self.module.modules()):
            return True
        size = float(output.abs().amax())
        difference = float((output.double() - again.double()).abs().amax())
        if difference <= 100 * tolerance(output.dtype) * size:
            return False
        raise ValueError(
            f"{self.name} puts out something else for the same items in another batch: the "
            f"difference is {difference / size:.2g} of the size of the output. A score must belong "
            "to its item. Look for dropout that stays on in eval mode, batch normalisation without "
            "running statistics, or a layer that wants batch_first=True"
        )

    def require(self, reads: str, name: str) -> None:
        """Raise where the network, once it is read, does not have what an estimator reads.

        Parameters
        ----------
        reads : {"logits", "network", "features", "head"}
            Logits alone, a network that makes them, its penultimate features, or the weights of its
            last layer too.
        name : str
            Name of the estimator, for the error message.
        """
        reading = self._known
        stated = self.multilabel or self.output is not None
        if reads != "features" and reading.link == "sigmoid" and not stated:
            self._refuse_sigmoid(reading)
        linear = reading.head is not None and reading.head.is_linear
        known = {"features": reading.n_features > 0, "head": linear}.get(reads, True)
        if known:
            return
        if reads == "features":
            what = "penultimate features"
            advice = (
                "Name the features with PretrainedClassifier(module, features_from=...), a layer or "
                "a function of what the network returns; if its output is the feature, give "
                "FeatureExtractor(module)"
            )
        else:
            what = "the weights of the last layer"
            advice = (
                "Use a detector on logits, such as Energy, or with features_from= one on features, "
                "such as KNN; or give a network that ends in the linear layer that makes its logits"
            )
        candidates = "; ".join(reading.failures) or "no linear layer"
        if reading.is_hidden:
            candidates = "none, since the layers of a scripted or exported network cannot be seen"
        if reading.head is not None:
            candidates = f"{reading.head.name!r} is no linear map of its input"
        raise ValueError(
            f"{name} reads {what}, but no layer of {self.name} was found to make its logits. The "
            f"candidates: {candidates}. {advice}"
        )

    def _refuse_sigmoid(self, reading: Reading) -> None:
        """Raise where values from 0 to 1 may be probabilities of one label or of several."""
        if reading.n_outputs > 1:
            raise ValueError(
                f"{self.name} puts out {reading.n_outputs} values from 0 to 1 for each item that "
                "do not add up to 1, as a sigmoid for each of several labels does; give "
                "PretrainedClassifier(module, multilabel=True), or if they are logits of classes "
                "that exclude each other, say so with output=lambda out: out"
            )
        if reading.head is None:
            raise ValueError(
                f"{self.name} puts out one value from 0 to 1 for each item, which may be a "
                "probability or a logit; give the logit with output=, of a probability "
                "output=torch.logit, of a logit output=lambda out: out"
            )

    def _named_layer(self) -> nn.Module | None:
        if not isinstance(self.features_from, str):
            return None
        try:
            return self.module.get_submodule(self.features_from)
        except AttributeError as error:
            names = [name for name, _ in self.module.named_modules() if name]
            raise ValueError(
                f"features_from={self.features_from!r} is no layer of {self.name}; its layers are "
                f"{', '.join(names[-20:])}"
            ) from error

    def _named_features(self, returned: Any, seen: Sequence[Any], n_items: int) -> Tensor | None:
        """Return what `features_from` names, shape (b, d)."""
        if self.features_from is None:
            return None
        if callable(self.features_from):
            features = self.features_from(returned)
        elif len(seen) != 1:
            raise ValueError(
                f"the layer features_from={self.features_from!r} runs {len(seen)} times in a pass; "
                "name one that runs once"
            )
        else:
            features = seen[0]
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != n_items:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features)
            raise ValueError(
                f"features_from= gives {shape} for a batch of {n_items}; expected a tensor of shape "
                "(batch, d)"
            )
        if features.ndim == 3:
            raise ValueError(
                f"features_from= gives shape {tuple(features.shape)}, a vector for each of "
                f"{features.shape[1]} tokens or positions; choose or pool them with a function, "
                "such as features_from=lambda out: out.hidden_states[-1][:, 0]"
            )
        # The spatial mean of maps is what a network's own pooling would make of them.
        return features.flatten(2).mean(2) if features.ndim > 3 else features

    def _input(self, data: CheckedData) -> Any:
        data = self.open(data)
        return self.tensor(data.take(np.arange(len(data))))

    def _call(self, x: Any) -> Any:
        try:
            return self.module(**x) if isinstance(x, dict) else self.module(x)
        except (torch.cuda.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            advice = ""
            if _is_exported(self.module) and self.batch_size is None:
                advice = (
                    "; if it was exported for one batch size, give it as "
                    "PretrainedClassifier(module, batch_size=...)"
                )
            raise ValueError(
                f"{_mismatch(self.module, x)}. Its forward pass ended in {type(error).__name__}: "
                f"{error}{advice}"
            ) from error

    def _output(self, returned: Any, n_items: int) -> Tensor:
        if not self.is_extractor:
            return as_logits(pick(returned, self.output, ["logits"], self.name), n_items, self.name)
        found = pick(returned, self.output, _EMBEDDINGS, self.name)
        shape = tuple(found.shape)
        if found.ndim > 2 and set(shape[2:]) == {1}:
            found = found.flatten(1)
        if found.ndim != 2 or len(found) != n_items:
            raise ValueError(
                f"{self.name} puts out shape {shape} for a batch of {n_items}; expected one "
                "feature vector for each item, (batch, d). Choose or pool with output=, such as "
                "output=lambda out: out.mean((2, 3)) of maps, or "
                "output=lambda out: out.last_hidden_state[:, 0] of tokens"
            )
        return found

    def forward(
        self, x: Any, layers: Sequence[nn.Module] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the module once.

        Parameters
        ----------
        x : Tensor or dict of Tensor
            As returned by `tensor`.
        layers : sequence of Module
            Layers whose outputs to return as well.

        Returns
        -------
        features : Tensor of shape (b, d)
            d is 0 where the features are not known.
        logits : Tensor of shape (b, n_classes)
        activations : list of Tensor
            Output of each of `layers`.
        """
        reading, n_items = self._known, n_items_of(x)
        seen: dict[nn.Module, tuple[Any, Any]] = {}

        def note(layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            seen[layer] = args[0] if args else next(iter(kwargs.values()), None), output

        head_layer, named_layer = self.last_layer, self._named_layer()
        wanted = [layer for layer in (head_layer, named_layer, *layers) if layer is not None]
        hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in {*wanted}]
        made: list[Tensor] = []
        if head_layer is not None and not reading.certain:
            # An operation in place may follow the layer.
            hooks.append(head_layer.register_forward_hook(lambda *a: made.append(a[2].clone())))
        try:
            returned = self._call(x)
        finally:
            for hook in hooks:
                hook.remove()
        for layer in wanted:
            if layer not in seen:
                raise ValueError(
                    f"the layer {layer} is part of the network but does not run in its forward "
                    "pass; name another one"
                )
        output = self._output(returned, n_items)
        features, logits = output, output
        if not self.is_extractor:
            given = None if head_layer is None else seen[head_layer][0]
            features, logits = self._features_and_logits(output, given, made[-1] if made else None)
            if self.features_from is not None:
                outputs = [seen[named_layer][1]] if named_layer is not None else []
                named = self._named_features(returned, outputs, n_items)
                assert named is not None
                features = named
        return features, logits, [seen[layer][1] for layer in layers]

    def _features_and_logits(
        self, output: Tensor, given: Tensor | None, made: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return features and logits of a pass.

        Parameters
        ----------
        output : Tensor of shape (b, n_outputs)
        given, made : Tensor or None
            Input and output of the head; None where there is none. The output of a head that is
            certain is not needed.
        """
        reading, features, logits = self._known, output.new_empty((len(output), 0)), output
        if reading.head is None or given is None:
            stated = self.output is not None and not self.multilabel
            link = "none" if stated and reading.link == "sigmoid" else reading.link
            logits = _unlinked(output, link)
        elif made is None:
            features = given
        else:
            position = reading.head.position(made, output)
            z = reading.head.scale * reading.head.reduce(made, position)
            self._check_head(z, output, reading.head)
            features = reading.head.reduce(given, position)
            logits = output if reading.head.link == "none" else z
        if logits.shape[1] == 1 and not self._keeps_one:
            logits = F.pad(logits, (1, 0))
        return features, logits

    def _check_head(self, z: Tensor, output: Tensor, head: Head) -> None:
        """Raise where the layer that made the output of some items does not make these."""
        expected = {
            "softmax": lambda: torch.softmax(z, 1),
            "log_softmax": lambda: torch.log_softmax(z, 1),
            "sigmoid": lambda: torch.sigmoid(z),
        }.get(head.link, lambda: z)()
        size = output.detach().abs().amax()
        off = (expected - output).detach().abs().amax()
        # Values that are NaN are reported with their number, by whoever made the pass.
        if off > 10 * tolerance(output.dtype) * size:
            raise ValueError(
                f"the layer {head.name!r} of {self.name} makes the output of the first items of X, "
                f"but not of others: they differ by up to {float(off / size):.2g} of their size. "
                "What follows the layer depends on the data; name the features with "
                "features_from=, and use detectors that need no last layer"
            )

    def gradient(self, x: Any, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient in x of a loss of the logits, and the features and logits.

        No gradient is computed for the parameters.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(
                "a detector that perturbs its input needs a gradient by the input, but X holds "
                f"{'dicts of fields' if isinstance(x, dict) else 'whole numbers'}, which have none; "
                "give pixels or rows as an array of floats, or use a detector without perturbation"
            )
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_()
            features, logits, _ = self.forward(x)
            (gradient,) = self.differentiate(loss(logits), [x])
        return gradient, features.detach(), logits.detach()

    def differentiate(self, value: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradients of a number that the network has led to."""
        try:
            return torch.autograd.grad(value, inputs)
        except RuntimeError as error:
            raise ValueError(
                f"{self.name} passes no gradient back from its logits, as a quantised network does "
                f"not ({error}); give the network before it was converted, or use a detector that "
                "needs no gradient"
            ) from error

    def in_float32(self) -> Network:
        """Return the same network in float32, if it computes in half precision.

        A step along a gradient is lost in rounding there.
        """
        if self.dtype not in (torch.float16, torch.bfloat16):
            return self
        network = copy.copy(self)
        network.module = copy.deepcopy(self.module).float()
        network._set(self.reading)
        return network

    def perturbed(self, x: Tensor, direction: Tensor, size: float) -> Tensor:
        """Move x along `direction` by `size`, in [0, 1] pixel units."""
        step = self.step
        if isinstance(step, Tensor):
            step = step.to(x.dtype)
            if x.ndim > 2 and step.ndim == 1:
                step = step.reshape(-1, *[1] * (x.ndim - 2))
        return x + size * step * direction

    def map(
        self,
        function: Callable[[Any], Tensor | tuple[Tensor, ...]],
        data: CheckedData,
        description: str,
    ) -> npt.NDArray | tuple[npt.NDArray, ...]:
        """Apply a function of the network's input to every item, in batches."""
        reading = self.read(data)

        def run(items: Any) -> Tensor | tuple[Tensor, ...]:
            values = function(self.tensor(items))
            return tuple(map(_readable, values)) if isinstance(values, tuple) else _readable(values)

        data = self.open(data)
        # Of fields and tokens, the values are no features: an item is larger than its row.
        shape = (1, data.n_values) if data.has_fields or reading.integers else data.item_shape
        size = self.batch_size or scoring_batch_size(self.device, shape)
        with _one_at_a_time, evaluating(self.module):
            return map_batches(
                run,
                data,
                1 if reading.one_by_one else size,
                multiple_of=size if self._is_fixed else batch_multiple(shape),
                device=self.device,
                n_workers=self.n_workers,
                verbose=self.verbose,
                description=description,
            )

    def outputs(self, data: CheckedData, memory: str | joblib.Memory | None = None) -> Outputs:
        """Return features and logits of every item, from a cache, an earlier pass or a new one.

        Parameters
        ----------
        data : CheckedData
        memory : str, joblib.Memory or None
            Disk cache, keyed by the content of the network and of the data.
        """
        with _one_at_a_time:
            known = self._recall(data, "network_outputs")
            if known is None:
                self.read(data)
                if memory is None:
                    known = _compute(self, data, "")
                else:
                    compute = cached(memory, _compute, ignore=["network", "data"])
                    known = compute(self, data, joblib.hash((self._content(), data.content())))
                data.network_outputs[self.module] = self._version(), known
        return known

    def _recall(self, data: CheckedData, what: str) -> Any:
        """Return what is known about data, or of outputs those rows of what is known of more."""
        version, known = getattr(data, what).get(self.module, (None, None))
        if known is not None and version == self._version():
            return known
        if data.parent is None:
            return None
        parent, rows = data.parent
        known = self._recall(parent, what)
        return known[rows] if isinstance(known, Outputs) else known

    def _version(self) -> tuple:
        """Return a key that changes whenever weights are changed in place or replaced."""
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
        """Hash of the architecture and the weights, the same in every process."""
        how = self.output, self.features_from, self.multilabel, self.is_extractor, self.settings
        try:
            return joblib.hash((content_of(self.module), how, self.reading))
        except Exception as error:
            raise ValueError(
                "memory= needs a network and functions output= and features_from= that pickle, "
                f"but {type(error).__name__}: {error}; define the functions in a module, or leave "
                "memory out"
            ) from error


# Names under which output objects hold one embedding for each item, the most specific first.
_EMBEDDINGS = ["image_embeds", "text_embeds", "embeddings", "pooler_output"]


def device_of(module: nn.Module) -> torch.device:
    """Return where the first parameter or buffer is; of a module that has none, the CPU."""
    return next((t.device for t in _tensors(module)), torch.device("cpu"))


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of the first parameter or buffer of floats; float32 where there is none."""
    return next((t.dtype for t in _tensors(module) if t.is_floating_point()), torch.float32)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def n_items_of(x: Any) -> int:
    """Return the number of items in an input of a network."""
    return len(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def requiring_gradient(x: Any) -> Any:
    """Return a copy of an input of a network through which gradients pass.

    They reach inner layers even if all parameters are frozen, unless X holds whole numbers.
    """
    if isinstance(x, dict):
        return {name: requiring_gradient(part) for name, part in x.items()}
    # The leaf requires a gradient; a copy of it is passed on, which the network may change in place.
    return x.clone().requires_grad_().clone() if x.is_floating_point() else x.clone()


def copies_of(x: Any, rows: Sequence[int]) -> Any:
    """Return copies of some items of an input of a network."""
    rows = list(rows)
    return {name: part[rows] for name, part in x.items()} if isinstance(x, dict) else x[rows]


def _is_exported(module: nn.Module) -> bool:
    return isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule))


def _forms(module: nn.Module, data: CheckedData) -> Iterator[Reading]:
    """Yield the ways in which the module may take the data, the most likely first."""
    first = _first_layer(module)
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


def _first_layer(module: nn.Module) -> nn.Module | None:
    """Return the first layer with parameters of its own, in the order of declaration."""
    layers = (
        layer for layer in module.modules() if next(layer.parameters(False), None) is not None
    )
    return next((layer for layer in layers if type(layer).__module__.startswith("torch.nn")), None)


def _mismatch(module: nn.Module, x: Any) -> str:
    """Describe the data and the input that the first layer with parameters expects."""
    name = type(module).__name__
    if isinstance(x, dict):
        shapes = {field: tuple(values.shape) for field, values in x.items()}
        return f"X has the fields {shapes}, which the network {name} does not take"
    shape = tuple(x.shape[1:])
    if x.ndim == 2:
        said = f"X has rows of {x.shape[1]} values"
    elif x.ndim == 4:
        said = f"X has images of {shape} (C, H, W)"
    else:
        said = f"X has items of shape {shape}"
    said += f", {x.dtype}, which the network {name} does not take"
    first = _first_layer(module)
    if isinstance(first, nn.Linear):
        said += f"; its first layer takes rows of {first.in_features} values"
    elif isinstance(first, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        kind = {nn.Conv1d: "signals", nn.Conv2d: "images", nn.Conv3d: "volumes"}[type(first)]
        said += f"; its first layer takes {kind} of {first.in_channels} channel(s)"
        if first.in_channels == len(x) > 1:
            said += " (if X is one item, give X[None])"
    elif isinstance(first, (nn.Embedding, nn.EmbeddingBag)):
        said += (
            f"; its first layer takes whole numbers from 0 to {first.num_embeddings - 1}: give "
            "them as integers"
        )
    return said


def _unlinked(output: Tensor, link: str) -> Tensor:
    """Return logits of probabilities; logits as they are."""
    if link == "softmax":
        return output.clamp(min=torch.finfo(output.dtype).tiny).log()
    if link == "sigmoid":
        return torch.logit(output, torch.finfo(output.dtype).eps)
    return output


def _readable(tensor: Tensor) -> Tensor:
    """Bring half precision, whose sums and squares lose digits or overflow, to float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _compute(network: Network, data: CheckedData, content: str) -> Outputs:
    def features_and_logits(x: Any) -> tuple[Tensor, Tensor]:
        features, logits, _ = network.forward(x)
        return features, logits

    features, logits = network.map(features_and_logits, data, "forward pass")
    network._check_finite(logits)
    z = torch.from_numpy(logits).double()
    log_proba = F.logsigmoid(z) if network.multilabel else torch.log_softmax(z, 1)
    reading = network.reading
    assert reading is not None
    normalized = reading.head is None and reading.link in ("softmax", "log_softmax")
    return Outputs(logits, log_proba.numpy(), features, normalized, network.multilabel)
