"""Features of sound."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from skood._data.memory_layout import from_torch
from skood._estimator.parameters import HasMethods, StrOptions, at_least, estimator, parameter
from skood.embeddings._base import MASK, Extractor
from skood.embeddings._items import Items
from skood.embeddings._pooling import POOLINGS, token_mask

__all__ = ["AudioExtractor"]

# Steps of a spectrogram in a second, in the feature extractors that state their length in steps.
_STEPS = 100


@estimator
class AudioExtractor(Extractor):
    """Features of waveforms by a trained network and its feature extractor.

    :func:`from_huggingface` makes it of a pretrained network.

    Parameters
    ----------
    processor : callable
        A feature extractor of transformers.
    sampling_rate : int
        Samples of X in a second. It must be the rate that the network was trained on.
    pooling : {"cls", "mean", "last", "max"} or callable, default="mean"
        Vector of a waveform among the vectors of its frames, without padding. A function takes the
        frames (b, n_frames, d) and their mask (b, n_frames), and returns (b, d). None: the vector
        that the network itself returns.
    truncation : bool, default=False
        Whether the end of a longer waveform is cut off, where the processor has a largest length.
        False: a longer waveform is an error.

    Notes
    -----
    X is a list of waveforms of any lengths, floats of shape (n_samples,), an array
    (n, n_samples), or a Dataset of them. Items with a rate of their own, dicts with ``array`` and
    ``sampling_rate``, are compared with `sampling_rate`. Nothing is resampled.

    Examples
    --------
    >>> from skood.embeddings import from_huggingface
    >>> extractor = from_huggingface(
    ...     "facebook/wav2vec2-large-xlsr-53", sampling_rate=16_000
    ... )  # doctest: +SKIP
    >>> extractor.transform(waveforms)  # doctest: +SKIP
    """

    processor: Any = parameter(HasMethods(["__call__"]))
    sampling_rate: int = parameter(at_least(1))
    pooling: Any = parameter(StrOptions(POOLINGS), callable, None, default="mean", kw_only=True)
    truncation: bool = parameter("boolean", default=False, kw_only=True)

    _preprocessor = "processor"

    def _batch_maker(self, items: Items) -> Callable[[npt.NDArray[np.integer]], dict]:
        expected = getattr(self.processor, "sampling_rate", self.sampling_rate)
        if self.sampling_rate != expected:
            raise ValueError(
                f"X has sampling_rate={self.sampling_rate}, but the network was trained on "
                f"{expected} samples in a second; resample the waveforms, for example with "
                f"scipy.signal.resample_poly(x, {expected}, {self.sampling_rate})"
            )
        longest = _longest(self.processor)
        return _Batches(items, self.processor, self.sampling_rate, longest, self.truncation)

    def _check_kind(self, items: Items) -> None:
        if items.has_fields:
            raise ValueError("X is a dict of fields, but this extractor reads a list of waveforms")

    def _identity(self, item: Any) -> Any:
        return _wave(item, 0, self.sampling_rate)

    def _mask_of_tokens(
        self, returned: Any, x: dict[str, Tensor], mask: Tensor | None
    ) -> Tensor | None:
        tokens = getattr(returned, "last_hidden_state", returned)
        if mask is None or not isinstance(tokens, Tensor) or tokens.ndim != 3:
            return mask
        return token_mask(mask, tokens.shape[1], self.module)


@dataclass(eq=False)
class _Batches:
    """Preprocesses waveforms, given by their indices."""

    items: Items
    processor: Any
    sampling_rate: int
    longest: int | None
    truncation: bool

    def __call__(self, rows: npt.NDArray[np.integer]) -> dict[str, npt.NDArray]:
        waves = [
            self._fitting(_wave(item, int(row), self.sampling_rate), int(row))
            for row, item in zip(rows, self.items.take(rows), strict=True)
        ]
        # Those that pad to a fixed length by default, such as Whisper's, keep doing so.
        default = inspect.signature(self.processor.__call__).parameters.get("padding")
        pads = {"padding": True} if default is not None and default.default is False else {}
        try:
            made = self.processor(
                waves,
                sampling_rate=self.sampling_rate,
                return_attention_mask=True,
                return_tensors="np",
                **pads,
            )
        except Exception as error:
            raise ValueError(
                f"the feature extractor {type(self.processor).__name__} failed on X[{rows[0]}] to "
                f"X[{rows[-1]}], {type(error).__name__}: {error}"
            ) from error
        fields = {name: np.asarray(values) for name, values in made.items()}
        mask = fields.get("attention_mask")
        if mask is None:
            return fields
        if not getattr(self.processor, "return_attention_mask", True):
            # Pooling needs the mask of padding even if the network was trained without it.
            del fields["attention_mask"]
        return {**fields, MASK: mask.astype(np.int64)}

    def _fitting(self, wave: npt.NDArray[np.float32], row: int) -> npt.NDArray[np.float32]:
        if self.longest is None or len(wave) <= self.longest:
            return wave
        if self.truncation:
            return wave[: self.longest]
        raise ValueError(
            f"X[{row}] has {len(wave)} samples, but the network reads at most {self.longest} "
            f"({self.longest / self.sampling_rate:g} seconds); give truncation=True to cut off the "
            "end of longer waveforms, or divide it"
        )


def _wave(item: Any, row: int, sampling_rate: int) -> npt.NDArray[np.float32]:
    """Return a waveform as an array of shape (n_samples,)."""
    if isinstance(item, Mapping):
        rate = item.get("sampling_rate", sampling_rate)
        if rate != sampling_rate:
            raise ValueError(
                f"X[{row}] has {rate} samples in a second, but sampling_rate={sampling_rate}; "
                "resample it"
            )
        item = item.get("array")
    if item is None or isinstance(item, (str, bytes)) or hasattr(item, "getbands"):
        raise ValueError(
            f"X[{row}] is of type {type(item).__name__}; expected a waveform, floats of shape "
            "(n_samples,). Read files first, for example with scipy.io.wavfile"
        )
    wave = from_torch(item) if isinstance(item, Tensor) else np.asarray(item)
    if wave.dtype.kind != "f":
        raise ValueError(
            f"X[{row}] has dtype {wave.dtype}; expected floats from -1 to 1: divide samples of 16 "
            "bits by 32768"
        )
    if wave.ndim == 2 and wave.shape[0] == 1:
        wave = wave[0]
    if wave.ndim != 1 or not len(wave):
        raise ValueError(
            f"X[{row}] has shape {wave.shape}; expected a waveform with one channel, of shape "
            "(n_samples,): take the mean of several channels"
        )
    if not np.isfinite(wave).all():
        raise ValueError(f"X[{row}] contains NaN or infinity")
    return wave.astype(np.float32)


def _longest(processor: Any) -> int | None:
    """Return the number of samples that a feature extractor cuts waveforms to, if it does."""
    n_samples = getattr(processor, "n_samples", getattr(processor, "nb_max_samples", None))
    if n_samples is not None:
        return int(n_samples)
    n_steps, rate = getattr(processor, "max_length", None), getattr(processor, "sampling_rate", 0)
    return None if n_steps is None else int(n_steps) * int(rate) // _STEPS
