"""Interruptions, kills, full disks, damaged files and shared folders lose nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "faults.py"


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files, and forks")
def test_a_few_hundred_faults(tmp_path):
    """In a process of its own, whose limits and threads no other test has changed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--n", "250", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    tally = json.loads((tmp_path / "faults.json").read_text())
    assert sum(tally["faults"].values()) >= 250
    assert len(tally["faults"]) == 6
    went_wrong = {name: tally[name] for name in ("lost", "wrong", "noisy", "littered")}
    assert went_wrong == {"lost": {}, "wrong": {}, "noisy": {}, "littered": {}}, done.stdout
