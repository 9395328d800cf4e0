"""Rows that come in batches give what one `fit` on all of them gives."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import skood
from skood.posthoc._reservoir import Reservoir

FEATURES = [skood.Mahalanobis, skood.RelativeMahalanobis]
OUTPUTS = [skood.KLMatching, skood.NCI, skood.Residual, skood.SHE, skood.ViM]
STATISTICS = {
    skood.Mahalanobis: ["means_"],
    skood.RelativeMahalanobis: ["means_", "mean_"],
    skood.KLMatching: ["templates_"],
    skood.NCI: ["mean_"],
    skood.Residual: ["origin_"],
    skood.SHE: ["patterns_"],
    skood.ViM: ["origin_", "alpha_"],
}


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=220)
    return rng.normal(size=(220, 5)) + 4 * np.eye(3, 5)[y], y


def made(cls, network):
    if issubclass(cls, skood.posthoc.FeatureDetector):
        return cls(random_state=0)
    return cls(network, random_state=0)


def in_batches(detector, X, y, size=23):
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        assert detector.partial_fit(X[rows], None if y is None else y[rows]) is detector
    return detector


@pytest.mark.parametrize("cls", FEATURES + OUTPUTS)
@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("size", [1, 23, 220])
def test_batches_give_what_one_fit_gives(cls, offset, size, network, data):
    """Also far from zero, where sums of squares would cancel."""
    X, y = data
    far = offset if cls in FEATURES else 0.0
    whole = made(cls, network).fit(X + far, y)
    streamed = made(cls, network).partial_fit(X[:2] + far, y[:2])
    in_batches(streamed, X[2:] + far, y[2:], size)
    precision = 1e-10 if cls in FEATURES else 1e-6
    for name in STATISTICS[cls]:
        expected = getattr(whole, name)
        np.testing.assert_allclose(
            getattr(streamed, name), expected, rtol=precision, atol=precision
        )
    scores = whole.score_samples(X + far)
    # A network rounds a row in a batch of one in another way.
    tolerance = 1e-8 if cls in FEATURES else 1e-5
    np.testing.assert_allclose(streamed.score_samples(X + far), scores, rtol=tolerance, atol=1e-6)
    np.testing.assert_allclose(streamed.offset_, whole.offset_, rtol=tolerance)
    # With 220 rows none are held out.
    rejected = [np.mean(detector.predict(X + far) == -1) for detector in (streamed, whole)]
    assert rejected[0] == rejected[1]
    assert cls is skood.SHE or rejected[0] == pytest.approx(0.05)


def test_distance_by_a_loop(data):
    X, y = data
    detector = in_batches(skood.Mahalanobis(), X, y)
    means = [X[y == k].mean(0) for k in range(3)]
    covariance = sum(np.outer(x - means[k], x - means[k]) for x, k in zip(X, y, strict=True)) / 220
    inverse = np.linalg.inv(covariance)
    expected = [-min((x - m) @ inverse @ (x - m) for m in means) for x in X[:9]]
    np.testing.assert_allclose(detector.score_samples(X[:9]), expected, rtol=1e-9)


def test_threshold_is_set_on_rows_that_are_not_in_the_statistics():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 5))
    detector = in_batches(skood.Mahalanobis(random_state=0), X, None, 111)
    stream = detector._stream
    n_held_out = len(stream.held_out)
    assert 100 < n_held_out < 200
    (moments,) = stream.sums.values()
    assert moments.counts.sum() == 1500 - n_held_out
    scores = detector.score_samples(X)
    held_out = np.isin(X[:, 0], stream.held_out.rows[2][:, 0])
    learned = X[~held_out]
    assert len(learned) == 1500 - n_held_out
    expected = np.quantile(scores[held_out], 0.05, method="weibull")
    np.testing.assert_allclose(detector.offset_, expected, rtol=1e-6)
    whole = skood.Mahalanobis(threshold_fraction=0.0).fit(learned)
    np.testing.assert_allclose(scores, whole.score_samples(X), rtol=1e-9)


def test_kept_rows_do_not_depend_on_the_batches(network, monkeypatch):
    """Nor does their number grow, and rows that are not kept are learned from."""
    monkeypatch.setattr("skood.posthoc._partial_fit.THRESHOLD_ROWS", 60)
    X = np.random.default_rng(0).normal(size=(3000, 3))
    detectors = [
        in_batches(skood.Mahalanobis(random_state=0), X, None, size) for size in (7, 250, 3000)
    ]
    thresholds = [detector.offset_ for detector in detectors]
    np.testing.assert_allclose(thresholds, thresholds[0], rtol=1e-10)
    for detector in detectors:
        kept = detector._stream.held_out.rows[2]
        assert len(kept) == 60
        np.testing.assert_array_equal(
            np.sort(kept[:, 0]), np.sort(detectors[0]._stream.held_out.rows[2][:, 0])
        )
        assert detector._stream.sums["moments"].counts.sum() == 2940


@pytest.mark.parametrize("n", [700, 2000])
def test_rate_of_false_alarms(n):
    """The mean over fits is `contamination`; without held-out rows it is far above."""
    rng = np.random.default_rng(0)
    rates, of_training_rows = [], []
    for seed in range(60):
        X, new = rng.normal(size=(n, 60)), rng.normal(size=(1000, 60))
        detector = in_batches(skood.Mahalanobis(random_state=seed), X, None, 333)
        rates.append(np.mean(detector.predict(new) == -1))
        detector = skood.Mahalanobis(random_state=seed, threshold_fraction=0).partial_fit(X)
        of_training_rows.append(np.mean(detector.predict(new) == -1))
    error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - 0.05) < 3 * error + 1e-3
    assert np.mean(of_training_rows) > 0.05 + (0.03 if n == 700 else 0.008)


def test_a_reservoir_is_a_uniform_sample():
    rng = np.random.default_rng(0)
    counts = np.zeros(100)
    for _ in range(400):
        reservoir = Reservoir(10, 0.5)
        for start in range(0, 100, 9):
            rows = np.arange(start, min(start + 9, 100))
            keys = rng.random(len(rows))
            taken = reservoir.takes(keys)
            reservoir.add(keys[taken], [rows[taken]])
            if reservoir.is_full:
                reservoir.trim()
        reservoir.trim()
        assert len(reservoir) == len(set(reservoir.rows[0].tolist())) == 10
        counts[reservoir.rows[0]] += 1
    # 400 draws of 10 in 100: the standard deviation of a count is 6.
    assert counts.min() > 40 - 5 * 6
    assert counts.max() < 40 + 5 * 6


def test_new_labels_are_further_classes(data):
    X, y = data
    order = np.argsort(-y, kind="stable")
    names = np.array(["car", "bird", "cat"])[y]
    streamed = in_batches(skood.Mahalanobis(), X[order], names[order], 50)
    whole = skood.Mahalanobis().fit(X, names)
    np.testing.assert_allclose(streamed.means_, whole.means_, rtol=1e-10)
    explained, expected = streamed.explain(X[:9]), whole.explain(X[:9])
    np.testing.assert_array_equal(explained.classes, expected.classes)
    assert explained.classes.dtype == expected.classes.dtype


def test_a_class_of_held_out_rows_alone_is_learned():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1500, 3)), np.full(1500, "a")
    y[::500] = "b"
    X[y == "b"] += 50
    for seed in range(12):
        detector = skood.Mahalanobis(random_state=seed, threshold_fraction=0.9).partial_fit(X, y)
        assert len(detector.means_) == 2
        assert detector.means_[1].min() > 40


def test_known_outliers_are_left_out(data):
    X, y = data
    outlying = np.arange(len(X)) % 10 == 0
    marked = np.where(outlying, -1, y)
    streamed = in_batches(skood.Mahalanobis(), np.where(outlying[:, None], 100.0, X), marked, 44)
    whole = skood.Mahalanobis().fit(X[~outlying], y[~outlying])
    np.testing.assert_allclose(streamed.score_samples(X), whole.score_samples(X), rtol=1e-10)


@pytest.mark.parametrize("cls", FEATURES + OUTPUTS)
def test_statistics_follow_each_batch(cls, network, data):
    X, y = data
    detector = made(cls, network).partial_fit(X[:150], y[:150])
    before = detector.score_samples(X), detector.offset_
    detector.partial_fit(X[150:] + 1, y[150:])
    assert (detector.score_samples(X) != before[0]).any()
    assert detector.offset_ != before[1]


@pytest.mark.parametrize("cls", FEATURES + OUTPUTS)
def test_copies_and_files_continue(cls, network, data, tmp_path):
    X, y = data
    first = made(cls, FrozenEstimator(skood.MLP((4,), max_epochs=2, random_state=0).fit(X, y)))
    first.partial_fit(X[:150], y[:150])
    skood.save(first, tmp_path / "first.safetensors")
    copies = [
        pickle.loads(pickle.dumps(first)),
        copy.deepcopy(first),
        skood.load(tmp_path / "first.safetensors"),
    ]
    first.partial_fit(X[150:], y[150:])
    for other in copies:
        other.partial_fit(X[150:], y[150:])
        np.testing.assert_array_equal(other.score_samples(X), first.score_samples(X))
        assert other.offset_ == first.offset_
    fresh = clone(first)
    with pytest.raises(NotFittedError):
        fresh.score_samples(X)


def test_threads_that_score_first(data):
    X, y = data
    detector = skood.RelativeMahalanobis(random_state=0)
    expected = clone(detector).partial_fit(X, y).score_samples(X)
    detector.partial_fit(X, y)
    with ThreadPoolExecutor(8) as pool:
        for scores in pool.map(lambda _: detector.score_samples(X), range(16)):
            np.testing.assert_array_equal(scores, expected)


def test_a_stream_of_batches_through_a_network(network, data):
    X, y = data
    X = X.astype(np.float32)
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), batch_size=64)
    for cls in (skood.SHE, skood.ViM):
        whole, at_once, streamed = (made(cls, network) for _ in range(3))
        whole.fit(X, y)
        at_once.partial_fit(loader)
        for batch, labels in loader:
            streamed.partial_fit(batch, labels)
        for detector in (at_once, streamed):
            scores = detector.score_samples(X)
            np.testing.assert_allclose(scores, whole.score_samples(X), rtol=1e-5, atol=1e-5)


def test_a_memory_map_takes_no_copy(tmp_path, data):
    X, y = data
    np.save(tmp_path / "X.npy", X.astype(np.float16))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    streamed = in_batches(skood.Mahalanobis(), mapped, y, 100)
    whole = skood.Mahalanobis().fit(mapped, y)
    np.testing.assert_allclose(streamed.score_samples(X), whole.score_samples(X), rtol=1e-9)


def test_inside_other_estimators(data):
    X, y = data
    fitted = skood.Mahalanobis().partial_fit(X, y)
    conformal = skood.ConformalDetector(FrozenEstimator(fitted)).fit(X + 0.1)
    assert conformal.score_samples(X) == pytest.approx(fitted.score_samples(X))
    assert make_pipeline(StandardScaler(), skood.Mahalanobis()).fit(X, y).predict(X).mean() > 0.8
    search = GridSearchCV(
        skood.Mahalanobis(), {"normalize": [True, False]}, scoring=lambda d, X, y=None: d.offset_
    )
    assert clone(search.fit(X).best_estimator_).partial_fit(X).offset_ < 0


def test_a_fit_starts_again(data):
    X, y = data
    detector = skood.Mahalanobis().partial_fit(X + 3, y).fit(X, y)
    np.testing.assert_array_equal(
        detector.score_samples(X), skood.Mahalanobis().fit(X, y).score_samples(X)
    )
    with pytest.raises(AttributeError, match="partial_fit") as raised:
        detector.partial_fit(X, y)
    assert "was fitted by fit or fit_outputs, which keep no sums" in str(raised.value.__cause__)


def test_an_interruption_is_not_hidden(data, monkeypatch):
    X, y = data
    detector = skood.Mahalanobis().partial_fit(X, y)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(skood.Mahalanobis, "_add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            detector.partial_fit(X, y)
    with pytest.raises(ValueError, match="was interrupted, so that some rows"):
        detector.partial_fit(X, y)


def test_bad_input(network, data):
    X, y = data
    with pytest.raises(ValueError, match=r"this batch is without labels, and earlier ones were"):
        skood.Mahalanobis().partial_fit(X, y).partial_fit(X)
    with pytest.raises(ValueError, match=r"labels \[2\]; classes are \[0, 1\]"):
        skood.Mahalanobis().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"classes=\[0, 1\]; expected the known \[0, 1, 2\]"):
        skood.Mahalanobis().partial_fit(X, y, [0, 1, 2]).partial_fit(X, y, [0, 1])
    with pytest.raises(ValueError, match="expected the known"):
        made(skood.SHE, network).partial_fit(X, y, [0, 1])
    with pytest.raises(ValueError, match="classes are given, but y is None"):
        skood.Mahalanobis().partial_fit(X, classes=[0, 1])
    with pytest.raises(ValueError, match="classes has -1"):
        skood.Mahalanobis().partial_fit(X, y, [-1, 0, 1, 2])
    with pytest.raises(ValueError, match="no training row is of class 2"):
        made(skood.SHE, network).partial_fit(X[y < 2], y[y < 2]).score_samples(X)
    detector = skood.Mahalanobis().partial_fit(X, y)
    expected = skood.Mahalanobis().fit(X, y).score_samples(X)
    for wrong in (X[:, :4], np.full_like(X, np.nan), np.full_like(X, 1e200), np.empty((0, 5))):
        with pytest.raises(ValueError):
            detector.partial_fit(wrong, y[: len(wrong)])
    # A batch that is refused changes nothing.
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-10)


class OwnDistance(skood.Mahalanobis):
    """Overrides what is learned, which the sums do not know."""

    def _learn(self, outputs, class_indices, seed):
        super()._learn(outputs, class_indices, seed)
        self._whitening = 2 * self._whitening


@pytest.mark.parametrize(
    "detector",
    [skood.Mahalanobis(skood.MLP()), skood.SHE(), skood.ViM(skood.MLP()), OwnDistance()],
    ids=["features", "default", "classifier", "subclass"],
)
def test_what_cannot_learn_from_batches_has_no_such_method(detector):
    assert not hasattr(detector, "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        detector.partial_fit  # noqa: B018
