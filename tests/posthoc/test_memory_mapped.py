"""Features are read in chunks: from a file, with little memory, and with the same scores."""

import pickle
import tracemalloc

import numpy as np
import pytest
from sklearn.base import clone

import skood
from skood._data.lazy_rows import LazyRows, is_on_disk
from skood._thresholds import _stratified, held_out_rows
from skood._torch.seeding import Stream, numpy_rng
from skood.calibration import ConformalDetector
from skood.posthoc import FeatureDetector, Outputs

ON_ROWS = [
    skood.Mahalanobis(),
    skood.RelativeMahalanobis(normalize=True),
    skood.GMM(),
    skood.NECO(),
    skood.KernelPCA(n_fourier_features=16, random_state=0),
    skood.KNN(n_neighbors=3),
    skood.KNN(n_neighbors=3, normalize=True),
    skood.KNN(n_neighbors=3, bank_fraction=0.3, random_state=0),
    ConformalDetector(skood.KNN(n_neighbors=3), random_state=0),
]
ON_SAVED = [
    skood.Residual(),
    skood.ViM(),
    skood.NNGuide(n_neighbors=3),
    skood.NNGuide(n_neighbors=3, bank_fraction=0.3, random_state=0),
    skood.SHE(),
    skood.FDBD(),
    skood.NCI(),
    skood.PNML(),
]


def name_of(detector):
    return type(detector).__name__


def in_file(path, X):
    np.save(path, X)
    return np.load(path, mmap_mode="r")


@pytest.fixture
def data(tmp_path, request):
    rng = np.random.default_rng(0)
    y = np.arange(900) % 3
    X = (rng.normal(size=(900, 6)) + 3 * np.eye(3, 6)[y]).astype(request.param)
    return in_file(tmp_path / "rows.npy", X), X.astype(np.promote_types(X.dtype, np.float32)), y


BOTH = pytest.mark.parametrize("data", ["float32", "float16"], indirect=True)


@BOTH
@pytest.mark.parametrize("detector", ON_ROWS, ids=name_of)
def test_rows_of_a_file_score_like_rows_in_memory(detector, data):
    mapped, X, y = data
    on_disk, in_memory = clone(detector).fit(mapped, y), clone(detector).fit(X, y)
    assert on_disk.offset_ == in_memory.offset_
    np.testing.assert_array_equal(on_disk.score_samples(mapped), in_memory.score_samples(X))


@BOTH
@pytest.mark.parametrize("detector", ON_SAVED, ids=name_of)
def test_saved_features_in_a_file_score_like_those_in_memory(detector, data):
    mapped, X, y = data
    head = np.random.default_rng(1).normal(size=(3, 6)), np.zeros(3)
    on_disk = clone(detector).fit_outputs(features=mapped, head=head, y=y)
    in_memory = clone(detector).fit_outputs(features=X, head=head, y=y)
    assert on_disk.offset_ == in_memory.offset_
    expected = in_memory.score_outputs(features=X)
    np.testing.assert_array_equal(on_disk.score_outputs(features=mapped), expected)
    outputs = Outputs.from_arrays(features=X, head=head)
    assert all(type(part) is np.ndarray for part in (outputs.logits, outputs.log_proba))
    np.testing.assert_array_equal(in_memory.score_outputs(outputs), expected)


