"""What one process keeps in a folder is found by the next."""

import subprocess
import sys

import joblib
import pytest

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
