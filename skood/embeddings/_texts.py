"""Features of texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from skood._data.memory_layout import from_torch
from skood._estimator.parameters import HasMethods, StrOptions, at_least, estimator, parameter
from skood._torch.threads import Turns
from skood.embeddings._base import MASK, Extractor
from skood.embeddings._items import Items
from skood.embeddings._pooling import POOLINGS, token_mask
from skood.embeddings._portable import packed

__all__ = ["TextExtractor"]

# A call sets the truncation of a tokenizer, so that one thread may call it at a time.
_tokenizing = Turns()

# Tokenizers without a limit state 1e30.
_NO_LIMIT = 10**9


@estimator
class TextExtractor(Extractor):
    """Features of texts by a trained language model and its tokenizer.

    :func:`from_huggingface` and :func:`clip_pair` make it of a pretrained network.

    Parameters
    ----------
    tokenizer : callable
        A tokenizer of transformers.
    pooling : {"cls", "mean", "last", "max"} or callable, default="mean"
        Vector of a text among the vectors of its tokens: the first token, the mean, the last token
        or the maximum, without padding on either side. A function takes the tokens
        (b, n_tokens, d) and their mask (b, n_tokens), and returns (b, d). None: the vector that the
        network itself returns.
    truncation : bool, default=False
        Whether the end of a longer text is cut off. False: a longer text is an error.
    max_length : int, default=None
        Largest number of tokens of a text. None: the largest that the network can read.
    padding : {"longest", "max_length"}, default="longest"
        Whether texts are padded to the longest of their batch, or to `max_length`, which some
        networks, such as SigLIP, were trained with.
    space : str, default=None
        Name of the space that an image and a text tower share, for error messages.

    See Also
    --------
    ImageExtractor : Features of images.

    Notes
    -----
    X is a list, an array or a Series of texts, a Dataset of them, or a dict of the arrays that a
    tokenizer returns. The features of a text do not depend on the texts in its batch: the text
    with the most padding is compared with itself without padding, once for a network, and a
    difference is an error.

    Examples
    --------
    >>> from skood.embeddings import from_huggingface
    >>> from skood import KNN
    >>> extractor = from_huggingface("bert-base-uncased", pooling="mean")  # doctest: +SKIP
    >>> KNN(extractor).fit(texts).predict(["another text"])  # doctest: +SKIP
    """

    tokenizer: Any = parameter(HasMethods(["__call__", "pad"]))
    pooling: Any = parameter(StrOptions(POOLINGS), callable, None, default="mean", kw_only=True)
    truncation: bool = parameter("boolean", default=False, kw_only=True)
    max_length: int | None = parameter(at_least(1), None, default=None, kw_only=True)
    padding: str = parameter(StrOptions({"longest", "max_length"}), default="longest", kw_only=True)
    space: str | None = parameter(str, None, default=None, kw_only=True)

    _preprocessor = "tokenizer"
    _padding_advice = "tokenizer.padding_side = 'right' is what most networks expect; "

    @property
    def _pads_to_batch(self) -> bool:
        return self.padding == "longest"

    def _batch_maker(self, items: Items) -> Callable[[npt.NDArray[np.integer]], dict]:
        limit = self.max_length or _longest(self.module, self.tokenizer)
        for parameter_, value in (("truncation", self.truncation), ("padding", self.padding)):
            if limit is None and value not in (False, "longest"):
                raise ValueError(
                    f"{parameter_}={value!r}, but neither the network nor the tokenizer states the "
                    "largest number of tokens; give max_length="
                )
        return _Batches(
            items,
            self.tokenizer,
            limit,
            self.truncation,
            self.padding,
            _n_embedded(self.module),
            self._what,
        )

    @property
    def _what(self) -> str:
        return "this extractor" if self.space is None else f"the text tower of {self.space}"

    def _check_kind(self, items: Items) -> None:
        if not items.has_fields:
            _check_text(items.take(np.arange(1))[0], 0, self._what)

    def _identity(self, item: Any) -> Any:
        return item

    def _preprocessing(self) -> Any:
        # A call changes settings of the tokenizer, and with them its pickle.
        return packed(_in_initial_state(self.tokenizer))

    def _mask_of_tokens(
        self, returned: Any, x: dict[str, Tensor], mask: Tensor | None
    ) -> Tensor | None:
        tokens = getattr(returned, "last_hidden_state", returned)
        if mask is None or not isinstance(tokens, Tensor) or tokens.ndim != 3:
            return mask
        return token_mask(mask, tokens.shape[1], self.module)


def _in_initial_state(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer without the settings of its last call."""
    tokenizer = copy.deepcopy(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
    if hasattr(tokenizer, "deprecation_warnings"):
        tokenizer.deprecation_warnings = {}
    return tokenizer


@dataclass(eq=False)
class _Batches:
    """Tokenizes texts, given by their indices."""

    items: Items
    tokenizer: Any
    limit: int | None
    truncation: bool
    padding: str
    n_embedded: int | None
    what: str

    def __call__(self, rows: npt.NDArray[np.integer]) -> dict[str, npt.NDArray]:
        items = self.items.take(rows)
        if self.items.has_fields:
            return self._checked_fields(items, rows)
        if isinstance(items[0], Mapping):
            fields = self._padded([self._row(item) for item in items])
            return self._checked_fields(fields, rows)
        for row, item in zip(rows, items, strict=True):
            _check_text(item, int(row), self.what)
        return self._tokenized([str(item) for item in items], rows)

    def _tokenized(self, texts: list[str], rows: npt.NDArray[np.integer]) -> dict[str, npt.NDArray]:
        cut = {"truncation": True, "max_length": self.limit} if self.truncation else {}
        with _tokenizing:
            made = self.tokenizer(texts, return_attention_mask=True, verbose=False, **cut)
        lengths = np.array([len(ids) for ids in made["input_ids"]])
        self._check_lengths(lengths, rows)
        fields = self._padded([{k: made[k][i] for k in made} for i in range(len(texts))])
        self._check_symbols(fields["input_ids"], rows)
        # Not every network takes the mask; pooling does.
        names = getattr(self.tokenizer, "model_input_names", list(fields))
        taken = {name: _whole(values) for name, values in fields.items() if name in names}
        return {**taken, MASK: _whole(fields["attention_mask"])}

    def _padded(self, texts: list[dict[str, Any]]) -> dict[str, npt.NDArray]:
        lengths = {len(text["input_ids"]) for text in texts}
        to_limit = self.padding == "max_length" and lengths != {self.limit}
        if len(lengths) == 1 and not to_limit:
            return {name: np.asarray([text[name] for text in texts]) for name in texts[0]}
        if self.tokenizer.pad_token_id is None:
            raise ValueError(
                f"the tokenizer {type(self.tokenizer).__name__} has no pad token, but texts have "
                f"{min(lengths)} to {max(lengths)} tokens; set tokenizer.pad_token = "
                "tokenizer.eos_token, which the mask hides from the network, or give batch_size=1"
            )
        names = texts[0].keys()
        padded = self.tokenizer.pad(
            {name: [text[name] for text in texts] for name in names},
            padding=self.padding,
            max_length=self.limit if to_limit else None,
            return_attention_mask=True,
            return_tensors="np",
            verbose=False,
        )
        return {name: np.asarray(values) for name, values in padded.items()}

    def _row(self, item: Mapping) -> dict[str, Any]:
        row = {
            str(name): (from_torch(v) if isinstance(v, Tensor) else np.asarray(v)).reshape(-1)
            for name, v in item.items()
        }
        row.setdefault("attention_mask", np.ones(len(row["input_ids"]), dtype=np.int64))
        return {name: values.tolist() for name, values in row.items()}

    def _checked_fields(
        self, fields: dict[str, npt.NDArray], rows: npt.NDArray[np.integer]
    ) -> dict[str, npt.NDArray]:
        """Check what a tokenizer has returned."""
        ids = fields.get("input_ids")
        if ids is None or ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(
                f"X has the fields {sorted(fields)}, but {self.what} reads texts, or whole numbers "
                "input_ids of shape (n, n_tokens) with their attention_mask"
            )
        mask = fields.get("attention_mask")
        pad = getattr(self.tokenizer, "pad_token_id", None)
        if mask is None:
            if pad is not None and (ids == pad).any():
                raise ValueError(
                    f"X has input_ids with the pad token {pad}, but no attention_mask, so that "
                    "padding would be read as text; give the attention_mask of the tokenizer"
                )
            mask = np.ones_like(ids)
        self._check_lengths(mask.sum(1), rows)
        self._check_symbols(np.where(mask > 0, ids, 0), rows)
        return {**{name: _whole(values) for name, values in fields.items()}, MASK: _whole(mask)}

    def _check_lengths(self, lengths: npt.NDArray, rows: npt.NDArray[np.integer]) -> None:
        shortest, longest = lengths.argmin(), lengths.argmax()
        if lengths[shortest] == 0:
            raise ValueError(
                f"X[{rows[shortest]}] has no tokens, so that it has no vector; leave it out"
            )
        if self.limit is not None and lengths[longest] > self.limit:
            raise ValueError(
                f"X[{rows[longest]}] has {lengths[longest]} tokens, but at most {self.limit} are "
                "read; give truncation=True to cut off the end of longer texts, or divide the text"
            )

    def _check_symbols(self, ids: npt.NDArray, rows: npt.NDArray[np.integer]) -> None:
        if self.n_embedded is None:
            return
        wrong = (ids < 0) | (ids >= self.n_embedded)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"X[{rows[row]}] has the token id {ids[row, column]}, but the network knows the "
                f"ids 0 to {self.n_embedded - 1}: the tokenizer belongs to another network"
            )


