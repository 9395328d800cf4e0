"""The script that runs the benchmarks in slices, tried out on the CPU."""

import argparse
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import gpu

        yield gpu
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def args(tmp_path):
    return argparse.Namespace(
        work=tmp_path, out=tmp_path, data=None, minutes=1.0, jobs=2, only=["*"]
    )


def test_every_job_can_be_reached(gpu):
    jobs = gpu.jobs()
    done = set()
    while ready := {name for name in set(jobs) - done if done.issuperset(jobs[name].after)}:
        done |= ready
    assert done == set(jobs)
    assert all((BENCHMARKS / job.script).exists() for job in jobs.values())


@pytest.mark.parametrize("name", ["TwoStep", "ODIN", "VMDLS", "DeepSVDD"])
def test_checks(gpu, args, name):
    """On the CPU both scores are computed alike."""
    gpu.check(args, name)
    assert json.loads((args.work / f"check-{name}.json").read_text())["difference"] == 0


def test_a_queue_goes_on_where_it_stopped(gpu, args, monkeypatch, tmp_path, capsys):
    scripts = {
        "quick.py": "",
        "slow.py": "import time; time.sleep(60)",
        "broken.py": "raise SystemExit('no such luck')",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    jobs = {
        "slow": gpu.Job("slow.py", ()),
        "quick": gpu.Job("quick.py", ()),
        "broken": gpu.Job("broken.py", ()),
        "second": gpu.Job("quick.py", (), ("quick",)),
        "never": gpu.Job("quick.py", (), ("broken",)),
    }
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "jobs", lambda: jobs)
    args.minutes = 8 / 60
    queue = gpu.Queue(args)
    queue.run()
    assert list(queue.seconds) == ["quick", "second"]
    assert queue.failed == ["broken"]
    assert queue.left() == ["slow", "broken", "never"]
    output = capsys.readouterr().out
    assert "no such luck" in output
    assert "the next call resumes: slow" in output

    (tmp_path / "slow.py").write_text("")
    (tmp_path / "broken.py").write_text("")
    again = gpu.Queue(args)
    again.run()
    assert again.left() == []
