"""Calibration of the logits by a temperature."""

from __future__ import annotations

import numbers
import warnings

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.frozen import FrozenEstimator

from skood._checked_data import CheckedData
from skood._parameters import Interval, estimator, parameter
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers import PretrainedClassifier
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import OutputsDetector

__all__ = ["TemperatureScaling"]


@estimator
class TemperatureScaling(OutputsDetector):
    r"""Maximum softmax probability of calibrated logits, :math:`\max_k softmax(f(x) / T)_k`.

    T minimises the negative log-likelihood of held-out labels. If the classifier is already
    trained, all data given to `fit` count as held out; otherwise a part is held out from
    its training. The threshold is set on the same held-out data.

    Parameters
    ----------
    classifier : classifier or Module, default=None
        A classifier of :mod:`skood.classifiers`, any classifier of scikit-learn, or a trained
        torch module. One in :class:`sklearn.frozen.FrozenEstimator` is not trained again. None
        takes a convolutional network for images and an MLP for rows.
    validation_fraction : float, default=0.1
        Part of the data that T is fitted on, where the classifier is trained on the rest.

    Attributes
    ----------
    temperature_ : float
        T; 1, with a warning, where the likelihood has no optimum.

    Notes
    -----
    The likelihood is convex in 1 / T, so its optimum is found exactly, as the root of its
    derivative. Implementations that run a few gradient steps do not reach it.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural
       Networks", ICML 2017, section 4.2.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    >>> from skood import TemperatureScaling
    >>> X, y = load_digits(return_X_y=True)
    >>> detector = TemperatureScaling(LinearDiscriminantAnalysis(), random_state=0).fit(X, y)
    >>> bool(2 < detector.temperature_ < 3)
    True
    """

    validation_fraction: float = parameter(
        Interval(numbers.Real, 0, 1, closed="neither"), default=0.1
    )
    # The rows that `validation_fraction` holds out give the threshold, too.
    threshold_fraction: float = parameter(default=0.0, init=False)

    _needs = "labels"

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer]:
        training = held_out = np.arange(len(inliers))
        trained = isinstance(self.classifier, (FrozenEstimator, PretrainedClassifier))
        if y is not None and not trained:
            order = numpy_rng(seed, Stream.TEMPERATURE_ROWS).permutation(len(inliers))
            n_held_out = max(1, int(self.validation_fraction * len(order)))
            # The first row of every class is for training, so that no class is missing there.
            _, first = np.unique(y[order], return_index=True)
            order = np.concatenate([order[first], np.delete(order, first)])
            training, held_out = np.sort(order[:-n_held_out]), np.sort(order[-n_held_out:])
        self._fit_classifier(inliers.subset(training), None if y is None else y[training], seed)
        self._fit_scores(inliers.subset(held_out), None if y is None else y[held_out])
        return held_out

    def _fit_on_outputs(
        self, outputs: Outputs, class_indices: npt.NDArray[np.int64], data: CheckedData
    ) -> None:
        logits = outputs.logits.astype(np.float64)
        of_class = np.take_along_axis(logits, class_indices[:, None], 1)
        impossible = of_class <= np.log(np.finfo(np.float64).tiny)
        if outputs.normalized and impossible.any():
            raise ValueError(
                f"{type(self.classifier_).__name__} gives {impossible.sum()} of {len(logits)} "
                "held-out rows the probability 0 for their own class, which is 0 at every "
                "temperature; use MSP, or a classifier that has logits (decision_function)"
            )
        target = of_class.mean()

        def slope(log_inverse: float) -> float:
            """Differentiate the mean negative log-likelihood in 1 / T."""
            proba = softmax(np.exp(log_inverse) * logits, axis=1)
            return float((proba * logits).sum(1).mean() - target)

        low, high = np.log(1e-3), np.log(1e3)
        if slope(low) < 0 < slope(high):
            self.temperature_ = float(np.exp(-brentq(slope, low, high, xtol=1e-14)))
            return
        self.temperature_ = 1.0
        what = "all right" if slope(high) <= 0 else "no better than chance"
        warnings.warn(
            f"the classifier is {what} on the {len(class_indices)} held-out rows, which no "
            "temperature fits best; T = 1 is kept. Give more held-out rows",
            stacklevel=2,
        )

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return softmax(outputs.logits / self.temperature_, axis=1).max(1)

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        logits = self._outputs(data).logits.astype(np.float64)
        return softmax(logits / self.temperature_, axis=1)
