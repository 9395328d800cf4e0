import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.model_selection import check_cv

from skood.model_selection import LeaveClassesOut, OODSplit


def series(values, **kwargs):
    return pytest.importorskip("pandas").Series(values, **kwargs)


def parts(splitter, y, groups=None):
    return list(splitter.split(np.zeros((len(y), 1)), y, groups))


def shuffled(values, seed):
    return np.random.default_rng(seed).permutation(values)


@st.composite
def problems(draw):
    """Number of folds, and labels for at least one row per fold, in random order."""
    n_splits = draw(st.integers(2, 5))
    counts = draw(st.lists(st.integers(2, 9), min_size=1, max_size=4))
    counts[0] += n_splits
    n_outliers = draw(st.integers(n_splits, 12))
    y = np.append(np.repeat(np.arange(len(counts)), counts), np.full(n_outliers, -1))
    return n_splits, shuffled(y, draw(st.integers(0, 99)))


def balanced(counts):
    return np.ptp(counts) <= 1


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from([None, 0, 1]))
def test_invariants(problem, seed):
    n_splits, y = problem
    splitter = OODSplit(n_splits, shuffle=seed is not None, random_state=seed)
    folds = parts(splitter, y)
    assert len(folds) == n_splits == splitter.get_n_splits()
    tested = np.concatenate([test for _, test in folds])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(y)))
    for train, test in folds:
        assert (y[train] >= 0).all()
        assert not set(train) & set(test)
        assert set(train) | set(test) >= set(np.flatnonzero(y >= 0))
        assert set(y[train]) == set(y[y >= 0])
        assert (y[test] == -1).any()
    assert balanced([np.sum(y[test] >= 0) for _, test in folds])
    for label in set(y.tolist()):
        assert balanced([np.sum(y[test] == label) for _, test in folds])


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 4), st.integers(0, 99))
def test_sets_are_kept_together(problem, n_more, seed):
    n_splits, y = problem
    rng = np.random.default_rng(seed)
    sets = np.append(np.arange(n_splits), rng.integers(n_splits + n_more, size=len(y)))
    groups = np.full(len(y), "id", dtype=object)
    n_outliers = np.sum(y == -1)
    groups[y == -1] = [f"set {k}" for k in rng.permutation(sets[:n_outliers])]
    folds = parts(OODSplit(n_splits, random_state=0), y, groups)
    tested = [set(groups[test][y[test] == -1]) for _, test in folds]
    assert all(tested)
    assert sum(len(names) for names in tested) == len(set(groups)) - 1
    assert set.union(*tested) == set(groups) - {"id"}
    assert balanced([np.sum(y[test] >= 0) for _, test in folds])


@settings(max_examples=30, deadline=None)
@given(problems())
def test_outliers_in_train(problem):
    n_splits, y = problem
    plain = parts(OODSplit(n_splits, random_state=0), y)
    kept = parts(OODSplit(n_splits, random_state=0, outliers_in_train=True), y)
    for (train, test), (train_kept, test_kept) in zip(plain, kept, strict=True):
        np.testing.assert_array_equal(test, test_kept)
        np.testing.assert_array_equal(train, train_kept[y[train_kept] >= 0])
        np.testing.assert_array_equal(np.sort(np.append(train_kept, test)), np.arange(len(y)))


def test_leave_one_set_out_tests_the_sets_in_order():
    y = np.repeat([0, -1], [12, 9])
    groups = np.array([""] * 12 + ["svhn"] * 5 + ["lsun"] * 1 + ["noise"] * 3)
    folds = parts(OODSplit(3), y, groups)
    assert [set(groups[test]) - {""} for _, test in folds] == [{"lsun"}, {"noise"}, {"svhn"}]


def test_many_sets_make_folds_of_similar_size():
    y = np.repeat([0, -1], [10, 100])
    groups = np.append(np.full(10, -1), np.repeat([0, 1, 2, 3], [40, 10, 35, 15]))
    folds = parts(OODSplit(2), y, groups)
    assert [set(groups[test]) - {-1} for _, test in folds] == [{0, 1}, {2, 3}]


