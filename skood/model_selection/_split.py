"""Splitters with in-distribution training parts, and test parts that include outliers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import BaseCrossValidator, GroupKFold
from sklearn.utils import check_consistent_length, check_random_state

from skood._data.labels import check_ood_labels, is_outlier

__all__ = ["LeaveClassesOut", "OODSplit"]

# Default limit on the number of splits of LeaveClassesOut.
_MAX_COMBINATIONS = 10

Split = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]


class OODSplit(BaseCrossValidator):
    """K-fold splitter whose training parts hold in-distribution rows only.

    In-distribution (ID) rows are dealt to the folds class by class, so that the fraction of each
    class is the same in all folds. OOD rows, with ``y == -1``, are dealt to the test parts and are
    in no training part. Every row is tested once.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=True
        Whether rows are dealt in random order. Otherwise the rows of a class in a test part are
        consecutive in X.
    random_state : int, RandomState instance or None, default=None
        Seed of the order. An int gives the same folds in every call, which scikit-learn's halving
        searches need. None takes entropy from the system.
    outliers_in_train : bool, default=False
        Whether a training part has the OOD rows of the other folds: for methods that learn from
        known outliers, for the outer loop of a nested search, whose inner search needs OOD rows,
        and for scores of training parts (``return_train_score=True``). :class:`InlierFit` keeps OOD
        rows out of the fit.

    See Also
    --------
    LeaveClassesOut : Splitter for data without OOD rows.
    InlierFit : Also keeps OOD rows out of the refit of a search.

    Notes
    -----
    With `groups`, the name of the OOD set of each row, all rows of a set are in one test part; the
    names of ID rows are ignored. If the numbers of sets and folds are equal, this is
    leave-one-OOD-set-out: fold k tests the k-th name in sorted order, so that
    ``cv_results_["split0_test_score"]`` is the score on the first set. If there are more sets than
    folds, the sets are dealt so that the numbers of OOD rows in the folds are similar; fewer sets
    than folds are an error. The assignment of sets does not depend on `random_state`.

    To tune on some OOD sets and test on another, nest a search in
    :func:`sklearn.model_selection.cross_validate` with ``OODSplit(outliers_in_train=True)`` and
    `groups`.

    A halving search over ``resource="n_samples"`` tests on random rows of the test parts, so its
    `min_resources` must be large enough to draw OOD rows: with a fraction p of OOD rows, m rows
    have none with probability :math:`(1 - p)^m`. Other resources, such as ``n_estimators`` or
    ``classifier__max_epochs``, keep all rows of the test parts. Also give
    ``return_train_score=False``, since training parts have no OOD rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.model_selection import OODSplit
    >>> y = np.array([0, 0, 1, 1, -1, -1])
    >>> for train, test in OODSplit(2, shuffle=False).split(y, y):
    ...     print(y[train], y[test])
    [0 1] [ 0  1 -1]
    [0 1] [ 0  1 -1]
    >>> names = ["", "", "", "", "noise", "svhn"]
    >>> [names[test[-1]] for _, test in OODSplit(2).split(y, y, groups=names)]
    ['noise', 'svhn']
    """

    # Groups are routed by default, as to scikit-learn's group splitters.
    __metadata_request__split = {"groups": True}

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        outliers_in_train: bool = False,
    ) -> None:
        if not isinstance(n_splits, (int, np.integer)) or n_splits < 2:
            raise ValueError(f"n_splits={n_splits!r}; expected an integer of at least 2")
        if not shuffle and random_state is not None:
            raise ValueError(
                f"random_state={random_state!r} has no effect with shuffle=False; leave it at None"
            )
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state
        self.outliers_in_train = outliers_in_train

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups : object
            Ignored.

        Returns
        -------
        int
        """
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[Split]:
        """Generate the indices of the training rows and the test rows of each fold.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Only its length is used.
        y : array-like of shape (n_samples,)
            Class labels >= 0 or strings, and -1 for OOD rows.
        groups : array-like of shape (n_samples,), default=None
            Names of OOD sets; the names of ID rows are ignored.

        Yields
        ------
        train : ndarray of int
        test : ndarray of int

        Raises
        ------
        ValueError
            When there are no OOD rows, fewer ID or OOD rows or OOD sets than folds, or a class
            with a single row.
        """
        labels = check_ood_labels(y, needed_by="OODSplit")
        outlier = is_outlier(labels)
        check_consistent_length(X, labels, groups)
        inliers, outliers = np.flatnonzero(~outlier), np.flatnonzero(outlier)
        self._check_numbers(len(inliers), len(outliers))
        classes = _class_indices(labels[inliers])
        rng = _generator(self.random_state) if self.shuffle else None

        folds = np.empty(len(labels), dtype=np.intp)
        folds[inliers] = _deal(classes, self.n_splits, rng)
        if groups is None:
            folds[outliers] = _deal(np.zeros(len(outliers), dtype=np.intp), self.n_splits, rng)
        else:
            names = np.asarray(groups, dtype=object)[outliers]
            folds[outliers] = _deal_sets(names, self.n_splits)
        may_train = ~outlier | self.outliers_in_train
        for fold in range(self.n_splits):
            yield np.flatnonzero((folds != fold) & may_train), np.flatnonzero(folds == fold)

    def _check_numbers(self, n_inliers: int, n_outliers: int) -> None:
        if n_outliers == 0:
            raise ValueError(
                f"y has no OOD row: none of its {n_inliers} labels is -1, and a test part without "
                "OOD rows cannot be scored. Append OOD rows with the label -1 (InlierFit goes into "
                "a search, not around it, and the outer loop of a nested search needs "
                "outliers_in_train=True), or use LeaveClassesOut"
            )
        for kind, number in (("in-distribution", n_inliers), ("OOD", n_outliers)):
            if number < self.n_splits:
                raise ValueError(
                    f"n_splits={self.n_splits} is more than the {number} {kind} rows in y; every "
                    f"test part needs one. Lower n_splits, or give more {kind} rows"
                )


