"""What the detectors that train on outliers share: where outliers come from, and their batches."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import Dataset

from skood import (
    MLP,
    ConvNet,
    EnergyRegularized,
    OODSplit,
    OutlierExposure,
    get_ood_scorer,
    share_forward_pass,
    synthetic_outliers,
)
from skood._torch.training import hold_out
from skood.classifiers._objective import ClassifierObjective

each_method = pytest.mark.parametrize("method", [OutlierExposure, EnergyRegularized])


def tiny(method=OutlierExposure, **params):
    network = MLP((8,), max_epochs=4, batch_size=32, learning_rate=0.01, precision="fp32")
    return method(**{"classifier": network, "random_state": 0, **params})


@pytest.fixture(scope="module")
def outliers(iris):
    return iris[0][::3] + np.random.default_rng(0).normal(2, 1, size=(50, 4))


@pytest.fixture
def marked(iris, outliers):
    """Rows and labels, -1 for outliers, which are first, last and in between."""
    X, y = iris
    order = np.random.default_rng(1).permutation(200)
    return np.r_[X, outliers][order], np.r_[y, np.full(50, -1)][order]


@pytest.mark.parametrize("ratio", [0.5, 2.0])
@pytest.mark.parametrize("n_outliers", [7, 50, 4000])
def test_batches_hold_outliers_at_the_ratio(iris, objective_of, ratio, n_outliers):
    X, y = iris
    outliers = np.random.default_rng(0).normal(size=(n_outliers, 4))
    network = MLP((8,), max_epochs=1, batch_size=20, validation_fraction=0.2)
    detector = tiny(classifier=network, outliers=outliers, outlier_ratio=ratio)
    objective, training, held_out = objective_of(detector, X, y)
    assert len(held_out) == 30

    def epoch(seed):
        return objective.epoch_batches(training, 20, np.random.default_rng(seed))

    batches = epoch(0)
    n_added = round(20 * ratio)
    assert [len(batch) for batch in batches] == [20 + n_added] * 6
    inliers = np.array([batch[:20] for batch in batches])
    plain = ClassifierObjective.epoch_batches(objective, training, 20, np.random.default_rng(0))
    np.testing.assert_array_equal(inliers, plain)
    assert not set(inliers.ravel()) & set(held_out)
    added = np.concatenate([batch[20:] for batch in batches])
    assert added.min() >= 150
    assert added.max() < 150 + n_outliers
    # None comes again before all have come.
    counts = np.bincount(added - 150, minlength=n_outliers)
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(np.concatenate(epoch(0)), np.concatenate(batches))
    others = np.concatenate([batch[20:] for batch in epoch(1)])
    assert not np.array_equal(others, added)


def test_a_small_ratio_adds_one_outlier(iris, outliers, objective_of):
    objective, training, _ = objective_of(tiny(outliers=outliers, outlier_ratio=0.001), *iris)
    batches = objective.epoch_batches(training, 32, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [33] * 4


@each_method
def test_what_a_batch_holds(iris, outliers, objective_of, method):
    """Inliers, then outliers, both standardised by the moments of the inliers that are trained."""
    X, y = iris
    network = MLP((8,), max_epochs=1, validation_fraction=0.2)
    objective, training, held_out = objective_of(tiny(method, classifier=network), *mixed(X, y))
    rows = np.r_[training[:5], [150, 174, 161]]
    x, class_index = objective.prepare(objective.read(rows), None)
    mean, std = X[training].mean(0), X[training].std(0)
    expected = np.r_[X[training[:5]], made_of(X)[[0, 24, 11]]]
    np.testing.assert_allclose(x, (expected - mean) / std, rtol=1e-5)
    np.testing.assert_array_equal(class_index, y[training[:5]])
    assert set(objective.loss(x, class_index)) > set(
        objective.loss(*objective.prepare(objective.read(held_out), None))
    )


def made_of(X):
    return X[::6] + 5.0


def mixed(X, y):
    return np.r_[X, made_of(X)], np.r_[y, np.full(25, -1)]


def test_outliers_are_augmented(objective_of):
    rng = np.random.default_rng(0)
    X, outliers = rng.random((20, 3, 8, 8)), rng.random((20, 3, 8, 8))
    detector = tiny(classifier=ConvNet((4,), max_epochs=1), outliers=outliers)
    objective, *_ = objective_of(detector, X, np.arange(20) % 2)
    items = objective.read(np.arange(40))
    plain, _ = objective.prepare(items, None)
    augmented, _ = objective.prepare(items, torch.Generator().manual_seed(0))
    assert ((plain != augmented).any((1, 2, 3))[20:]).float().mean() > 0.8
    torch.testing.assert_close(
        plain[20:],
        torch.from_numpy(
            (outliers - X.mean((0, 2, 3), keepdims=True)) / X.std((0, 2, 3), keepdims=True)
        ).float(),
        rtol=1e-4,
        atol=1e-5,
    )


@each_method
def test_outliers_as_rows_of_x_or_apart(iris, outliers, marked, method):
    """The same, wherever they are given; then rows with y == -1 are not trained on."""
    X, y = iris
    X_all, y_all = marked
    order = np.argsort(y_all == -1, kind="stable")
    apart = tiny(method, outliers=X_all[y_all == -1]).fit(X_all[y_all != -1], y_all[y_all != -1])
    within = tiny(method).fit(X_all, y_all)
    expected = within.score_samples(X)
    np.testing.assert_allclose(apart.score_samples(X), expected)
    again = tiny(method).fit(X_all[order], y_all[order])
    np.testing.assert_allclose(again.score_samples(X), expected)
    both = tiny(method, outliers=X_all[y_all == -1]).fit(
        np.r_[X_all, X - 9], np.r_[y_all, y * 0 - 1]
    )
    np.testing.assert_allclose(both.score_samples(X), expected)
    other = tiny(method, outliers=outliers + 1).fit(X_all, y_all)
    assert not np.allclose(other.score_samples(X), expected)


class Streamed(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index], 0


@pytest.mark.parametrize(
    "form",
    [Streamed, torch.from_numpy, share_forward_pass, np.ndarray.tolist],
    ids=["dataset", "tensor", "shared", "list"],
)
def test_forms_of_outliers(iris, outliers, form):
    X, y = iris
    expected = tiny(outliers=outliers).fit(X, y).score_samples(X)
    given = tiny(outliers=form(outliers)).fit(X, y)
    np.testing.assert_allclose(given.score_samples(X), expected, rtol=1e-5)


def test_images_in_flat_rows():
    """Outliers come in the shape of X, and are brought into that of the network with it."""
    digits = load_digits()
    X, y = (digits.images * 15).astype(np.uint8), digits.target
    inliers, outliers = X[y < 3][:120], X[y > 7][:60]
    scores = []
    for shape, given in [((8, 8), None), ((64,), (1, 8, 8)), ((8, 8, 1), None)]:
        network = ConvNet((4, 4), max_epochs=2, batch_size=16, image_shape=given, precision="fp32")
        detector = tiny(classifier=network, outliers=outliers.reshape(-1, *shape))
        if given is not None:
            detector.classifier.set_params(value_range=(0, 255))
        data = inliers.reshape(-1, *shape)
        scores.append(detector.fit(data, y[y < 3][:120]).score_samples(data))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)
    np.testing.assert_allclose(scores[2], scores[0], atol=1e-5)


def far(X, random_state):
    far.seen.append((X, random_state))
    return X + np.random.default_rng(random_state).normal(5, 1, X.shape)


def test_function_that_makes_outliers(iris, objective_of, monkeypatch):
    """It gets the rows that are trained on, and no others; its seed is that of the fit."""
    X, y = iris
    monkeypatch.setattr(far, "seen", [], raising=False)
    network = MLP((8,), max_epochs=1, validation_fraction=0.2)
    objective, training, _ = objective_of(tiny(classifier=network, outliers=far), X, y)
    given, seed = far.seen[0]
    np.testing.assert_array_equal(given, X[training])
    np.testing.assert_array_equal(
        objective.data.take(np.arange(150, 150 + len(training))),
        X[training] + np.random.default_rng(seed).normal(5, 1, given.shape),
    )
    detector = tiny(outliers=far, random_state=None)
    for random_state in (0, 0, 1):
        clone(detector).set_params(random_state=random_state).fit(X, y)
    seeds = [seed for _, seed in far.seen[1:]]
    assert seeds[0] == seeds[1] != seeds[2]
    # One in a Pipeline sees X as it arrives at the detector.
    make_pipeline(StandardScaler(), tiny(outliers=far)).fit(X, y)
    np.testing.assert_allclose(far.seen[-1][0].std(0), 1)


def test_function_gets_rows_as_in_x(monkeypatch):
    """Flat ones where X has flat ones, though the network reads images."""
    monkeypatch.setattr(far, "seen", [], raising=False)
    X = np.random.default_rng(0).random((20, 36))
    network = ConvNet((4,), max_epochs=1, image_shape=(1, 6, 6), value_range="minmax")
    tiny(classifier=network, outliers=far).fit(X, np.arange(20) % 2)
    np.testing.assert_array_equal(far.seen[0][0], X)


@each_method
@pytest.mark.parametrize(
    ("y", "outlier"), [(["a", "b", "c"], "-1"), ([5, 7, 90], -1)], ids=["str", "int"]
)
def test_labels_of_any_kind(iris, outliers, method, y, outlier):
    X, labels = iris
    names = np.array([*y, outlier])
    data, indices = np.r_[X, outliers], np.r_[labels, np.full(50, 3)]
    named = tiny(method).fit(data, names[indices])
    plain = tiny(method).fit(data, np.array([0, 1, 2, -1])[indices])
    np.testing.assert_array_equal(named.classes_, y)
    np.testing.assert_allclose(named.score_samples(X), plain.score_samples(X))
    assert set(named.predict_class(X)) <= {*y, outlier}
    np.testing.assert_array_equal(
        named.classifier_.predict(X), np.array(y)[plain.classifier_.predict(X)]
    )


@each_method
def test_last_epoch_is_kept(iris, outliers, monkeypatch, method):
    """Held-out rows are inliers alone: they neither end training nor choose an epoch."""
    X, y = iris
    original, epochs = ClassifierObjective.cross_entropy, []

    def rising(self, logits, class_index):
        loss = original(self, logits, class_index)
        if self.training:
            return loss
        epochs.append(1)
        return loss + len(epochs)

    monkeypatch.setattr(ClassifierObjective, "cross_entropy", rising)
    detector = tiny(method, outliers=outliers)
    detector.classifier.set_params(validation_fraction=0.2, patience=1)
    with pytest.warns(UserWarning, match="does not use patience=1 of its classifier"):
        history = detector.fit(X, y).history_
    assert {len(values) for values in history.values()} == {4}
    _, held_out = hold_out(150, 0.2, int(np.random.RandomState(0).randint(2**31 - 1)), y)
    log_proba = np.log(detector.predict_proba(X[held_out]))
    loss = -log_proba[np.arange(30), y[held_out]].mean()
    assert history["validation_cross_entropy"][-1] == pytest.approx(loss + 4, rel=1e-5)


def test_a_checkpoint_belongs_to_outliers_and_parameters(iris, outliers, tmp_path):
    X, y = iris
    given = [{"outliers": o} for o in (outliers, outliers, outliers[:-1], synthetic_outliers)]
    known = [(X, y)] * 4
    for shift in (0, 1):
        given.append({})
        known.append((np.r_[X, outliers + shift], np.r_[y, np.full(50, -1)]))
    given.append({"outlier_weight": 2.0})
    known.append(known[-1])
    files = []
    for params, data in zip(given, known, strict=True):
        detector = tiny(**params).set_params(classifier__checkpoint_dir=tmp_path)
        detector.fit(*data)
        files.append(len(list(tmp_path.iterdir())))
    assert files == [1, 1, 2, 3, 4, 5, 6]


@each_method
def test_a_search_trains_once_a_fold(iris, tmp_path, monkeypatch, method):
    """OODSplit leaves no rows with y == -1 to train on, so that outliers are given apart."""
    X, y = iris
    trained = []
    original = MLP.fit_objective

    def counted(self, *args, **kwargs):
        trained.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MLP, "fit_objective", counted)
    search = GridSearchCV(
        tiny(
            method,
            outliers=partial(synthetic_outliers, kind="mutation"),
            memory=str(tmp_path),
        ),
        {"contamination": [0.05, 0.1, 0.2]},
        scoring=get_ood_scorer("auroc"),
        cv=OODSplit(3),
        refit=False,
    )
    search.fit(*mixed(X, y))
    assert len(trained) == 3


@each_method
def test_errors(iris, outliers, method):
    X, y = iris
    for params, y_given, message in [
        ({}, y, "trains on outliers, but y marks none and outliers=None; give rows with y == -1"),
        ({}, None, "requires y to be passed"),
        ({"outliers": outliers}, None, "requires y to be passed"),
        (
            {"outliers": outliers[:, :3]},
            y,
            r"outliers, here called X, do not fit: .*\(3,\).*\(4,\)",
        ),
        ({"outliers": outliers * np.nan}, y, "outliers, here called X, cannot be read: .*NaN"),
        ({"outliers": outliers[0]}, y, "outliers, here called X, cannot be read"),
        ({"outliers": lambda X, random_state: X[:, :2]}, y, "outliers, here called X, do not fit"),
        ({"outliers": 3}, y, "The 'outliers' parameter"),
        ({"outliers": outliers, "outlier_ratio": 0}, y, "The 'outlier_ratio' parameter"),
    ]:
        with pytest.raises(ValueError, match=message):
            tiny(method, **params).fit(X, y_given)


def test_pixels_of_another_range():
    X = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)
    detector = tiny(classifier=ConvNet((4,), max_epochs=1), outliers=X / 255)
    with pytest.raises(ValueError, match=r"outliers, here called X, do not fit: .*float64"):
        detector.fit(X, np.arange(20) % 2)
    detector.set_params(outliers=X.astype(np.float32) * 2, classifier__value_range=(0, 255))
    with pytest.raises(ValueError, match="outliers, here called X, do not fit"):
        detector.fit(X, np.arange(20) % 2)
