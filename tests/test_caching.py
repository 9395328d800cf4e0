"""What one process keeps in a folder is found by the next."""

import os
import shutil
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest

from skood import _caching
from skood._caching import cached

# Run twice: each run calls the function in two folders of one process.
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from work import square
from skood._caching import cached
for folder in ("a", "b"):
    kept = cached(str(Path(sys.argv[1]) / folder), square, ignore=["name"])
    print(kept(3, folder), kept(3, "another name"))
"""


def test_another_process_finds_the_results_of_every_folder(tmp_path):
    """Also those of the second folder that a process keeps results of the same function in."""
    (tmp_path / "work.py").write_text(
        "def square(x, name):\n    print('computed', end=' ')\n    return x * x\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert runs == [["computed 9 9", "computed 9 9"], ["9 9", "9 9"]]


def multiple(x, by=2, *, plus=0):
    return by * x + plus


@pytest.mark.parametrize(
    "memory", [lambda _: None, str, lambda path: joblib.Memory(path, verbose=0)]
)
def test_any_memory_and_default_arguments(tmp_path, memory):
    kept = memory(tmp_path)
    function = cached(kept, multiple)
    assert [function(2), function(2), function(2, by=3, plus=1)] == [4, 4, 7]
    assert any(tmp_path.iterdir()) == (kept is not None)


calls = []


def work(x):
    calls.append(x)
    return {"x": np.full(20, x), "text": "some text"}


@pytest.fixture
def function(tmp_path):
    calls.clear()
    _caching._failing.clear()
    return cached(str(tmp_path), work)


def files(folder, name="output.pkl"):
    return sorted(folder.rglob(name))


def silently(function, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*args)


@pytest.mark.parametrize(
    "settings", [{}, {"compress": 3}, {"mmap_mode": "r"}, {"mmap_mode": "c"}], ids=str
)
def test_a_damaged_entry_is_computed_again(tmp_path, settings):
    calls.clear()
    function = cached(joblib.Memory(tmp_path, verbose=0, **settings), work)
    expected = silently(function, 3)
    (entry,) = files(tmp_path)
    content = entry.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.choice(8 * len(content), 60, replace=False):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        entry.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{entry} .* It is computed again") as caught:
            result = function(3)
        assert len(caught) == 1
        np.testing.assert_array_equal(result["x"], expected["x"])
    entry.write_bytes(content[:-20])
    with pytest.warns(UserWarning, match="is incomplete"):
        function(3)
    assert len(calls) == 62
    np.testing.assert_array_equal(silently(function, 3)["x"], expected["x"])
    assert len(calls) == 62


def test_an_entry_of_something_else(tmp_path, function):
    for x in 3, 4:
        function(x)
    first, second = files(tmp_path)
    shutil.copy(first, second)
    results = []
    with pytest.warns(UserWarning, match="holds cached result 1 .* not cached result 1") as caught:
        for x in 3, 4:
            results.append(function(x)["x"][0])
    assert results == [3, 4]
    assert len(caught) == 1
    # An entry of joblib itself, which has no checksum.
    joblib.dump({"x": 0}, first)
    with pytest.warns(UserWarning, match="was not written by this version of skood"):
        results = [function(x)["x"][0] for x in (3, 4)]
    assert results == [3, 4]
    first.unlink()
    assert [silently(function, x)["x"][0] for x in (3, 4)] == [3, 4]


def test_an_unreadable_entry(tmp_path, function, monkeypatch):
    function(3)

    def unreadable(file):
        raise ModuleNotFoundError("No module named 'gone'")

    with monkeypatch.context() as patch:
        patch.setattr(joblib, "load", unreadable)
        with pytest.warns(UserWarning, match="raised ModuleNotFoundError: No module named 'gone'"):
            assert function(3)["x"][0] == 3


@pytest.mark.parametrize("damage", [b"\xff", b"# first line: x\n", b""])
def test_damaged_source(tmp_path, function, damage):
    """The entries of an unknown source are not used."""
    function(3)
    (source,) = files(tmp_path, "func_code.py")
    source.write_bytes(damage + source.read_bytes()[len(damage) + 1 :])
    again = cached(str(tmp_path), work)
    with pytest.warns(UserWarning, match="the cache of .*work is emptied") as caught:
        again(3)
    assert len(caught) == 1
    silently(cached(str(tmp_path), work), 3)
    assert calls == [3, 3]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes")
@pytest.mark.parametrize("name", ["output.pkl", "func_code.py", "metadata.json"])
def test_a_pipe_is_not_opened(tmp_path, function, name):
    """Opening it would wait for ever."""
    function(3)
    (path,) = files(tmp_path, name)
    path.unlink()
    os.mkfifo(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cached(str(tmp_path), work)(3)["x"][0] == 3
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == (name != "metadata.json")
    assert all("is not a regular file" in message for message in messages)


def test_a_folder_that_cannot_be_written(tmp_path):
    """Nothing is computed."""
    calls.clear()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"nothing can be written to memory='{tmp_path}/file/deep'"):
        cached(str(tmp_path / "file" / "deep"), work)
    memory = joblib.Memory(tmp_path / "memory", verbose=0)
    shutil.rmtree(tmp_path / "memory")
    (tmp_path / "memory").touch()
    with pytest.raises(OSError, match=f"nothing can be written to memory='{tmp_path}/memory'"):
        cached(memory, work)(3)
    assert calls == []


def test_a_result_that_cannot_be_stored_is_returned_with_one_warning(tmp_path, function):
    function(1)
    shutil.rmtree(tmp_path / "joblib")
    (tmp_path / "joblib").touch()
    message = "cannot be written: Not a directory. Results are not cached, but not lost"
    with pytest.warns(UserWarning, match=message) as caught:
        results = [function(x)["x"][0] for x in (1, 2, 3)]
        # The folder cannot be made again either.
        results.append(cached(str(tmp_path), work)(4)["x"][0])
    assert results == [1, 2, 3, 4]
    assert len(caught) == 1
    (tmp_path / "joblib").unlink()
    silently(function, 5)
    silently(function, 5)
    assert calls == [1, 1, 2, 3, 4, 5]


def unpicklable(x):
    return lambda: x


def test_a_result_that_cannot_be_pickled(tmp_path):
    with pytest.warns(UserWarning, match="output.pkl cannot be written: .*pickle"):
        assert cached(str(tmp_path), unpicklable)(3)() == 3
    assert not files(tmp_path)
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if "tmp" in name]


def test_another_store_of_joblib_is_used_as_it_is(tmp_path):
    class Memory:
        def cache(self, function, ignore):
            return lambda *args: ("stored", function(*args)["x"][0])

    assert cached(Memory(), work)(3) == ("stored", 3)