class LeaveClassesOut(BaseCrossValidator):
    """Splitter that leaves whole classes out of training, and tests on them as outliers.

    For tuning a detector without OOD rows. A test part has all rows of the classes left out and a
    random fraction of the rows of every other class; a training part has the remaining rows. The
    scorers of :func:`get_ood_scorer` count a row as OOD if it is of a class that the estimator was
    not trained on.

    Parameters
    ----------
    n_out : int, default=1
        Number of classes left out at a time.
    n_splits : int, default=None
        Number of different choices of classes, drawn so that every class is left out about equally
        often. None takes all choices, or 10 if there are more.
    test_size : float, default=0.2
        Fraction of the rows of the remaining classes that is tested.
    random_state : int, RandomState instance or None, default=None
        Seed of the choices and of the rows. None takes entropy from the system.

    See Also
    --------
    OODSplit : Splitter for data with OOD rows.

    Notes
    -----
    Rows with ``y == -1`` are in no part, and remain available for a final test.

    The training classes of an estimator are its ``classes_``, or the ``classes_`` of the classifier
    in it. Wrap an estimator without ``classes_``, such as
    :class:`~sklearn.ensemble.IsolationForest`, or on a network that was trained on all classes, in
    :class:`InlierFit`, which records the classes that it was fitted to.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from skood import MSP
    >>> from skood.model_selection import LeaveClassesOut, get_ood_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> splitter = LeaveClassesOut(random_state=0)
    >>> detector = MSP(LogisticRegression())
    >>> cross_val_score(detector, X, y, cv=splitter, scoring=get_ood_scorer("auroc")).shape
    (3,)
    """

    def __init__(
        self,
        n_out: int = 1,
        *,
        n_splits: int | None = None,
        test_size: float = 0.2,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        if not isinstance(n_out, (int, np.integer)) or n_out < 1:
            raise ValueError(f"n_out={n_out!r}; expected an integer of at least 1")
        if n_splits is not None and (not isinstance(n_splits, (int, np.integer)) or n_splits < 1):
            raise ValueError(f"n_splits={n_splits!r}; expected an integer of at least 1, or None")
        if not 0 < test_size < 1:
            raise ValueError(
                f"test_size={test_size!r}; expected a fraction of the rows, between 0 and 1"
            )
        self.n_out = n_out
        self.n_splits = n_splits
        self.test_size = test_size
        self.random_state = random_state

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits.

        Parameters
        ----------
        X : object
            Ignored.
        y : array-like of shape (n_samples,), default=None
            Labels; needed unless `n_splits` is a number.
        groups : object
            Ignored.

        Returns
        -------
        int
        """
        if self.n_splits is not None:
            return self.n_splits
        labels = check_ood_labels(y, needed_by="LeaveClassesOut")
        return self._number(len(np.unique(labels[~is_outlier(labels)])))

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[Split]:
        """Generate the indices of the training rows and the test rows of each split.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Only its length is used.
        y : array-like of shape (n_samples,)
            Class labels >= 0 or strings; rows with -1 are in no part.
        groups : object
            Ignored.

        Yields
        ------
        train : ndarray of int
        test : ndarray of int

        Raises
        ------
        ValueError
            When no class would remain, a class has a single row, or there are fewer choices of
            classes than `n_splits`.
        """
        labels = check_ood_labels(y, needed_by="LeaveClassesOut")
        check_consistent_length(X, labels)
        inliers = np.flatnonzero(~is_outlier(labels))
        classes = _class_indices(labels[inliers])
        n_classes = int(classes.max(initial=-1)) + 1
        n_splits = self._number(n_classes)
        rng = _generator(self.random_state)
        for left_out in self._choices(n_classes, n_splits, rng):
            unknown = np.isin(classes, left_out)
            tested = unknown | (_ranks(classes, rng) < self.test_size)
            yield inliers[~tested], inliers[tested]

    def _number(self, n_classes: int) -> int:
        if n_classes <= self.n_out:
            raise ValueError(
                f"n_out={self.n_out} leaves no class to train on: y has {n_classes} "
                "in-distribution classes. Lower n_out, or use OODSplit with OOD rows (y == -1)"
            )
        n_choices = math.comb(n_classes, self.n_out)
        if self.n_splits is None:
            return min(n_choices, _MAX_COMBINATIONS)
        if self.n_splits > n_choices:
            raise ValueError(
                f"n_splits={self.n_splits}, but there are only {n_choices} ways to leave "
                f"{self.n_out} of {n_classes} classes out. Lower n_splits, or take None for all"
            )
        return self.n_splits

    def _choices(
        self, n_classes: int, n_splits: int, rng: np.random.Generator
    ) -> Iterator[tuple[int, ...]]:
        if n_splits == math.comb(n_classes, self.n_out):
            return combinations(range(n_classes), self.n_out)
        # The keys of a dictionary are an ordered set.
        choices: dict[tuple[int, ...], None] = {}
        while len(choices) < n_splits:
            order = rng.permutation(n_classes)
            for start in range(0, n_classes - self.n_out + 1, self.n_out):
                choices[tuple(sorted(order[start : start + self.n_out].tolist()))] = None
        return islice(choices, n_splits)


def _generator(random_state: int | np.random.RandomState | None) -> np.random.Generator:
    """Return a generator that does not use numpy's global generator."""
    if random_state is None:
        return np.random.default_rng()
    return np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))


