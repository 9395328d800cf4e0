"""Interrupted scoring resumes from the saved results."""

import errno
import os

import numpy as np
import pytest
import torch

from skood._data.checked_data import CheckedData
from skood._safe_files import checked_file
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


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"something": np.zeros(3)}, "cannot be read: KeyError"),
        ({"arr_0": np.array(4)}, "does not hold results for 23 items"),
        ({"arr_0": np.array(4), "arr_1": np.zeros(22)}, "does not hold results for 23 items"),
        ({"arr_0": np.array(24), "arr_1": np.zeros(23)}, "does not hold results for 23 items"),
        ({"arr_0": np.array(-1), "arr_1": np.zeros(23)}, "does not hold results for 23 items"),
        ({"arr_0": np.array(4.0), "arr_1": np.zeros(23)}, "does not hold results for 23 items"),
        ({"arr_0": np.zeros(2, int), "arr_1": np.zeros(23)}, "does not hold results for 23 items"),
        ({"arr_0": np.array(4), "arr_1": np.array(1.0)}, "does not hold results for 23 items"),
        ({"arr_0": np.array(4), "arr_1": np.array([{}] * 23)}, "cannot be read: ValueError"),
        ({"arr_0": np.array(8), "arr_1": np.zeros(23)}, "of another shape or dtype"),
        (
            {"arr_0": np.array(8), "arr_1": np.zeros(23), "arr_2": np.zeros((23, 3))},
            "of another shape or dtype",
        ),
        (
            {"arr_0": np.array(8), "arr_1": np.zeros(23), "arr_2": np.zeros((23, 2), int)},
            "of another shape or dtype",
        ),
    ],
)
def test_well_formed_results_of_something_else(tmp_path, arrays, message):
    path, work = tmp_path / "scores.npz", Work()
    with checked_file(path, "scores 1 scores.npz") as file:
        np.savez(file, **arrays)
    with pytest.warns(UserWarning, match=f"{path} .*{message}.*All items are scored") as caught:
        results = run(work, path)
    assert len(caught) == 1
    np.testing.assert_array_equal(results[0], X[:, 0] ** 2)
    assert set(range(0, 23, 4)) <= set(work.seen)
    again = Work()
    np.testing.assert_array_equal(run(again, path)[1], results[1])
    assert again.seen == []


def test_a_folder_that_cannot_be_written(tmp_path):
    """Before the first batch, an error; later, one warning, and the scores are returned."""
    (tmp_path / "file").touch()
    work = Work()
    with pytest.raises(NotADirectoryError, match="can be written to checkpoint_dir="):
        run(work, tmp_path / "file" / "scores.npz")
    (tmp_path / "scores.npz").mkdir()
    with pytest.warns(UserWarning, match="is not a regular file"):
        with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
            run(work, tmp_path / "scores.npz")
    assert work.seen == []


@pytest.mark.usefixtures("always_due")
def test_a_full_disk_is_one_warning(tmp_path, monkeypatch):
    path, savez = tmp_path / "scores.npz", np.savez

    def full(file, *arrays):
        savez(file, *arrays)
        if 8 <= arrays[0] <= 16:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    message = f"the scores in {path} cannot be written: No space left on device"
    with pytest.warns(UserWarning, match=message) as caught:
        results = run(Work(), path)
    assert len(caught) == 1
    np.testing.assert_array_equal(results[0], X[:, 0] ** 2)
    assert os.listdir(tmp_path) == ["scores.npz"]
    work = Work()
    run(work, path)
    assert work.seen == []


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "scores.npz"
    expected = run(Work(), path)
    content = path.read_bytes()
    for position in np.random.default_rng(0).choice(8 * len(content), 100, replace=False):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{path} (is|holds)"):
            assert PartialResults(path).load(23) == (0, [])
    path.write_bytes(content)
    np.testing.assert_array_equal(run(Work(), path)[0], expected[0])
