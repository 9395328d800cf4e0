"""Outliers that detectors are compared on, and the scores of every detector."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator

from skood._data.checked_data import CheckedData
from skood._data.unread_data import UnreadData, unread_frame
from skood._data.validation import share_as_it_came
from skood._models import fit_model
from skood._recommendation._candidates import Candidates, Situation, with_model
from skood._recommendation._ranking import Comparison, Scores
from skood._recommendation._rows import Rows
from skood._torch.seeding import Stream, numpy_rng
from skood.calibration._base import fit_detector, scores_of
from skood.datasets import synthetic_outliers
from skood.model_selection import LeaveClassesOut
from skood.posthoc._outputs_score import OutputsScore

__all__ = ["Contest", "cannot_leave_out", "cannot_synthesise"]

KINDS = ("mixup", "mutation", "noise", "permutation")
KINDS_OF_IMAGES = (*KINDS, "blur", "far_crop", "inversion", "patch_shuffle")
# Choices of classes that are left out, if there are more classes.
_MOST_SPLITS = 5


class Contest:
    """Fits every candidate to the same rows, and scores the same outliers with each of them.

    A candidate that cannot be fitted, or cannot score, is moved to the reasons.

    Parameters
    ----------
    situation : Situation
    candidates : Candidates
    rows : Rows
    max_rows : int
        Largest number of ID rows, or outliers, in a comparison.
    seed : int
    count : callable
        Called after each step, for a progress bar.

    Attributes
    ----------
    fitted : dict of str to detector
    milliseconds : dict of str to float
        Time of scoring one item in a batch, including the forward pass.
    warnings : dict of str to list of str
    comparisons : list of Comparison
    """

    def __init__(
        self,
        situation: Situation,
        candidates: Candidates,
        rows: Rows,
        *,
        max_rows: int,
        seed: int,
        count: Callable[[], Any],
    ) -> None:
        self.situation, self.candidates, self.rows = situation, candidates, rows
        self.max_rows, self.seed, self.count = max_rows, seed, count
        self.milliseconds: dict[str, float] = {}
        self.warnings: dict[str, list[str]] = {name: [] for name in candidates.detectors}
        self.comparisons: list[Comparison] = []
        self.fitted: dict[str, Any] = {}
        self.fitted = self._fit_all(candidates.detectors, rows.training, rows.labels)
        self._inliers = self._score_ranking()

    def add(self, criterion: str, name: str, outliers: CheckedData) -> None:
        """Compare the candidates on outliers."""
        scores = dict(self._scored(self.fitted, outliers))
        inliers = {key: self._inliers[key] for key in scores}
        self.comparisons.append(Comparison(criterion, name, 0, inliers, scores))
        self.count()

    def add_synthetic(self) -> None:
        """Compare the candidates on outliers that are made from the ranking rows."""
        ranking = self.rows.ranking
        frame = unread_frame(ranking)
        kinds = KINDS_OF_IMAGES if ranking.is_image else KINDS
        for number, kind in enumerate(kinds):
            rng = numpy_rng(self.seed, Stream.RECOMMENDATION_OUTLIERS, number)
            seed = int(rng.integers(2**31 - 1))
            made = synthetic_outliers(ranking if frame is None else frame, kind, random_state=seed)
            outliers = ranking.like(made) if frame is None else share_as_it_came(made)
            self.add("synthetic", kind, outliers)

    def add_classes(self) -> None:
        """Compare the candidates on classes that they, and their classifier, are not fitted to."""
        rows = self.rows
        labels = rows.labels
        assert labels is not None
        n_splits = min(len(np.unique(labels)), _MOST_SPLITS)
        splitter = LeaveClassesOut(n_splits=n_splits, random_state=self.seed)
        for number, (training, test) in enumerate(splitter.split(labels, labels), 1):
            left_out = ~np.isin(labels[test], np.unique(labels[training]))
            fitted = self._fit_all(
                {name: self.candidates.detectors[name] for name in self.fitted},
                rows.training.subset(training),
                labels[training],
            )
            inliers, outliers = (
                rows.training.subset(self._drawn(test[mask], number))
                for mask in (~left_out, left_out)
            )
            inside = dict(self._scored(fitted, inliers))
            outside = dict(self._scored(fitted, outliers))
            names = ", ".join(map(str, np.unique(labels[test][left_out])))
            inside = {name: scores for name, scores in inside.items() if name in outside}
            self.comparisons.append(
                Comparison("classes", f"without {names}", number, inside, outside)
            )
            self.count()

    def comparisons_of_all(self) -> tuple[list[Comparison], list[str]]:
        """Return the comparisons of the candidates that took part in all of them, and their names.

        Raises
        ------
        ValueError
            If no candidate is left.
        """
        if not self.fitted:
            names_by_reason: dict[str, list[str]] = {}
            for name in self.candidates.detectors:
                names_by_reason.setdefault(self.candidates.reasons[name], []).append(name)
            reasons = "; ".join(
                f"{', '.join(names)}: {reason}" for reason, names in names_by_reason.items()
            )
            raise ValueError(f"no detector fits the model and X. {reasons}")
        comparisons = [
            replace(
                comparison,
                inliers={name: comparison.inliers[name] for name in self.fitted},
                outliers={name: comparison.outliers[name] for name in self.fitted},
            )
            for comparison in self.comparisons
        ]
        return comparisons, list(self.fitted)

    def _fit_all(
        self, detectors: dict[str, Any], data: CheckedData, y: npt.NDArray | None
    ) -> dict[str, Any]:
        """Fit clones of detectors; the model that they share is trained once."""
        model = self.situation.model
        if model is not None and not self.situation.is_trained:
            model = FrozenEstimator(fit_model(model, data, y, seed=self.seed))
        fitted = {}
        for name, detector in detectors.items():
            on_model = with_model(detector, model, self.situation.kind)
            fit = partial(fit_detector, on_model, data, y, None, seed=self.seed, memory=None)
            result = self._tried(name, fit)
            if result is not None:
                fitted[name] = result
        return fitted

    def _score_ranking(self) -> dict[str, Scores]:
        """Score the ranking rows, and measure the time."""
        ranking = self.rows.ranking
        found, seconds = {}, {}
        shared_pass = None if self.situation.kind in ("network", "features") else 0.0
        for name, detector in list(self.fitted.items()):
            start = perf_counter()
            scores = self._tried(name, partial(scores_of, detector, ranking))
            seconds[name] = perf_counter() - start
            if scores is None:
                continue
            if np.ptp(scores) == 0:
                self._exclude(name, f"gives all {len(scores)} ranking rows the same score")
                continue
            found[name] = scores
            if shared_pass is None and isinstance(detector, OutputsScore):
                # The second time, the outputs of the network are known.
                start = perf_counter()
                scores_of(detector, ranking)
                again = perf_counter() - start
                shared_pass, seconds[name] = max(0.0, seconds[name] - again), again
        for name in found:
            if isinstance(self.fitted[name], OutputsScore):
                seconds[name] += shared_pass or 0.0
            self.milliseconds[name] = 1e3 * seconds[name] / len(ranking)
        return found

    def _scored(self, detectors: dict[str, Any], data: CheckedData) -> Iterator[tuple[str, Scores]]:
        for name, detector in list(detectors.items()):
            if name in self.fitted:
                scores = self._tried(name, partial(scores_of, detector, data))
                if scores is not None:
                    yield name, scores

    def _tried(self, name: str, function: Callable[[], Any]) -> Any:
        """Return the result, or exclude the candidate if it refuses the model or the data."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                return function()
            except (TypeError, ValueError) as error:
                self._exclude(name, str(error))
                return None
            finally:
                said = self.warnings[name]
                said += [str(w.message) for w in caught if str(w.message) not in said]

    def _exclude(self, name: str, reason: str) -> None:
        self.candidates.reasons[name] = reason
        self.fitted.pop(name, None)

    def _drawn(self, rows: npt.NDArray[np.integer], number: int) -> npt.NDArray[np.integer]:
        """Draw at most `max_rows` of rows."""
        rng = numpy_rng(self.seed, Stream.RECOMMENDATION_ROWS, number)
        return np.sort(rng.permutation(rows)[: self.max_rows])


def cannot_synthesise(data: CheckedData) -> str | None:
    """Say why no synthetic outliers can be made from data, or return None."""
    if unread_frame(data) is not None:
        return None
    if isinstance(data, UnreadData) or not data.is_rows_or_images:
        return f"they are made from rows of numbers or images, but X has {data.description}"
    return None


def cannot_leave_out(situation: Situation, labels: npt.NDArray | None) -> str | None:
    """Say why no classes can be left out, or return None."""
    if labels is None:
        return "needs class labels; give y"
    if situation.is_trained:
        return (
            "the model is trained already, on all its classes: rows of a class that the network "
            "was trained on are not OOD for it. Give the classifier untrained, to train it without "
            "some classes"
        )
    _, n_rows = np.unique(labels, return_counts=True)
    fewest = 2 if situation.model is None else 3
    if len(n_rows) < fewest:
        return f"y has {len(n_rows)} classes, at least {fewest} are needed"
    if min(n_rows) < 2:
        return "a class has a single training row; give more rows of it, or leave the class out"
    return None
