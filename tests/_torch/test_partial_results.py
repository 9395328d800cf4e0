"""Interrupted scoring resumes from the saved results."""

import numpy as np
import pytest
import torch

from skood._checked_data import CheckedData
from skood._torch import partial_results
from skood._torch.batching import map_batches
from skood._torch.partial_results import PartialResults

X = np.arange(23.0)[:, None]


class Work:
    """Computes squares and rows; interrupted at batch `stop`."""

    def __init__(self, stop=None):
        self.stop = stop
        self.seen = []

    def __call__(self, items):
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt
        self.seen.append(items[0, 0])
        x = torch.from_numpy(items)
        return x[:, 0] ** 2, x.expand(len(x), 3).to(torch.int64)


@pytest.fixture
def always_due(monkeypatch):
    monkeypatch.setattr(partial_results, "_SECONDS_BETWEEN_SAVES", 0.0)


def run(work, path):
    partial = None if path is None else PartialResults(path)
    return map_batches(work, CheckedData.of(X), 4, partial=partial)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumes_from_the_saved_results(tmp_path, stop):
    path = tmp_path / "deep" / "scores.npz"
    expected = run(Work(), None)
    with pytest.raises(KeyboardInterrupt):
        run(Work(stop), path)
    work = Work()
    results = run(work, path)
    assert work.seen == list(range(4 * stop, 23, 4))
    assert [result.dtype for result in results] == [np.float64, np.int64]
    for result, values in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, values)
    # Finished results are read from the file.
    work = Work()
    results = run(work, path)
    assert work.seen == []
    np.testing.assert_array_equal(results[0], X[:, 0] ** 2)
    assert [file.name for file in path.parent.iterdir()] == ["scores.npz"]


def test_saves_once_a_minute_and_at_the_end(tmp_path, monkeypatch):
    now = iter(np.arange(100.0) * 25)
    monkeypatch.setattr(partial_results, "monotonic", lambda: next(now))
    partial, saved = PartialResults(tmp_path / "scores.npz"), []
    for n_done in range(1, 9):
        partial.path.unlink(missing_ok=True)
        partial.save_if_due(n_done, [np.zeros(8)])
        if partial.path.exists():
            saved.append(n_done)
    # The clock moves on by 25 s at every reading.
    assert saved == [3, 6, 8]


def test_nothing_is_saved_before_it_is_due(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Work(2), tmp_path / "scores.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_an_unreadable_file_is_ignored(tmp_path, content):
    path = tmp_path / "scores.npz"
    path.write_bytes(content)
    work = Work()
    with pytest.warns(UserWarning, match=f"{path} is incomplete.* All items are scored"):
        results = run(work, path)
    np.testing.assert_array_equal(results[0], X[:, 0] ** 2)
    assert len(work.seen) == 6
    assert PartialResults(path).load(23)[0] == 23


def test_a_file_of_something_else(tmp_path):
    path = tmp_path / "scores.npz"
    np.savez(path, something=np.zeros(3))
    with pytest.warns(UserWarning, match="was not written by this version"):
        assert PartialResults(path).load(23) == (0, [])
    assert PartialResults(tmp_path / "none.npz").load(23) == (0, [])
