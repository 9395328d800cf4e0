"""Base of the extractors: raw items to one feature vector each, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from torch import Tensor, nn

from skood._caching import cached
from skood._data.checked_data import CheckedData, CheckedFields
from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.parameters import StrOptions, at_least, estimator, parameter
from skood._torch.batching import (
    evaluating,
    has_aligned_rows,
    map_batches,
    scoring_batch_size,
)
from skood._torch.device import is_out_of_memory
from skood._torch.packing import content_of, tensors_of
from skood._torch.partial_results import PartialResults
from skood._torch.shared_module import SharedModule
from skood.classifiers._inputs import device_of, dtype_of, mismatch, n_items_of
from skood.embeddings._alone import check_alone
from skood.embeddings._feature_file import write_features
from skood.embeddings._items import Items, open_items
from skood.embeddings._pooling import POOLINGS, pooled
from skood.embeddings._portable import packed, unpacked

__all__ = ["MASK", "ONLY", "Extractor"]

# Field of a batch with the mask of padding, and the field of a network that takes one tensor.
MASK, ONLY = "mask of padding", "only input"
# Items that `fit` runs the network on.
_TRIED = 8

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


@estimator
class Extractor(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DocumentationLinkMixin, SharedModule, ABC
):
    """Base of the transformers from raw items to the features of a trained network.

    Parameters
    ----------
    module : Module
        Trained network. It stays on its device.
    pooling : {"cls", "mean", "last", "max"} or callable, default=None
        Vector of an item among the tokens or maps that the network returns: the first token, the
        mean, the last token or the maximum, without tokens of padding. A function takes the tokens
        (b, n_tokens, d) and their mask (b, n_tokens), or maps (b, C, H, W) and None, and returns
        (b, d). None: the vector that the network itself returns.
    normalize : bool, default=False
        Whether vectors are scaled to length 1.
    dtype : {"float16", "float32", "float64"}, default="float32"
        Of the returned features. The network computes in its own precision.
    batch_size : int, default=None
        Number of items in a batch, to bound the memory. None: chosen by device and size of an item.
    memory : str or joblib.Memory, default=None
        Where features are cached, by the content of the network, its preprocessing and the items.
        Entries are pickles: use a folder that only you write to.
    checkpoint_dir : str, default=None
        Folder of partial results, saved every minute, from which an interrupted call resumes.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it in a terminal or notebook, for work that takes
        more than a few seconds.

    Attributes
    ----------
    n_features_out_ : int
        Number of features.
    """

    module: nn.Module = parameter(nn.Module)
    pooling: Any = parameter(StrOptions(POOLINGS), callable, None, default=None, kw_only=True)
    normalize: bool = parameter("boolean", default=False, kw_only=True)
    dtype: str = parameter(StrOptions(set(_DTYPES)), default="float32", kw_only=True)
    batch_size: int | None = parameter(at_least(1), None, default=None, kw_only=True)
    memory: Any = parameter(str, joblib.Memory, None, default=None, kw_only=True)
    checkpoint_dir: str | None = parameter(str, None, default=None, kw_only=True)
    verbose: bool | int | str = parameter(
        "boolean", "verbose", StrOptions({"auto"}), default="auto", kw_only=True
    )

    # Detectors pass on X in its original form, wrapped in checked data.
    _reads_checked_data = True
    _reads_as_it_came = True
    # One image has a shape, which a list of images of unequal sizes has not.
    _takes_any_length = True
    _instead_of_saving = (
        ", since it preprocesses items with code of another library; fit a detector to the "
        "features extractor.transform(X), save this detector, and make the extractor again from "
        "the network's name or folder. A pickle stores both, and must be trusted"
    )

    def fit(self, X: Any, y: Any = None) -> Any:
        """Run the network on the first items of X, to check them; nothing is learned.

        Parameters
        ----------
        X : sequence of items, Dataset or DataLoader
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the items cannot be preprocessed, or if the features of an item depend on the other
            items of its batch.
        """
        items = self._opened(X)
        first = items.subset(np.arange(min(_TRIED, len(items))))
        self._check_preprocessing(first)
        features = self._computed(first)
        if self.pooling == "cls":
            self._check_differ(features, first)
        self.n_features_out_ = features.shape[1]
        return self

    def transform(self, X: Any) -> npt.NDArray:
        """Return the feature vector of each item.

        Parameters
        ----------
        X : sequence of items, Dataset or DataLoader

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In `dtype`.

        Raises
        ------
        ValueError
            If an item cannot be preprocessed, or if features are not finite.
        """
        items = self._opened(X)
        known = self._recall(X) if isinstance(X, CheckedData) else None
        if known is None:
            known = self._transformed(items)
            if isinstance(X, CheckedData):
                X.network_outputs[self.module] = self._version(), known
        return known

    def write(self, X: Any, path: Any) -> npt.NDArray:
        """Write the features to a ``.npy`` file, of which only a batch is in memory.

        A call that was interrupted is resumed by the same call. The file appears at `path` when
        all features are written.

        Parameters
        ----------
        X : sequence of items, Dataset or DataLoader
        path : str or Path
            A former file there is replaced.

        Returns
        -------
        memmap of shape (n_samples, n_features)
            The file, opened for reading. Detectors read such rows in chunks.
        """
        items = self._opened(X)
        first = items.subset(np.arange(1))
        (example,) = self._computed(first)
        return write_features(
            lambda rows: self._computed(items.subset(rows)),
            Path(path),
            (len(items), len(example)),
            example.dtype,
            # What the items are is not read twice: the first and the last written row tell.
            identity=self._content(),
            size=64 * self._size_of_batch(first),
        )

    def _check_differ(self, features: npt.NDArray, items: Items) -> None:
        """Raise an error if different items have the same first token."""
        if items.has_fields or np.ptp(features, axis=0).any():
            return
        different = {
            joblib.hash(self._identity(item)) for item in items.take(np.arange(len(items)))
        }
        if len(different) > 1:
            raise ValueError(
                f"{type(self.module).__name__} returns the same first token for {len(different)} "
                "different items, as causal networks do, whose tokens do not depend on later ones; "
                "give pooling='last' or 'mean'"
            )

    def _opened(self, X: Any) -> Items:
        self._validate_params()
        items = open_items(X)
        self._check_kind(items)
        return items

    def _transformed(self, items: Items) -> npt.NDArray:
        if self.memory is None and self.checkpoint_dir is None:
            return self._computed(items)
        key = joblib.hash((self._content(), items.content(self._identity)))
        partial = None
        if self.checkpoint_dir is not None:
            name = f"{type(self).__name__}-{key}.npz"
            partial = PartialResults(Path(self.checkpoint_dir) / name)
        if self.memory is None:
            return self._computed(items, partial)
        compute = cached(self.memory, _compute, ignore=["extractor", "items", "partial"])
        return compute(self, items, partial, key)

    def _computed(self, items: Items, partial: PartialResults | None = None) -> npt.NDArray:
        make = self._batch_maker(items)
        data = CheckedFields(make, len(items), {}, object, in_memory=False)
        with evaluating(self.module):
            return map_batches(
                self._features,
                data,
                self._size_of_batch(items),
                device=device_of(self.module),
                n_workers=self._n_workers,
                verbose=self.verbose,
                description="features",
                partial=partial,
                aligns_rows=not has_aligned_rows(self.module),
            )

    def _size_of_batch(self, items: Items) -> int:
        if self.batch_size is not None:
            return self.batch_size
        example = self._batch_maker(items)(np.arange(1))
        largest = max((v.shape[1:] for k, v in example.items() if k != MASK), key=np.prod)
        # A row of tokens needs more memory than its values.
        shape = largest if len(largest) > 1 else (1, *largest)
        return scoring_batch_size(device_of(self.module), shape)

    @property
    def _n_workers(self) -> int | None:
        """Number of processes that preprocess items; None: chosen by the device."""
        return 0

    @abstractmethod
    def _batch_maker(self, items: Items) -> Callable[[npt.NDArray[np.integer]], dict]:
        """Return a function that preprocesses items, given by their indices.

        It returns a dict of the arrays that the network takes as keyword arguments, or ``ONLY`` for
        a network of one argument, and the mask of padding as ``MASK`` if there is one.
        """

    @abstractmethod
    def _check_kind(self, items: Items) -> None:
        """Raise an error if the first item is of another kind, such as a text for an image."""

    @abstractmethod
    def _identity(self, item: Any) -> Any:
        """Return what stands for an item in hashes."""

    @property
    @abstractmethod
    def _preprocessor(self) -> str:
        """Name of the parameter that preprocesses items."""

    def _preprocessing(self) -> Any:
        """Return the preprocessing as plain data, for pickles and hashes."""
        return packed(getattr(self, self._preprocessor))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), self._preprocessor: self._preprocessing()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        name = self._preprocessor
        super().__setstate__({**state, name: unpacked(state[name])})

    def _check_preprocessing(self, items: Items) -> None:
        """Raise an error if the preprocessing of an item depends on the other items."""

    def _mask_of_tokens(
        self, returned: Any, x: dict[str, Tensor], mask: Tensor | None
    ) -> Tensor | None:
        """Return which of the tokens that the network returns are pooled; None for all."""
        return mask

    def _features(self, fields: Any) -> Tensor:
        x = {name: self._tensor(values) for name, values in fields.items()}
        mask = x.pop(MASK, None)
        vectors = self._vectors(x, mask)
        stored = torch.nn.functional.normalize(vectors, dim=1) if self.normalize else vectors
        stored = stored.to(_DTYPES[self.dtype])
        if not bool(torch.isfinite(stored).all()):
            self._refuse_infinite(vectors)
        check_alone(
            self._vectors,
            x,
            mask,
            vectors,
            module=self.module,
            pooling=self.pooling,
            pads_to_batch=self._pads_to_batch,
            advice=self._padding_advice,
        )
        return stored

    def _tensor(self, values: npt.NDArray) -> Tensor:
        x = torch.from_numpy(values).to(device_of(self.module))
        return x.to(dtype_of(self.module)) if x.is_floating_point() else x

    def _vectors(self, x: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        name = type(self.module).__name__
        try:
            returned = self.module(x[ONLY]) if ONLY in x else self.module(**x)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            came = x[ONLY] if ONLY in x else x
            raise ValueError(
                f"{mismatch(self.module, came)}. Its forward pass ended in "
                f"{type(error).__name__}: {error}"
            ) from error
        mask = self._mask_of_tokens(returned, x, mask) if self.pooling is not None else None
        vectors = pooled(returned, self.pooling, mask, n_items_of(x), name)
        return vectors if vectors.dtype == torch.float64 else vectors.float()

    _padding_advice = ""

    @property
    def _pads_to_batch(self) -> bool:
        """Whether the length of a batch is the length of its longest item."""
        return True

    def _refuse_infinite(self, vectors: Tensor) -> None:
        name = type(self.module).__name__
        if bool(torch.isfinite(vectors).all()):
            raise ValueError(
                f"{name} makes features of magnitude {float(vectors.abs().amax()):.3g}, which "
                f"{self.dtype} cannot hold; give dtype='float32', or normalize=True"
            )
        raise ValueError(
            f"{name} makes features that are NaN or infinite; look for NaN among its weights, or "
            "for values in X that it was not trained on"
        )

    def _settings(self) -> dict[str, Any]:
        """Return the parameters that the features depend on, but network and preprocessing."""
        aside = {"module", self._preprocessor, "batch_size", "n_workers", "memory"}
        aside |= {"checkpoint_dir", "verbose", "space"}
        return {k: v for k, v in self.get_params(deep=False).items() if k not in aside}

    def _content(self) -> str:
        """Return a hash of network, preprocessing and settings, the same in every process."""
        settings = type(self).__name__, self._settings()
        try:
            return joblib.hash((content_of(self.module), self._preprocessing(), settings))
        except Exception as error:
            raise ValueError(
                "memory=, checkpoint_dir= and write need a network, a preprocessing and a function "
                f"pooling= that can be pickled, but {type(error).__name__}: {error}; define the "
                "functions in a module"
            ) from error

    def _version(self) -> tuple:
        tensors = tensors_of(self.module).values()
        versions = tuple((id(t), 0 if t.is_inference() else t._version) for t in tensors)
        return type(self), versions, getattr(self, self._preprocessor), self._settings()

    def _recall(self, data: CheckedData) -> npt.NDArray | None:
        """Return the features of an earlier call on the same data, or on data that include them."""
        version, known = data.network_outputs.get(self.module, (None, None))
        if known is not None and version == self._version():
            return known
        if data.parent is None:
            return None
        parent, rows = data.parent
        known = self._recall(parent)
        return None if known is None else known[rows]

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags


def _compute(
    extractor: Extractor, items: Items, partial: PartialResults | None, content: str
) -> npt.NDArray:
    return extractor._computed(items, partial)
