"""Networks that predict the next token: checks, and log-probabilities of tokens in batches."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._torch.batching import Halving, evaluating
from skood._torch.device import full_float32
from skood._torch.run import raise_if_ended
from skood._torch.threads import computing

__all__ = ["CausalNetwork", "context_length", "special_token"]

Ids = npt.NDArray[np.int64]

# Bytes of the logits of a batch as float32, and tokens in a batch, at most, on a CPU and on CUDA.
_BYTES = {"cpu": 2**27, "cuda": 2**30}
_TOKENS = {"cpu": 2**11, "cuda": 2**15}

# Logits whose log-softmax is computed at once.
_CHUNK = 2**20

# Lengths of the two sequences that a network is tried on.
_TRIAL = 12, 7

# Names of the length of the context in configurations of transformers.
_CONTEXT = "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"

# Number of possible tokens, by network.
_tried: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def config_of(module: nn.Module) -> Any:
    """Return the configuration of the language model of a network of transformers, or None."""
    config: Any = getattr(module, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def context_length(module: nn.Module) -> int | None:
    """Return the largest number of tokens that a network reads; None if nothing states it."""
    config = config_of(module)
    lengths = (getattr(config, name, None) for name in _CONTEXT)
    return next((n for n in lengths if isinstance(n, int) and n > 0), None)


def special_token(
    name: str, value: int | str | None, tokenizer: Any, module: nn.Module
) -> int | None:
    """Return the id of a special token.

    Parameters
    ----------
    name : {"bos_token_id", "eos_token_id"}
    value : int, "auto" or None
        "auto": the attribute `name` of the tokenizer, or of the configuration of `module`.
    tokenizer : object
    module : Module
    """
    if not isinstance(value, str):
        return value
    for source in (tokenizer, config_of(module)):
        found: Any = getattr(source, name, None)
        # Some models have several tokens that end a text.
        found = found[0] if isinstance(found, (list, tuple)) and found else found
        if found is not None:
            return int(found)
    what = "the first token" if name == "bos_token_id" else "the end"
    raise ValueError(
        f"neither the tokenizer nor the config of {type(module).__name__} states {name}; give "
        f"{name}= the id of the token, or None: {what} of a text is then not scored"
    )


class CausalNetwork:
    """A trained network that predicts each token of a sequence from the tokens before it.

    Parameters
    ----------
    module : Module
        Takes ``input_ids`` of shape (b, L), and ``attention_mask`` if it has an argument of that
        name. Returns logits of shape (b, L, vocabulary), as a tensor, as ``logits`` of an output
        object, or as the first element of a tuple.
    """

    def __init__(self, module: nn.Module) -> None:
        # A compiled module would be compiled anew for every length.
        self.module = getattr(module, "_orig_mod", module)
        self.name = type(self.module).__name__

    @property
    def device(self) -> torch.device:
        tensors = itertools.chain(self.module.parameters(), self.module.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def vocabulary_size(self) -> int:
        """Number of possible tokens, after `check`."""
        return _tried[self.module]

    @property
    def n_embeddings(self) -> int:
        """Number of tokens that the network can read, after `check`."""
        get = getattr(self.module, "get_input_embeddings", None)
        n = getattr(get() if get else None, "num_embeddings", None)
        return n if isinstance(n, int) else self.vocabulary_size

    def check(self) -> None:
        """Raise unless the network predicts tokens from those before them alone.

        Raises
        ------
        ValueError
            If the network is an encoder-decoder, returns no logits of each token, or if its logits
            depend on later tokens or on other sequences of the batch.
        """
        if self.module in _tried:
            return
        if getattr(getattr(self.module, "config", None), "is_encoder_decoder", False):
            raise ValueError(
                f"{self.name} is an encoder-decoder: it gives the probability of a target text "
                "given a source text, not of a text; expected a causal language model "
                "(AutoModelForCausalLM)"
            )
        long, short = _TRIAL
        with computing, evaluating(self.module), torch.inference_mode(), full_float32():
            try:
                n = self._logits(np.zeros((1, 2), np.int64)).shape[-1]
            except (IndexError, RuntimeError, TypeError) as error:
                raise ValueError(
                    f"{self.name} does not take token ids of shape (1, 2): {error}; expected a "
                    "causal language model (AutoModelForCausalLM)"
                ) from error
            tokens = 7 * np.arange(1, long + 1) % n
            logits = self._logits(tokens[None])
            changed = tokens.copy()
            changed[-1] = (changed[-1] + 1) % n
            other = self._logits(changed[None])
            both = np.stack([tokens, np.pad(tokens[:short], (0, long - short))])
            lengths = np.array([long, short])
            padded = self._logits(both, lengths)
            alone = self._logits(tokens[None, :short])
        half = logits.dtype in (torch.float16, torch.bfloat16)
        tolerance = (0.05 if half else 1e-3) * float(logits.float().std() + 1e-6)
        if _distance(logits[0, :-1], other[0, :-1]) > tolerance:
            raise ValueError(
                f"the logits of {self.name} at a token depend on later tokens, as in a "
                "masked language model (BERT, RoBERTa): their sum is not the log-probability "
                "of a text; expected a causal language model (AutoModelForCausalLM), or "
                "is_decoder=True in its configuration"
            )
        if max(_distance(padded[0], logits[0]), _distance(padded[1, :short], alone[0])) > tolerance:
            raise ValueError(
                f"the logits of {self.name} depend on the other sequences of a batch or on "
                "padding behind a sequence, although its attention_mask is 0 there; expected a "
                "network that computes each sequence by itself"
            )
        _tried[self.module] = n

    def check_ids(self, ids: Ids, item: int) -> None:
        """Raise if a token of an item is not in the vocabulary."""
        n = self.n_embeddings
        wrong = ids[(ids < 0) | (ids >= n)]
        if len(wrong):
            raise ValueError(
                f"item {item} of X has the token id {wrong[0]}, but {self.name} knows the ids 0 "
                f"to {n - 1}; give the tokenizer of this network, or token ids of it"
            )

    def log_probabilities(
        self, sequences: Sequence[Ids], batch_size: int | None, done: Callable[[list[int]], object]
    ) -> list[npt.NDArray[np.float64]]:
        """Log-probability of each token given those before it.

        Parameters
        ----------
        sequences : sequence of ndarray of shape (n_tokens,)
            At least two tokens each.
        batch_size : int or None
            Number of sequences in a batch, at most.
        done : callable
            Called with the positions of the sequences of each batch.

        Returns
        -------
        list of ndarray of shape (n_tokens - 1,), float64
            In nats, in the order of `sequences`; the first token has none.
        """
        results: list[npt.NDArray[np.float64]] = [np.empty(0)] * len(sequences)
        run = Halving(self._of_batch, self.device, 1, f"{self.name} scores")
        with evaluating(self.module):
            for rows in self._batches([len(ids) for ids in sequences], batch_size):
                raise_if_ended()
                lengths = np.array([len(sequences[row]) for row in rows])
                padded = np.zeros((len(rows), lengths.max()), np.int64)
                for line, row in zip(padded, rows, strict=True):
                    line[: len(sequences[row])] = sequences[row]
                with computing, torch.inference_mode(), full_float32():
                    _, (values,) = run({"ids": padded, "lengths": lengths})
                for row, length, found in zip(rows, lengths, values, strict=True):
                    results[row] = found[: length - 1]
                done(rows)
        return results

    def _batches(self, lengths: Sequence[int], batch_size: int | None) -> Iterator[list[int]]:
        """Group sequences of similar lengths; the longest first, since they need most memory."""
        kind = "cuda" if self.device.type == "cuda" else "cpu"
        most = max(1, min(_TOKENS[kind], _BYTES[kind] // (4 * self.vocabulary_size)))
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            is_full = batch and (
                (len(batch) + 1) * lengths[batch[0]] > most or len(batch) == batch_size
            )
            if is_full:
                yield batch
                batch = []
            batch.append(row)
        yield batch

    def _of_batch(self, items: dict[str, npt.NDArray]) -> Tensor:
        ids, lengths = items["ids"], items["lengths"]
        width = lengths.max()
        logits = self._logits(ids[:, : width - 1], lengths - 1)
        values = _log_probabilities(logits, torch.from_numpy(ids[:, 1:width]).to(logits.device))
        # Halves of a batch are joined.
        return nn.functional.pad(values, (0, ids.shape[1] - width))

    def _logits(self, ids: Ids, lengths: npt.NDArray[np.integer] | None = None) -> Tensor:
        """Return logits of shape (b, L, vocabulary) for padded sequences of given lengths."""
        names = inspect.signature(self.module.forward).parameters
        takes_any = any(part.kind is part.VAR_KEYWORD for part in names.values())
        x = torch.from_numpy(np.ascontiguousarray(ids)).to(self.device)
        keywords: dict[str, Any] = {}
        if "attention_mask" in names or takes_any:
            ends = np.full(len(ids), ids.shape[1]) if lengths is None else lengths
            mask = np.arange(ids.shape[1]) < ends[:, None]
            keywords["attention_mask"] = torch.from_numpy(mask.astype(np.int64)).to(self.device)
        if "use_cache" in names or (takes_any and hasattr(self.module, "config")):
            keywords["use_cache"] = False
        named = "input_ids" in names or takes_any
        returned = self.module(input_ids=x, **keywords) if named else self.module(x, **keywords)
        logits = returned[0] if isinstance(returned, tuple) else returned
        logits = logits if isinstance(logits, Tensor) else getattr(logits, "logits", None)
        if logits is None:
            kinds = list(returned) if hasattr(returned, "keys") else type(returned).__name__
            raise ValueError(
                f"{self.name} returns {kinds}; expected logits of the next token: give the model "
                "with its language-modelling head (AutoModelForCausalLM)"
            )
        if logits.ndim != 3 or logits.shape[:2] != x.shape:
            raise ValueError(
                f"{self.name} returns logits of shape {tuple(logits.shape)} for {len(ids)} "
                f"sequence(s) of {ids.shape[1]} tokens; expected {(*ids.shape, 'vocabulary')}, as "
                "a causal language model returns them (AutoModelForCausalLM)"
            )
        return logits


def _distance(first: Tensor, second: Tensor) -> float:
    """Return the largest difference; equal infinite logits do not differ."""
    difference = (first.float() - second.float()).abs()
    return float(difference.masked_fill(first == second, 0).max())


def _log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-softmax of logits (b, L, vocabulary) at the targets (b, L), float64.

    Computed in float32, or in float64 for such logits, on parts of the batch.
    """
    flat, goals = logits.flatten(0, 1), targets.flatten()
    size = max(1, _CHUNK // flat.shape[1])
    found = []
    for part, goal in zip(flat.split(size), goals.split(size), strict=True):
        exact = part if part.dtype == torch.float64 else part.float()
        found.append(-nn.functional.cross_entropy(exact, goal, reduction="none"))
    return torch.cat(found).double().reshape(targets.shape)
