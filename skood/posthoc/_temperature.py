"""Calibration of the logits with a temperature."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.frozen import FrozenEstimator

from skood import functional as F
from skood._data.checked_data import CheckedData
from skood._estimator.parameters import FRACTION, estimator, parameter
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers import PretrainedClassifier
from skood.classifiers._outputs import Outputs
from skood.posthoc._explained import ExplainedByClasses, largest_alone
from skood.posthoc._outputs_detector import OutputsDetector

__all__ = ["TemperatureScaling"]


@estimator
class TemperatureScaling(ExplainedByClasses, OutputsDetector):
    r"""Maximum softmax probability of calibrated logits, :math:`\max_k softmax(f(x) / T)_k`.

    T minimises the negative log-likelihood of held-out labels. If the classifier is already
    trained, all rows given to `fit` count as held out. Otherwise `validation_fraction` of the rows
    is held out from training. The threshold is set on the same held-out rows.

    Parameters
    ----------
    validation_fraction : float, default=0.1
        Fraction of the rows that T is fitted to, if the classifier is trained on the others.

    Attributes
    ----------
    temperature_ : float
        The T; 1, with a warning, if the likelihood has no optimum.

    Notes
    -----
    The negative log-likelihood is convex in 1 / T, so its optimum is the root of its derivative.
    Implementations that take a few gradient steps do not reach the optimum.

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

    validation_fraction: float = parameter(FRACTION, default=0.1)
    # The threshold is set on the rows that `validation_fraction` holds out.
    threshold_fraction: float = parameter(default=0.0, init=False)

    _needs = "labels"
    _learns_from_new = True

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> npt.NDArray[np.integer]:
        training = held_out = np.arange(len(inliers))
        trained = isinstance(self.classifier, (FrozenEstimator, PretrainedClassifier))
        if y is not None and not trained:
            order = numpy_rng(seed, Stream.TEMPERATURE_ROWS).permutation(len(inliers))
            n_held_out = max(1, int(self.validation_fraction * len(order)))
            # The first row of each class is used for training, so that no class is missing there.
            _, first = np.unique(y[order], return_index=True)
            order = np.concatenate([order[first], np.delete(order, first)])
            training, held_out = np.sort(order[:-n_held_out]), np.sort(order[-n_held_out:])
        self._fit_classifier(inliers.subset(training), None if y is None else y[training], seed)
        self._learn_from_data(inliers.subset(held_out), None if y is None else y[held_out], seed)
        return held_out

    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        logits = outputs.logits.astype(np.float64)
        of_class = np.take_along_axis(logits, class_indices[:, None], 1)
        impossible = of_class <= np.log(np.finfo(np.float64).tiny)
        if outputs.normalized and impossible.any():
            raise ValueError(
                f"the classifier gives {impossible.sum()} of {len(logits)} held-out rows the "
                "probability 0 for their own class, which is 0 at every temperature; use MSP, or a "
                "classifier that has logits (decision_function)"
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
            f"the classifier is {what} on the {len(class_indices)} held-out rows, so no "
            "temperature is optimal; T = 1 is kept. Give more held-out rows",
            stacklevel=2,
        )

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.msp(self._log_proba(outputs))

    def _log_proba(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.log_softmax(outputs.logits, self.temperature_)

    def _shares(self, outputs: Outputs) -> tuple[npt.NDArray[np.float64] | float, npt.NDArray]:
        proba = np.exp(self._log_proba(outputs))
        return proba.sum(1), largest_alone(proba) - proba

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        logits = self._outputs(data).logits.astype(np.float64)
        return softmax(logits / self.temperature_, axis=1)