SPLITTERS = [OODSplit(3), LeaveClassesOut()]
LABELS = shuffled(np.repeat([0, 1, 2, -1], [20, 20, 20, 9]), 0)


def as_lists(folds):
    return [(train.tolist(), test.tolist()) for train, test in folds]


@pytest.mark.parametrize("cls", [OODSplit, LeaveClassesOut])
def test_random_state(cls):
    once = as_lists(parts(cls(random_state=3), LABELS))
    splitter = cls(random_state=3)
    assert once == as_lists(parts(splitter, LABELS)) == as_lists(parts(splitter, LABELS))
    assert once != as_lists(parts(cls(random_state=4), LABELS))
    splitter = cls(random_state=np.random.RandomState(0))
    assert as_lists(parts(splitter, LABELS)) != as_lists(parts(splitter, LABELS))


@pytest.mark.parametrize("cls", [OODSplit, LeaveClassesOut])
def test_without_a_seed_numpys_global_generator_is_left_alone(cls):
    def folds():
        np.random.seed(0)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        result = as_lists(parts(cls(), LABELS))
        np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
        return result

    assert folds() != folds()


def test_without_shuffling_neighbours_stay_together():
    y = np.array([0] * 6 + [1] * 4 + [-1] * 4)
    tests = [test.tolist() for _, test in parts(OODSplit(2, shuffle=False), y)]
    assert tests == [[0, 1, 2, 6, 7, 10, 11], [3, 4, 5, 8, 9, 12, 13]]


@pytest.mark.parametrize("splitter", SPLITTERS)
@pytest.mark.parametrize(
    "convert",
    [list, series, lambda y: series(y, index=np.arange(len(y))[::-1]), lambda y: y[:, None]],
    ids=["list", "series", "index", "column"],
)
def test_types_of_y(splitter, convert):
    splitter = type(splitter)(random_state=0)
    expected = as_lists(parts(splitter, LABELS))
    assert as_lists(splitter.split(np.zeros(len(LABELS)), convert(LABELS))) == expected


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_labels_that_are_strings(splitter):
    """An array of strings and -1 holds "-1"; an array of objects keeps the number."""
    names = np.array(["ant", "bee", "cat", "-1"])[LABELS]
    mixed = names.astype(object)
    mixed[LABELS == -1] = -1
    splitter = type(splitter)(random_state=0)
    expected = as_lists(parts(splitter, LABELS))
    assert as_lists(parts(splitter, names)) == expected
    if isinstance(splitter, OODSplit):
        assert as_lists(parts(splitter, mixed)) == expected


def test_representation():
    assert repr(OODSplit(3)) == (
        "OODSplit(n_splits=3, outliers_in_train=False, random_state=None, shuffle=True)"
    )
    assert check_cv(splitter := LeaveClassesOut(), LABELS, classifier=True) is splitter


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        (None, None, "OODSplit requires y"),
        ([0] * 12, None, "y has no OOD row: none of its 12 labels is -1.*LeaveClassesOut"),
        ([-1] * 12, None, "n_splits=3 is more than the 0 in-distribution rows"),
        ([0, 0] + [-1] * 10, None, "n_splits=3 is more than the 2 in-distribution rows"),
        ([0] * 10 + [-1] * 2, None, "n_splits=3 is more than the 2 OOD rows"),
        ([0] * 8 + [7] + [-1] * 3, None, "class 7 has a single row"),
        ([0] * 8 + [-2] + [-1] * 3, None, "y holds the label -2"),
        ([0] * 7 + [-1] * 5, [""] * 7 + list("aabbb"), r"2 OOD sets \(a, b\), too few for n_spl"),
        ([0] * 7 + [-1] * 5, [None] * 8 + list("abbc"), "1 of 5 OOD rows have no name in groups"),
        ([0] * 7 + [-1] * 5, list("abc"), "inconsistent numbers of samples"),
        ([0] * 7 + [-1] * 4, None, "inconsistent numbers of samples"),
    ],
)
def test_errors_of_ood_split(y, groups, message):
    with pytest.raises(ValueError, match=message):
        next(OODSplit(3).split(np.zeros(12), y, groups))


