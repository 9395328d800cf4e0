"""Log-probabilities of texts under a trained language model."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import Tags
from torch import nn

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._data.validation import check_data
from skood._estimator.docs_link import DocumentationLinkMixin
from skood._estimator.internal import internal
from skood._estimator.parameters import (
    Interval,
    StrOptions,
    at_least,
    estimator,
    fit_context,
    parameter,
)
from skood._progress import progress_bar
from skood._torch.shared_module import SharedModule
from skood.density._causal_network import CausalNetwork, context_length, special_token
from skood.density._neural_density import LogDensityMixin
from skood.density._token_sequences import check_same_tokens, token_ids, token_names, windows

__all__ = ["CausalLanguageModel"]

# Texts that are read, and sorted by length, at once.
_BLOCK = 512

# Texts on which the tokenizers of two models are compared.
_COMPARED = 100

_NONNEGATIVE_INT = Interval(numbers.Integral, 0, None, closed="left")


@estimator
class CausalLanguageModel(LogDensityMixin, DocumentationLinkMixin, SharedModule):
    r"""Density of texts: the log-probability that a trained causal language model gives.

    .. math:: \log p(x) = \sum_{t=1}^{L} \log p(x_t \mid \mathrm{BOS}, x_1, \ldots, x_{t-1})

    in nats, over the tokens of a text. The model is any module that predicts the next token, such
    as ``AutoModelForCausalLM`` of transformers. It is not trained: `fit` only checks it. With a
    finetuned model as `density` and the model before finetuning as `background`,
    :class:`~skood.likelihood.LikelihoodRatio` is the criterion of [1]_.

    Parameters
    ----------
    module : Module
        Takes ``input_ids`` (b, L) and ``attention_mask``, and returns logits (b, L, vocabulary),
        as a tensor or as ``logits`` of an output object. It stays on its device and in its dtype.
    tokenizer : callable, default=None
        Tokenizer of transformers, or any function that takes a list of texts and returns a list of
        lists of ids. None: X has token ids.
    bos_token_id : int, "auto" or None, default="auto"
        Token that every text is conditioned on, so that its first token has a probability. It is
        put before texts that do not begin with it. "auto" takes the ``bos_token_id`` of the
        tokenizer or the module's ``config``. None: the first token of a text is not scored, but
        conditioned on.
    eos_token_id : int, "auto" or None, default=None
        Token that is appended to texts that do not end with it, and scored: log p(x) is then the
        probability of exactly this text. None: the probability of all texts that begin with x.
    normalize : {"length"} or None, default=None
        "length" divides log p(x) by the number of scored tokens. The perplexity of a text is then
        ``exp(-score)``.
    long_texts : {"error", "truncate", "window"}, default="error"
        What to do with texts of more than `max_length` tokens. "truncate" scores the first
        `max_length` tokens. "window" scores each token once, given the tokens before it in a window
        of `max_length` tokens; windows begin `stride` tokens apart.
    max_length : int, "auto" or None, default="auto"
        Largest number of tokens that the module reads, with BOS and EOS. "auto" takes it from the
        module's ``config``. None: no limit.
    stride : int, default=None
        Distance of the windows, less than `max_length`: smaller strides give the tokens more
        context, and take more time. None: half of `max_length`.
    batch_size : int, default=None
        Number of texts in a batch, at most. None: by their lengths and the size of the vocabulary.
    verbose : {"auto"}, bool or int, default="auto"
        Whether progress is shown. "auto" shows it in a terminal or notebook, for work that takes
        more than a few seconds.

    Attributes
    ----------
    vocabulary_size_ : int
        Number of tokens that the module gives a probability.
    input_shape_ : tuple
        (), since texts have no shape.

    See Also
    --------
    skood.likelihood.LikelihoodRatio : A finetuned model relative to the model before finetuning.
    skood.likelihood.Typicality : Distance of log p(x) from its mean.

    Notes
    -----
    X is a list of texts; or lists of token ids; or an array of ids, a row for each item and
    without padding; or a dict of ``input_ids`` and ``attention_mask``, padded on either side.
    Lengths may differ from the lengths in `fit`.

    Texts are sorted by length and padded behind their last token, so that padding neither changes
    the positions of tokens nor is seen by them. The logits become float32, and sums are float64.
    Logits of one batch are in memory at a time.

    `fit` tries the module on a few tokens. It refuses networks whose logits depend on later tokens
    (masked language models), on other texts of a batch or on padding, and encoder-decoders.

    The released code of [1]_ multiplies the mean over the L - 1 scored tokens by L, for its
    criterion "LR"; ``normalize="length"`` is its criterion "NLR".

    ``skood.save(detector, path, modules="weights")`` stores the weights; ``skood.load`` then needs
    the modules. Tokenizers of transformers are not stored: with ``tokenizer=None``, X is token ids.

    References
    ----------
    .. [1] A. Zhang, T. Z. Xiao, W. Liu, R. Bamler, D. Wischik, "Your Finetuned Large Language Model
       is Already a Powerful Out-of-distribution Detector", AISTATS 2025, equation 1.

    Examples
    --------
    >>> import torch
    >>> from skood import CausalLanguageModel
    >>> class Uniform(torch.nn.Module):
    ...     def forward(self, input_ids):
    ...         return torch.zeros(*input_ids.shape, 128)  # of equal probabilities
    >>> def tokenizer(texts):
    ...     return [list(text.encode("ascii")) for text in texts]
    >>> model = CausalLanguageModel(Uniform(), tokenizer, bos_token_id=0).fit(["abc"])
    >>> model.score_samples(["ab", "abcd"]) / torch.tensor(128.0).log().item()
    array([-2., -4.])
    >>> [len(values) for values in model.score_positions(["ab", "abcd"])]
    [2, 4]
    """

    module: nn.Module = parameter(nn.Module)
    tokenizer: Callable[[list[str]], Any] | None = parameter(callable, None, default=None)
    bos_token_id: int | str | None = parameter(
        _NONNEGATIVE_INT, StrOptions({"auto"}), None, default="auto", kw_only=True
    )
    eos_token_id: int | str | None = parameter(
        _NONNEGATIVE_INT, StrOptions({"auto"}), None, default=None, kw_only=True
    )
    normalize: str | None = parameter(StrOptions({"length"}), None, default=None, kw_only=True)
    long_texts: str = parameter(
        StrOptions({"error", "truncate", "window"}), default="error", kw_only=True
    )
    max_length: int | str | None = parameter(
        at_least(2), StrOptions({"auto"}), None, default="auto", kw_only=True
    )
    stride: int | None = parameter(at_least(1), None, default=None, kw_only=True)
    batch_size: int | None = parameter(at_least(1), None, default=None, kw_only=True)
    verbose: bool | int | str = parameter(
        "verbose", StrOptions({"auto"}), default="auto", kw_only=True
    )

    # Detectors pass on their checked data, which may be texts or sequences of any length.
    _reads_checked_data = True
    _reads_as_it_came = True
    _takes_any_length = True

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> CausalLanguageModel:
        """Check the module, the tokenizer and the first texts, without training.

        Parameters
        ----------
        X : list of str, list of sequences of int, array of int or dict of arrays
        y : None
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the module is not a causal language model, if it has no token `bos_token_id` where
            one is needed, or if X has neither texts nor token ids.
        """
        data = self._open(X, reset=True)
        network = self._network()
        self._sequences(network, data, slice(0, min(_COMPARED, len(data))))
        self.vocabulary_size_ = network.vocabulary_size
        return self

    def score_samples(self, X: Any) -> npt.NDArray[np.float64]:
        """Log-probability of each text.

        Parameters
        ----------
        X : list of str, list of sequences of int, array of int or dict of arrays

        Returns
        -------
        ndarray of shape (n_samples,), float64
            In nats; per token with ``normalize="length"``.

        Raises
        ------
        ValueError
            If a text is empty or too long, has a token that the module does not know, or gets no
            finite logits.
        """
        data = self._open(X, reset=False)
        scores = [values.sum() for values in self._positions(data)]
        return np.array(scores, dtype=np.float64)

    def score_positions(self, X: Any) -> list[npt.NDArray[np.float64]]:
        """Log-probability of each token of each text, given the tokens before it.

        Parameters
        ----------
        X : list of str, list of sequences of int, array of int or dict of arrays

        Returns
        -------
        list of ndarray of shape (n_tokens,), float64
            In nats, for the tokens that `tokens` names; their sum is the score of the text. The
            first one is 0 if ``bos_token_id=None``, since that token is not scored.
        """
        return list(self._positions(self._open(X, reset=False)))

    def tokens(self, X: Any) -> list[list[str]]:
        """Names of the tokens of each text, for the values of `score_positions`.

        Parameters
        ----------
        X : list of str, list of sequences of int, array of int or dict of arrays

        Returns
        -------
        list of list of str
            Without BOS, and with EOS if it is scored; ids as strings if the tokenizer has no names.
        """
        data = self._open(X, reset=False)
        network, skipped = self._network(), int(self._bos() is not None)
        return [
            token_names(ids[skipped:].tolist(), self.tokenizer)
            for rows in row_slices(len(data), _BLOCK)
            for ids in self._sequences(network, data, rows)
        ]

    @internal
    def check_background(self, background: Any, X: Any) -> None:
        """Raise if the log-probabilities of two models cannot be compared.

        Parameters
        ----------
        background : estimator
        X : CheckedData
        """
        if not isinstance(background, CausalLanguageModel):
            return
        mine, other = self._conventions(), background._conventions()
        differ = [f"{k}={mine[k]!r} and {other[k]!r}" for k in mine if mine[k] != other[k]]
        if differ:
            raise ValueError(
                f"the two language models differ in {'; '.join(differ)}: they score different "
                "tokens of a text; give both the same values"
            )
        if self.tokenizer is not background.tokenizer:
            data = self._open(X, reset=False)
            some = data.take_as_given(np.arange(min(_COMPARED, len(data))))
            check_same_tokens(self.tokenizer, background.tokenizer, some)
        elif self.tokenizer is None:
            sizes = [model._network().n_embeddings for model in (self, background)]
            if sizes[0] != sizes[1]:
                raise ValueError(
                    f"the two language models have {sizes[0]} and {sizes[1]} tokens, so that the "
                    "ids in X may mean different tokens; give texts as X, and tokenizer= to both"
                )

    def _conventions(self) -> dict[str, Any]:
        """Return what two models must have in common, so that they score the same tokens."""
        found = {
            "bos_token_id": self._bos(),
            "eos_token_id": self._eos(),
            "normalize": self.normalize,
            "long_texts": self.long_texts,
        }
        if self.long_texts != "error":
            found |= {"max_length": self._longest()}
        return found | ({"stride": self._stride()} if self.long_texts == "window" else {})

    def _open(self, X: Any, *, reset: bool) -> CheckedData:
        if not hasattr(self, "vocabulary_size_"):
            self._validate_params()
        return check_data(self, X, reset=reset, as_it_came=True, any_length=True)

    def _network(self) -> CausalNetwork:
        network = CausalNetwork(self.module)
        network.check()
        return network

    def _bos(self) -> int | None:
        return special_token("bos_token_id", self.bos_token_id, self.tokenizer, self.module)

    def _eos(self) -> int | None:
        return special_token("eos_token_id", self.eos_token_id, self.tokenizer, self.module)

    def _longest(self) -> int | None:
        value = self.max_length
        return context_length(self.module) if isinstance(value, str) else value

    def _stride(self) -> int | None:
        longest = self._longest()
        if longest is None:
            return None
        stride = max(1, longest // 2) if self.stride is None else self.stride
        if stride >= longest:
            raise ValueError(
                f"stride={stride} leaves a window of max_length={longest} tokens without context; "
                "expected a smaller stride"
            )
        return stride

    def _sequences(
        self, network: CausalNetwork, data: CheckedData, rows: slice
    ) -> list[npt.NDArray[np.int64]]:
        """Return the checked ids of items, with BOS and EOS."""
        bos, eos, longest = self._bos(), self._eos(), self._longest()
        first, sequences = rows.start, []
        given = data.take_as_given(np.arange(first, rows.stop))
        for i, ids in enumerate(token_ids(given, self.tokenizer, first), first):
            parts = [ids]
            if bos is not None and ids[0] != bos:
                parts.insert(0, np.array([bos]))
            if eos is not None and ids[-1] != eos:
                parts.append(np.array([eos]))
            ids = np.concatenate(parts)
            network.check_ids(ids, i)
            if len(ids) < 2:
                raise ValueError(
                    f"item {i} of X has the single token {ids[0]}, which nothing comes before, so "
                    "that there is nothing to score; leave it out, or give bos_token_id="
                )
            if longest is not None and len(ids) > longest:
                if self.long_texts == "error":
                    raise ValueError(
                        f"item {i} of X has {len(ids)} tokens, but {network.name} reads at most "
                        f'{longest}; give long_texts="window" or "truncate", or shorter texts'
                    )
                ids = ids[:longest] if self.long_texts == "truncate" else ids
            sequences.append(ids)
        return sequences

    def _positions(self, data: CheckedData) -> Iterator[npt.NDArray[np.float64]]:
        """Yield what each token of an item adds to its score."""
        network, has_bos = self._network(), self._bos() is not None
        bar = progress_bar(
            total=len(data),
            description=f"{type(self).__name__} scores",
            unit="text",
            verbose=self.verbose,
        )
        with bar:
            for rows in row_slices(len(data), _BLOCK):
                sequences = self._sequences(network, data, rows)
                found = self._scored(network, sequences, bar.update)
                for i, values in enumerate(found, rows.start):
                    if np.isnan(values).any():
                        raise ValueError(
                            f"{network.name} gives NaN as the log-probability of a token of item "
                            f"{i} of X; float16 may overflow: give the module in bfloat16 or "
                            "float32"
                        )
                    scale = len(values) if self.normalize == "length" else 1
                    yield (values if has_bos else np.concatenate([[0.0], values])) / scale

    def _scored(
        self,
        network: CausalNetwork,
        sequences: list[npt.NDArray[np.int64]],
        done: Callable[[int], object],
    ) -> list[npt.NDArray[np.float64]]:
        """Return the log-probability of each token of a sequence but the first."""
        longest, stride = self._longest(), self._stride() if self.long_texts == "window" else None
        read, parts, is_last = [], [], []
        for number, ids in enumerate(sequences):
            for begin, end, scored in windows(len(ids), longest, stride):
                read.append(ids[begin:end])
                parts.append((number, scored - begin - 1))
                is_last.append(end == len(ids))
        found = network.log_probabilities(
            read, self.batch_size, lambda rows: done(sum(is_last[row] for row in rows))
        )
        of_items: list[list[npt.NDArray[np.float64]]] = [[] for _ in sequences]
        for (number, start), values in zip(parts, found, strict=True):
            of_items[number].append(values[start:])
        return [np.concatenate(values) for values in of_items]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        tags.requires_fit = False
        tags.input_tags.string = True
        return tags