SMALL_BANK = {"bank_fraction": 0.01, "random_state": 0}
LARGE = [
    skood.Mahalanobis(),
    skood.RelativeMahalanobis(),
    skood.GMM(),
    skood.NECO(),
    skood.KNN(normalize=True, **SMALL_BANK),
    ConformalDetector(skood.Mahalanobis()),
    *(d for d in ON_SAVED if not isinstance(d, (skood.SHE, skood.NNGuide))),
    skood.NNGuide(**SMALL_BANK),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("detector", LARGE, ids=name_of)
def test_memory_does_not_grow_with_a_copy_of_the_rows(detector, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("skood._thresholds.THRESHOLD_ROWS", 200)
    n, d = 100_000, 64
    rng = np.random.default_rng(0)
    mapped = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", dtype, (n, d))
    mapped[:] = rng.standard_normal((n, d), dtype=np.float32)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    head = rng.normal(size=(3, d)), np.zeros(3)
    detector = clone(detector)
    tracemalloc.start()
    try:
        if isinstance(detector, skood.posthoc.OutputsDetector):
            detector.fit_outputs(features=mapped, head=head)
            detector.score_outputs(features=mapped[:500])
        else:
            detector.fit(mapped)
            detector.predict(mapped[:500])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Chunks of 4096 rows take 2 MiB each in float64; a copy in float32 takes 24 MiB.
    assert peak < 13 * 2**20


def test_a_bank_in_a_file_stays_there_and_a_pickle_holds_it(tmp_path):
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(300, 4)).astype(np.float32), rng.normal(size=(5, 4))
    expected = skood.KNN(n_neighbors=3).fit(X).score_samples(new)
    mapped = in_file(tmp_path / "rows.npy", X)
    for detector in (
        skood.KNN(n_neighbors=3).fit(mapped),
        skood.KNN(n_neighbors=3).fit(mapped, np.arange(300) % 2),
        skood.KNN(n_neighbors=3).fit_outputs(features=mapped).set_params(normalize=False),
    ):
        assert is_on_disk(detector._rows)
        stored = pickle.loads(pickle.dumps(detector))
        assert type(stored._rows) is np.ndarray and not is_on_disk(stored._rows)
    detector = skood.KNN(n_neighbors=3).fit(mapped)
    np.testing.assert_array_equal(detector.score_samples(new), expected)
    stored = pickle.dumps(detector)
    np.testing.assert_array_equal(pickle.loads(stored).score_samples(new), expected)
    half = skood.KNN(n_neighbors=3).fit(mapped, np.where(np.arange(300) < 150, 0, -1))
    assert isinstance(half._rows, LazyRows)
    skood.save(half, tmp_path / "half.skood")
    for again in (pickle.loads(pickle.dumps(half)), skood.load(tmp_path / "half.skood")):
        assert type(again._rows) is np.ndarray
        np.testing.assert_array_equal(again.score_samples(new), half.score_samples(new))
    assert not is_on_disk(np.load(tmp_path / "rows.npy", mmap_mode="r+"))


def test_a_bank_in_memory_is_a_copy():
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(300, 4)), rng.normal(size=(5, 4))
    detector = skood.KNN(n_neighbors=3).fit(X)
    expected = detector.score_samples(new)
    X += 100
    np.testing.assert_array_equal(detector.score_samples(new), expected)


class Nearest(FeatureDetector):
    """A detector of a user, who reads features as an array."""

    _overfits = True

    def _learn(self, outputs, class_indices, seed):
        assert type(outputs.features) is np.ndarray
        self.mean_ = outputs.features.mean(0)

    def _score(self, outputs):
        assert type(outputs.features) is np.ndarray
        return -np.abs(outputs.features - self.mean_).max(1)


class OfMahalanobis(skood.Mahalanobis):
    def _learn(self, outputs, class_indices, seed):
        assert type(outputs.features) is np.ndarray
        super()._learn(outputs, class_indices, seed)


@BOTH
@pytest.mark.parametrize("cls", [Nearest, OfMahalanobis])
def test_a_detector_of_a_user_learns_from_arrays(cls, data):
    mapped, X, _ = data
    np.testing.assert_allclose(
        cls().fit(mapped).score_samples(mapped), cls().fit(X).score_samples(X), rtol=1e-5
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_value_that_is_not_finite_is_found_in_a_late_chunk(value, dtype, tmp_path):
    X = np.zeros((9000, 3), dtype)
    X[8999, 1] = value
    mapped = in_file(tmp_path / "rows.npy", X)
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        skood.KNN().fit(mapped)
    with pytest.raises(ValueError, match="features has 1 values that are NaN or infinite"):
        skood.KNN().fit_outputs(features=mapped)


def test_rows_without_labels_are_held_out_like_rows_of_one_class():
    for n in (500, 501, 60_001):
        n_rows = min(int(0.1 * n), 5000)
        rng = numpy_rng(0, Stream.HELD_OUT_ROWS)
        expected = _stratified(np.zeros(n, int), n_rows, rng)
        np.testing.assert_array_equal(held_out_rows(n, None, 0.1), expected)