def _whole(values: npt.NDArray) -> npt.NDArray:
    return values.astype(np.int64) if values.dtype.kind in "iub" else values


def _check_text(item: Any, row: int, what: str) -> None:
    if isinstance(item, Mapping) and "input_ids" in item:
        return
    if not isinstance(item, str):
        is_missing = item is None or (isinstance(item, float) and item != item)
        kind = "missing" if is_missing else f"of type {type(item).__name__}"
        advice = "fill it in or leave it out" if is_missing else "give a list of str"
        if hasattr(item, "getbands") or getattr(item, "ndim", 0) > 1:
            advice = "images need an image tower, such as the first of clip_pair"
        raise ValueError(f"X[{row}] is {kind}, but {what} reads texts; {advice}")
    if not item.strip():
        raise ValueError(f"X[{row}] is an empty text, which has no vector; leave it out")


def _longest(module: nn.Module, tokenizer: Any) -> int | None:
    """Return the largest number of tokens that a network can read, if it is known."""
    limits = [getattr(tokenizer, "model_max_length", None)]
    config = getattr(module, "config", None)
    config = getattr(config, "text_config", None) or config
    limits += [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    for name, layer in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(layer, nn.Embedding):
            # RoBERTa's positions begin after the position of padding.
            first = 0 if layer.padding_idx is None else layer.padding_idx + 1
            limits.append(layer.num_embeddings - first)
    known = [
        int(limit) for limit in limits if isinstance(limit, (int, float)) and 0 < limit < _NO_LIMIT
    ]
    return min(known, default=None)


def _n_embedded(module: nn.Module) -> int | None:
    """Return the number of tokens that a network knows."""
    get = getattr(module, "get_input_embeddings", None)
    try:
        layer = get() if get is not None else None
    except (AttributeError, NotImplementedError):
        layer = None
    return layer.num_embeddings if isinstance(layer, nn.Embedding) else None