def _class_indices(labels: npt.NDArray) -> npt.NDArray[np.intp]:
    """Replace labels by 0, 1, ...; every class must have two rows."""
    classes, indices, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min(initial=2) < 2:
        raise ValueError(
            f"class {classes[counts.argmin()]!s} has a single row in y; every class needs at least "
            "2, one to train on and one to test. Give more rows of it, or leave the class out"
        )
    return indices


def _deal(
    classes: npt.NDArray[np.intp], n_splits: int, rng: np.random.Generator | None
) -> npt.NDArray[np.intp]:
    """Return the fold of each row.

    The sizes of folds, and the numbers of rows of a class in folds, differ by at most 1.
    """
    order = np.arange(len(classes)) if rng is None else rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    dealt = np.arange(len(classes)) % n_splits
    folds = np.empty(len(classes), dtype=np.intp)
    # Sorted within a class, so that without shuffling consecutive rows share a fold.
    folds[order] = dealt[np.lexsort((dealt, classes[order]))]
    return folds


def _deal_sets(names: npt.NDArray, n_splits: int) -> npt.NDArray[np.intp]:
    """Return the fold of each OOD row; a set is in one fold, the first set in the first fold."""
    unnamed = sum(name is None or name != name for name in names)
    if unnamed:
        raise ValueError(
            f"{unnamed} of {len(names)} OOD rows have no name in groups; expected the name of its "
            "OOD set for every row with y == -1"
        )
    unique, sets = np.unique(names, return_inverse=True)
    if len(unique) < n_splits:
        raise ValueError(
            f"groups names {len(unique)} OOD sets ({', '.join(map(str, unique))}), too few for "
            f"n_splits={n_splits} folds with different sets. Take n_splits={len(unique)}, or leave "
            "groups out"
        )
    fold_of_set = np.empty(len(unique), dtype=np.intp)
    for fold, (_, test) in enumerate(GroupKFold(n_splits).split(sets, groups=sets)):
        fold_of_set[sets[test]] = fold
    numbers_of_folds = {fold: k for k, fold in enumerate(dict.fromkeys(fold_of_set.tolist()))}
    return np.array([numbers_of_folds[fold] for fold in fold_of_set.tolist()])[sets]


def _ranks(classes: npt.NDArray[np.intp], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a random rank of each row in its class, from 0 (the first) to 1 (the last)."""
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    counts = np.bincount(classes)
    starts = np.cumsum(counts) - counts
    ranks = np.empty(len(classes))
    in_class = classes[order]
    ranks[order] = (np.arange(len(classes)) - starts[in_class]) / (counts[in_class] - 1)
    return ranks
