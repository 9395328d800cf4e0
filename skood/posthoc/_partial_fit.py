"""Scores that learn from sums over rows, so that rows can come in batches."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.utils.metaestimators import available_if

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._data.labels import check_labels, encode_labels, is_outlier
from skood._data.outliers import labels_of
from skood._estimator.parameters import fit_context
from skood._moments import ClassMeans
from skood._thresholds import FEWEST_HELD_OUT, THRESHOLD_ROWS
from skood._torch.seeding import Stream, draw_seed, numpy_rng
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import check_magnitude, in_float64
from skood.posthoc._outputs_detector import FeatureDetector
from skood.posthoc._outputs_score import OutputsScore, reads_chunks
from skood.posthoc._reservoir import Reservoir

__all__ = ["LearnsFromSums", "StreamedSums"]

# Rows that are converted to float64 at once. For many classes there are more, because the means of
# the classes of each chunk are merged.
_CHUNK, _LARGEST_CHUNK, _ROWS_PER_CLASS = 4096, 16384, 8

# One thread computes the statistics of a stream, and others wait for them.
_CONCLUDING = threading.RLock()

_Sums = dict[str, ClassMeans]


class StreamedSums:
    """What a detector keeps of the rows that `partial_fit` was given.

    Parameters
    ----------
    seed : int
        Seed of the keys of rows.
    sums : dict of str to ClassMeans
    held_out : float
        Fraction of the rows that are held out for the threshold.
    labels : list or None
        Label of each class, None without labels.
    label_type : str
        "object" if labels are objects, as strings of a frame, or "plain".
    takes_new_labels : bool
        Whether further labels are further classes.
    """

    def __init__(
        self,
        seed: int,
        sums: _Sums,
        held_out: float,
        labels: list[Any] | None,
        label_type: str,
        takes_new_labels: bool,
    ) -> None:
        self.seed = seed
        self.sums = sums
        self.labels = labels
        self.label_type = label_type
        self.takes_new_labels = takes_new_labels
        self.n_rows = 0
        # Rows that are not in the sums, and a sample of those that are.
        self.held_out = Reservoir(THRESHOLD_ROWS, held_out)
        self.learned = Reservoir(THRESHOLD_ROWS)
        self.is_whole = True
        self.is_concluded = False

    @property
    def known_labels(self) -> npt.NDArray:
        """Label of each class, in the dtype of the labels that came."""
        return np.array(self.labels, dtype=object if self.label_type == "object" else None)

    def keys(self, n_rows: int) -> npt.NDArray[np.float64]:
        """Draw two keys for each of the next rows, which do not depend on the batches."""
        rng = numpy_rng(self.seed, Stream.STREAMED_ROWS)
        rng.bit_generator.advance(2 * self.n_rows)  # type: ignore[attr-defined]
        return rng.random((n_rows, 2))


def _can_partial_fit(detector: LearnsFromSums) -> bool:
    """Whether a detector has `partial_fit`; raise an error that says why not."""
    name = type(detector).__name__
    if type(detector)._learn is not LearnsFromSums._learn:
        raise AttributeError(f"{name} has no partial_fit: it overrides _learn")
    if detector._trains_model:
        raise AttributeError(
            f"{name} has no partial_fit, because fit would train its model on all rows; give a "
            "trained torch module, or a fitted model in sklearn.frozen.FrozenEstimator"
        )
    if "_n_columns" in vars(detector) and "_stream" not in vars(detector):
        raise AttributeError(
            f"this {name} was fitted by fit or fit_outputs, which keep no sums to add to; call "
            f"partial_fit on a new {name} (sklearn.base.clone) from the first batch on"
        )
    return True


class LearnsFromSums(OutputsScore):
    """Base of the scores whose statistics are sums over the training rows.

    A subclass implements ``_new_sums``, ``_add`` and ``_learn_sums``.

    Attributes
    ----------
    _summed : tuple of {"logits", "log_proba", "features"}
        What ``_add`` reads.
    _from_sums : tuple of str
        Names of the attributes that ``_learn_sums`` sets.
    """

    _summed: ClassVar[tuple[str, ...]] = ("features",)
    _from_sums: ClassVar[tuple[str, ...]] = ()

    def _new_sums(self) -> _Sums:
        """Return sums of no rows, by their names."""
        raise NotImplementedError

    def _add(self, sums: _Sums, outputs: Outputs, class_indices: npt.NDArray[np.integer]) -> None:
        """Add a few thousand rows, in the precision of the network, to the sums."""
        raise NotImplementedError

    def _learn_sums(self, sums: _Sums, outputs: Outputs) -> None:
        """Compute the statistics from the sums of all rows.

        Parameters
        ----------
        sums : dict of str to ClassMeans
        outputs : Outputs
            All rows, or a uniform sample of them.
        """
        raise NotImplementedError

    @reads_chunks
    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        self.__dict__.pop("_stream", None)
        sums = self._new_sums()
        for rows in row_slices(len(outputs), _chunk_size(class_indices)):
            self._add(sums, self._part(outputs, rows), class_indices[rows])
        self._learn_sums(sums, outputs)

    def _part(self, outputs: Outputs, rows: slice | npt.NDArray[np.integer]) -> Outputs:
        """Return rows of what is summed, without computing the rest."""
        n_rows = rows.stop - rows.start if isinstance(rows, slice) else len(rows)

        def part(name: str) -> npt.NDArray:
            return getattr(outputs, name)[rows] if name in self._summed else np.empty((n_rows, 0))

        return replace(
            outputs,
            logits=part("logits"),
            log_proba=part("log_proba"),
            features=part("features"),
        )

    @available_if(_can_partial_fit)
    @fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X: Any, y: Any = None, classes: Any = None) -> LearnsFromSums:
        """Learn from the next batch of in-distribution rows.

        Up to rounding, the statistics equal the statistics of one `fit` on all learned rows, and
        do not depend on the division into batches. They and the threshold are computed when they
        are first used. Memory does not depend on the number of rows. A detector that was fitted by
        `fit` keeps no sums, and has no `partial_fit`.

        The threshold needs the scores of rows under the final statistics, so that at most 5000 rows
        are kept, a uniform sample of all rows so far, and scored again. If `fit` would hold rows
        out, each row is held out with probability `threshold_fraction`, and no row that sets the
        threshold is in the statistics; a row that leaves the sample is then learned from. Fewer
        than 50 held-out rows are learned from, too, and the threshold is set on the rows that were
        learned from.

        Parameters
        ----------
        X : array-like, Tensor, Dataset or DataLoader of shape (n_samples, ...)
            The first batch has at least two rows.
        y : array-like of shape (n_samples,), default=None
            Labels, in all batches or in none. Rows with y == -1 are left out.
        classes : array-like of shape (n_classes,), default=None
            All labels that may occur; another one is an error. None: every new label is a further
            class or, for a detector on a classifier, has to be one of its classes.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X or y is invalid, or an earlier call was interrupted.
        """
        stream: StreamedSums | None = vars(self).get("_stream")
        if stream is not None and not stream.is_whole:
            raise ValueError(
                f"partial_fit of this {type(self).__name__} was interrupted, so that some rows of "
                "a batch are in its sums; start again with a new one (sklearn.base.clone)"
            )
        data = self._check(X, reset=stream is None)
        inliers, labels, _ = self._split_outliers(data, labels_of(self, data, y))
        if stream is None:
            stream = self._started(inliers, labels, classes)
        class_indices = self._streamed_classes(stream, inliers, labels, classes)
        with self._shows_progress():
            outputs = self._outputs(inliers)
        check_magnitude(outputs.logits, outputs.features)
        self._n_columns = {part: getattr(outputs, part).shape[1] for part in ("logits", "features")}
        stream.is_whole = False
        self._stream = stream
        for name in self._concluded_names:
            self.__dict__.pop(name, None)
        stream.is_concluded = False
        for rows in row_slices(len(outputs), _chunk_size(class_indices)):
            self._add_streamed(stream, outputs[rows], class_indices[rows])
        stream.is_whole = True
        return self

    def _started(
        self, inliers: CheckedData, labels: npt.NDArray | None, classes: Any
    ) -> StreamedSums:
        """Prepare the model, and return sums of no rows."""
        self._check_parameters()
        seed = draw_seed(self.random_state)
        self._fit_model(inliers, labels, seed)
        known: list[Any] | None = None
        if isinstance(self, FeatureDetector) and labels is not None:
            known = [] if classes is None else _checked_classes(classes).tolist()
        elif classes is not None and isinstance(self, FeatureDetector):
            raise ValueError("classes are given, but y is None; give y, or leave out classes")
        held_out = self.threshold_fraction if self._overfits else 0.0
        label_type = "object" if labels is not None and labels.dtype == object else "plain"
        return StreamedSums(
            seed, self._new_sums(), held_out, known, label_type, takes_new_labels=classes is None
        )

    def _streamed_classes(
        self, stream: StreamedSums, inliers: CheckedData, labels: npt.NDArray | None, classes: Any
    ) -> npt.NDArray[np.int64]:
        """Return class indices, in the order in which labels came."""
        if not isinstance(self, FeatureDetector):
            if classes is not None:
                _same_classes(_checked_classes(classes), np.asarray(self.classes_).tolist())
            return self._class_indices(inliers, labels)
        if (labels is None) != (stream.labels is None):
            came, before = ("without", "with") if labels is None else ("with", "without")
            raise ValueError(
                f"this batch is {came} labels, and earlier ones were {before}; give y to every "
                "call of partial_fit or to none"
            )
        if labels is None or stream.labels is None:
            return np.zeros(len(inliers), dtype=np.int64)
        if classes is not None:
            _same_classes(_checked_classes(classes), stream.labels)
        if stream.takes_new_labels:
            new = [label for label in np.unique(labels).tolist() if label not in stream.labels]
            stream.labels += new
        self._note_labels(stream.known_labels)
        return encode_labels(labels, stream.labels, known=f"; classes are {stream.labels[:10]}")

    def _add_streamed(
        self, stream: StreamedSums, outputs: Outputs, class_indices: npt.NDArray[np.int64]
    ) -> None:
        keys = stream.keys(len(outputs))
        stream.n_rows += len(outputs)
        rows: tuple[npt.NDArray, ...] = (outputs.logits, outputs.log_proba, outputs.features)
        rows = (*rows, class_indices, keys[:, 1])
        if stream.held_out.limit:
            kept = stream.held_out.takes(keys[:, 0])
            stream.held_out.add(keys[kept, 0], [array[kept] for array in rows])
            rows = tuple(array[~kept] for array in rows)
            if stream.held_out.is_full:
                self._learn_streamed(stream, outputs, stream.held_out.trim())
        self._learn_streamed(stream, outputs, rows)

    def _learn_streamed(
        self,
        stream: StreamedSums,
        outputs: Outputs,
        rows: tuple[npt.NDArray, ...] | None,
    ) -> None:
        """Add rows to the sums and to the sample of learned rows."""
        if rows is None or not len(rows[0]):
            return
        part = _outputs_of(outputs, rows)
        self._add(stream.sums, self._part(part, slice(0, len(part))), rows[3])
        kept = stream.learned.takes(rows[4])
        stream.learned.add(rows[4][kept], [array[kept] for array in rows])
        if stream.learned.is_full:
            stream.learned.trim()

    @property
    def _concluded_names(self) -> tuple[str, ...]:
        return (*self._from_sums, "offset_", "_class_labels")

    def _conclude(self) -> None:
        """Compute the statistics and the threshold from the rows so far."""
        stream = self._stream
        if stream.n_rows < 2:
            raise ValueError(f"there are {stream.n_rows} in-distribution rows; give at least 2")
        template = Outputs(*(np.empty((0, 0)),) * 3, head=self._known_head)
        stream.is_whole = False
        self._learn_streamed(stream, template, stream.held_out.trim())
        stream.learned.trim()
        stream.is_whole = True
        sums, held, learned = stream.sums, stream.held_out.rows, stream.learned.rows
        is_new = np.zeros(0, dtype=bool)
        if held:
            known = _classes_with_rows(sums)
            is_new = np.isin(held[3], known)
            if is_new.sum() < FEWEST_HELD_OUT:
                is_new[:] = False
        if not is_new.all():
            sums = copy.deepcopy(sums)
            rest = tuple(array[~is_new] for array in held)
            part = _outputs_of(template, rest)
            self._add(sums, self._part(part, slice(0, len(part))), rest[3])
            if learned:
                rest = tuple(map(np.concatenate, zip(learned, rest, strict=True)))
            learned = rest
        if stream.labels is not None:
            sums = copy.deepcopy(sums) if sums is stream.sums else sums
            order = np.argsort(stream.known_labels, kind="stable")
            order = order[np.isin(order, _classes_with_rows(sums))]
            for values in sums.values():
                values.select(order)
            self._class_labels: Any = stream.known_labels[order]
        self._learn_sums(sums, _outputs_of(template, learned))
        for_threshold = tuple(array[is_new] for array in held) if is_new.any() else learned
        scores = in_float64(self._score, _outputs_of(template, for_threshold))
        self._set_threshold(scores, is_new=bool(is_new.any()))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Python calls this for attributes that are missing.
            stream = vars(self).get("_stream")
            if stream is not None and name in self._concluded_names:
                with _CONCLUDING:
                    if not stream.is_concluded:
                        # On a copy, so that other threads see all new attributes or none.
                        made = object.__new__(type(self))
                        vars(made).update(vars(self))
                        made._conclude()
                        found = vars(made)
                        new = {k: found[k] for k in self._concluded_names if k in found}
                        vars(self).update(new)
                        stream.is_concluded = True
            return object.__getattribute__(self, name)


def _chunk_size(class_indices: npt.NDArray[np.integer]) -> int:
    n_classes = int(class_indices.max(initial=0)) + 1
    return min(max(_CHUNK, _ROWS_PER_CLASS * n_classes), _LARGEST_CHUNK)


def _outputs_of(template: Outputs, rows: tuple[npt.NDArray, ...]) -> Outputs:
    logits, log_proba, features = rows[:3]
    return replace(template, logits=logits, log_proba=log_proba, features=features)


def _classes_with_rows(sums: Mapping[str, ClassMeans]) -> npt.NDArray[np.intp]:
    return np.flatnonzero(next(iter(sums.values())).counts)


def _checked_classes(classes: Any) -> npt.NDArray:
    found = np.unique(check_labels(classes, name="classes", items=None))
    if is_outlier(found).any():
        raise ValueError("classes has -1, which marks outliers; give in-distribution labels")
    return found


def _same_classes(classes: npt.NDArray, known: list[Any]) -> None:
    if set(classes.tolist()) != set(known):
        raise ValueError(f"classes={classes.tolist()[:10]}; expected the known {known[:10]}")