@pytest.mark.parametrize(
    ("cls", "params", "message"),
    [
        (OODSplit, {"n_splits": 1}, "n_splits=1; expected an integer of at least 2"),
        (OODSplit, {"n_splits": 2.5}, "n_splits=2.5"),
        (OODSplit, {"shuffle": False, "random_state": 0}, "no effect with shuffle=False"),
        (LeaveClassesOut, {"n_out": 0}, "n_out=0"),
        (LeaveClassesOut, {"n_splits": 0}, "n_splits=0"),
        (LeaveClassesOut, {"test_size": 1.0}, "test_size=1.0"),
    ],
)
def test_errors_of_parameters(cls, params, message):
    with pytest.raises(ValueError, match=message):
        cls(**params)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 12), min_size=2, max_size=6),
    st.integers(1, 5),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_classes_left_out(counts, n_out, test_size, seed):
    n_out = min(n_out, len(counts) - 1)
    y = shuffled(np.append(np.repeat(np.arange(len(counts)), counts), [-1] * 5), seed)
    splitter = LeaveClassesOut(n_out, test_size=test_size, random_state=seed)
    folds = parts(splitter, y)
    assert len(folds) == splitter.get_n_splits(None, y)
    left_out = set()
    for train, test in folds:
        unknown = set(y[test]) - set(y[train])
        left_out.add(frozenset(unknown))
        assert len(unknown) == n_out
        assert set(y[test]) == set(range(len(counts)))
        assert set(train) | set(test) == set(np.flatnonzero(y >= 0))
        assert not set(train) & set(test)
        for label in unknown:
            assert np.sum(y[test] == label) == counts[label]
        for label in set(y[train]):
            n_tested = np.sum(y[test] == label)
            assert 1 <= n_tested < counts[label]
            assert abs(n_tested - test_size * counts[label]) <= 1
    assert len(left_out) == len(folds)


@pytest.mark.parametrize(
    ("n_out", "n_splits", "expected"),
    [(1, None, 8), (2, None, 10), (7, None, 8), (2, 3, 3), (2, 27, 27), (2, 28, 28)],
)
def test_number_of_choices(n_out, n_splits, expected):
    y = np.repeat(np.arange(8), 3)
    splitter = LeaveClassesOut(n_out, n_splits=n_splits, random_state=0)
    choices = [tuple(sorted(set(y[test]) - set(y[train]))) for train, test in parts(splitter, y)]
    assert len(choices) == len(set(choices)) == splitter.get_n_splits(y, y) == expected


def test_classes_are_left_out_equally_often():
    y = np.repeat(np.arange(10), 3)
    folds = parts(LeaveClassesOut(2, random_state=0), y)
    left_out = [label for train, test in folds for label in set(y[test]) - set(y[train])]
    assert balanced(np.bincount(left_out))


@pytest.mark.parametrize(
    ("splitter", "y", "message"),
    [
        (LeaveClassesOut(), None, "LeaveClassesOut requires y"),
        (LeaveClassesOut(2), [0, 0, 1, 1], "n_out=2 leaves no class to train on: y has 2"),
        (LeaveClassesOut(), [-1] * 4, "n_out=1 leaves no class to train on: y has 0"),
        (LeaveClassesOut(n_splits=3), [0, 0, 1, 1], "only 2 ways to leave 1 of 2 classes out"),
        (LeaveClassesOut(), [0, 0, 1, 1, 2], "class 2 has a single row"),
    ],
)
def test_errors_of_leave_classes_out(splitter, y, message):
    with pytest.raises(ValueError, match=message):
        next(splitter.split(np.zeros(4 if y is None else len(y)), y))


def test_number_of_splits_needs_labels():
    assert LeaveClassesOut(n_splits=4).get_n_splits() == 4
    with pytest.raises(ValueError, match="LeaveClassesOut requires y"):
        LeaveClassesOut().get_n_splits()
