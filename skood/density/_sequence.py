"""An autoregressive density of sequences of symbols."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.utils import Tags
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._data.symbols import PADDING, CheckedSequences
from skood._data.validation import check_data
from skood._estimator.internal import internal
from skood._estimator.parameters import Interval, StrOptions, at_least, estimator, parameter
from skood._progress import tracked
from skood._torch.preprocessing import Learned
from skood.density._neural_density import NeuralDensity
from skood.density._sequence_network import SequenceNetwork
from skood.density._symbol_coding import SymbolCoding

__all__ = ["SequenceDensity"]

# Layers by default.
_N_LAYERS = {"convolution": 8, "lstm": 1}


@estimator
class SequenceDensity(NeuralDensity):
    r"""Autoregressive density of sequences of symbols, such as bases or amino acids.

    .. math:: \log p(x \mid L) = \sum_{t=1}^{L} \log p(x_t \mid x_1, \dots, x_{t-1})

    A causal network predicts each symbol from the symbols before it, with a softmax over the
    alphabet. The length L is not modelled: the probabilities of all sequences of one length sum to
    1.

    Parameters
    ----------
    network : {"convolution", "lstm"}, default="convolution"
        Dilated causal convolutions with gated residual layers (WaveNet [2]_), or a long short-term
        memory, as in [1]_.
    hidden_features : int, default=64
        Number of features of each layer; 2 000 units of the LSTM in [1]_.
    n_layers : int or None, default=None
        Number of layers; None: 8 for convolutions, 1 for an LSTM. A convolutional network reads
        the last ``kernel_size ** n_layers`` symbols.
    kernel_size : int, default=2
        Number of positions that a convolution reads; the dilation of each layer is `kernel_size`
        times the dilation of the layer before.
    embedding_size : int or None, default=None
        Length of the learned vectors that the network reads in place of symbols. None: one-hot
        vectors, as in [1]_.
    symbols : str, array-like or None, default=None
        The alphabet, for example "ACGT" or ``range(20)``. None: the symbols in `fit`.
    handle_unknown : {"error", "class"}, default="error"
        Whether a symbol outside the alphabet raises an error, or belongs to one class of unknown
        symbols. The probability of this class is learned only if `fit` sees unknown symbols.
    dropout : float, default=0.0
        Rate of dropout, inside the residual layers or on the outputs of an LSTM, in training.
    max_epochs : int, default=50
        Largest number of passes over the training data.
    max_steps : int or None, default=1600
        Largest number of training steps. The default is for a first result.
    batch_size : int, default=32
        Number of items in a training step.

    Attributes
    ----------
    history_ : dict of str to list of float
        Loss of each epoch, in nats per sequence: "loss" and, where sequences were held out,
        "validation_loss".
    symbols_ : ndarray of shape (n_symbols,)
        The alphabet, strings or int64.
    lengths_ : ndarray of shape (n_lengths,), int64
        Lengths of the training sequences, ascending.
    length_counts_ : ndarray of shape (n_lengths,), int64
        Number of training sequences of each length.
    dtype_ : numpy dtype
        Dtype of `symbols_`.
    input_shape_ : tuple of int
        (), because sequences may have any length.
    statistics_names : tuple of str
        Columns of `score_statistics`: "log_prob", log p(x); "entropy", the summed entropies of the
        predicted distributions, which is -log p(x) on average for samples of the model.

    See Also
    --------
    skood.likelihood.LikelihoodRatio : Divides by the density of a background model.
    skood.datasets.make_genomes : Synthetic genomes.

    Notes
    -----
    X is a list or array of strings, whose symbols are characters; an array (n, L) of letters or
    integers; or a list of sequences of integers or strings, whose lengths may differ. Upper and
    lower case differ. Rows of floats are read if they hold whole numbers. Symbols are read into
    memory. A mutated symbol becomes each of the other symbols with equal probability, and the
    network predicts the mutated symbols.

    Differences from the released code of [1]_: the first symbol is scored, given nothing; the
    code leaves it out. `reg_weight` times the sum of squared kernel weights is added to the loss in
    nats per sequence; the code adds 0.0001 times half the sum to the loss in nats per symbol, which
    for sequences of 250 bases is ``reg_weight=0.0125``. The code drops 10 % of the candidate values
    of the LSTM's cell in training.

    References
    ----------
    .. [1] J. Ren, P. J. Liu, E. Fertig, J. Snoek, R. Poplin, M. A. DePristo, J. V. Dillon,
       B. Lakshminarayanan, "Likelihood Ratios for Out-of-Distribution Detection",
       NeurIPS 2019.
    .. [2] A. van den Oord et al., "WaveNet: A Generative Model for Raw Audio", 2016.

    Examples
    --------
    >>> from skood.density import SequenceDensity
    >>> X = ["ACGTACGTAC", "CGTACGT", "GTACGTACGTACG", "TACGTACG"] * 8
    >>> density = SequenceDensity(hidden_features=8, n_layers=3, max_steps=200, random_state=0)
    >>> density.fit(X).symbols_
    array(['A', 'C', 'G', 'T'], dtype='<U1')
    >>> regular, random = density.score_samples(["ACGTACGT", "ATCAGGCT"])
    >>> bool(regular > random)
    True
    >>> [len(positions) for positions in density.score_positions(["ACGT", "CG"])]
    [4, 2]
    """

    network: str = parameter(StrOptions({"convolution", "lstm"}), default="convolution")
    hidden_features: int = parameter(at_least(1), default=64)
    n_layers: int | None = parameter(at_least(1), None, default=None)
    kernel_size: int = parameter(at_least(2), default=2, kw_only=True)
    embedding_size: int | None = parameter(at_least(1), None, default=None, kw_only=True)
    symbols: Any = parameter(str, "array-like", None, default=None, kw_only=True)
    handle_unknown: str = parameter(StrOptions({"error", "class"}), default="error", kw_only=True)
    dropout: float = parameter(
        Interval(numbers.Real, 0, 1, closed="left"), default=0.0, kw_only=True
    )
    max_epochs: int = parameter(default=50, kw_only=True)
    max_steps: int | None = parameter(default=1600, kw_only=True)
    batch_size: int = parameter(default=32, kw_only=True)
    patience: int | None = parameter(default=10, kw_only=True)

    symbols_ = Learned("symbols")
    lengths_ = Learned("lengths")
    length_counts_ = Learned("length_counts")

    statistics_names = "log_prob", "entropy"
    _reads_as_it_came = True
    _takes_any_length = True
    _reads_symbols = True

    def _open(self, X: Any, *, reset: bool) -> CheckedSequences:
        data = super()._open(X, reset=reset)
        assert isinstance(data, CheckedSequences)
        return data

    def _checked(self, X: Any, *, reset: bool) -> CheckedData:
        if isinstance(X, (str, bytes)):
            raise ValueError(f"X is one string, {X!r:.60}; give a list of strings")
        data = check_data(self, X, reset=reset, as_it_came=True, any_length=True)
        if reset and len(data) < 2:
            raise ValueError(
                f"Found {len(data)} sequence(s) while a minimum of 2 is required by "
                f"{type(self).__name__}"
            )
        return data

    def _make_preprocessing(self, data: CheckedData) -> SymbolCoding:
        coding = SymbolCoding(self, data, self.symbols, self.handle_unknown == "class")
        if self.mutation_rate > 0 and len(coding.symbols) < 2:
            raise ValueError(
                f"mutation_rate={self.mutation_rate} needs an alphabet of at least 2 symbols, but "
                f"X has only {coding.symbols[0].item()!r}; give all symbols as symbols="
            )
        self.dtype_ = coding.symbols.dtype
        return coding

    def _make_network(self, item_shape: tuple[int, ...]) -> nn.Module:
        n_layers = _N_LAYERS[self.network] if self.n_layers is None else self.n_layers
        return SequenceNetwork(
            item_shape[0],
            network=self.network,
            hidden_features=self.hidden_features,
            n_layers=n_layers,
            kernel_size=self.kernel_size,
            embedding_size=self.embedding_size,
            dropout=self.dropout,
        )

    def _mutate(self, x: Tensor, data: CheckedData, generator: torch.Generator) -> Tensor:
        n_symbols = len(self.symbols_)
        is_mutated = torch.rand(x.shape, generator=generator, device=x.device) < self.mutation_rate
        move = torch.randint(1, n_symbols, x.shape, generator=generator, device=x.device)
        mutated = (x + move) % n_symbols
        if self.handle_unknown == "class":
            # Of an unknown symbol, all symbols are others.
            drawn = torch.randint(n_symbols, x.shape, generator=generator, device=x.device)
            mutated = torch.where(x == n_symbols, drawn, mutated)
        return torch.where(is_mutated & (x != PADDING), mutated, x)

    def _log_prob(
        self, module: nn.Module, x: Tensor, class_indices: Tensor | None = None
    ) -> Tensor:
        """Log-probability of each symbol in nats, shape (b, L); 0 for padding."""
        log_probs = module(x).log_softmax(-1)
        of_symbols = log_probs.gather(-1, x.clamp(min=0)[..., None])[..., 0]
        return of_symbols.masked_fill(x == PADDING, 0.0)

    def _statistics(self, module: nn.Module, x: Tensor) -> Tensor:
        log_probs = module(x).log_softmax(-1).double()
        of_symbols = log_probs.gather(-1, x.clamp(min=0)[..., None])[..., 0]
        entropies = -(log_probs.exp() * log_probs).sum(-1)
        both = torch.stack([of_symbols, entropies], -1)
        return both.masked_fill((x == PADDING)[..., None], 0.0).sum(1)

    @internal
    def map(self, X: Any, function: Any, **settings: Any) -> Any:
        """Apply a function of the trained network to every sequence, in batches."""
        data = self._open(X, reset=False)
        # Sequences of similar lengths share a batch, which is padded to the longest.
        order = np.argsort(-data.lengths, kind="stable")
        results = super().map(data.subset(order), function, **settings)
        places = np.argsort(order)
        if isinstance(results, tuple):
            return tuple(part[places] for part in results)
        return results[places]

    def score_positions(self, X: Any) -> list[npt.NDArray[np.float64]]:
        """Log-probability of each symbol given the symbols before it.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        list of ndarray of shape (length,), float64
            One array for each sequence, in nats. Its sum is the sequence's `score_samples`.
        """
        data = self._open(X, reset=False)
        longest = int(data.lengths.max())

        def positions(module: nn.Module, x: Tensor) -> Tensor:
            return F.pad(self._log_prob(module, x), (0, longest - x.shape[1]))

        padded = self.map(data, positions, doing="positions")
        return [row[:length].copy() for row, length in zip(padded, data.lengths, strict=True)]

    def bits_per_dim(self, X: Any) -> npt.NDArray[np.float64]:
        """Negative log-probability in bits for each symbol.

        Parameters
        ----------
        X : array-like, Tensor or Dataset of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), float64
            -log2 p(x) / L, with L symbols in a sequence; log2(n_symbols) for a uniform model.
        """
        data = self._open(X, reset=False)
        return -self.score_samples(data) / (math.log(2) * data.lengths)

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> Any:
        """Draw sequences from the model, with the lengths of random training sequences.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        list of str, ndarray of shape (n_samples, L) or list of ndarray
            Strings if the training data were strings; otherwise an array if all training sequences
            have one length, and a list of arrays if not. Unknown symbols are not drawn.
        """
        return super().sample(n_samples, random_state)

    def _draw(self, module: nn.Module, n_samples: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        counts = torch.from_numpy(self.length_counts_).double().to(device)
        chosen = torch.multinomial(counts, n_samples, replacement=True, generator=generator)
        lengths = torch.from_numpy(self.lengths_).to(device)[chosen]
        codes = torch.full((n_samples, int(self.lengths_[-1])), PADDING, device=device)
        previous, state = codes[:, 0], None
        for position in tracked(
            range(int(lengths.max())),
            description="drawing samples",
            unit="symbol",
            verbose=self.verbose,
        ):
            logits, state = module.step(previous, state)
            probs = logits[:, : len(self.symbols_)].softmax(-1)
            previous = torch.multinomial(probs, 1, generator=generator)[:, 0]
            codes[:, position] = torch.where(position < lengths, previous, PADDING)
        return codes

    def _as_given(self, values: npt.NDArray) -> Any:
        coding = self._preprocessing
        assert isinstance(coding, SymbolCoding)
        return coding.decode(values)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = False
        tags.input_tags.string = True
        return tags
