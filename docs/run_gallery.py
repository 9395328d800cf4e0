"""Execute every example of the gallery, and store how long each takes.

    OMP_NUM_THREADS=1 python docs/run_gallery.py

Each example runs in a process of its own, one after the other, without windows. Figures that a
script saves are discarded: ``sphinx`` draws the pictures of the pages. The date, the versions, the
machine and the processor seconds of each example, with its imports, are written to
``docs/gallery_times.json``, and only if every example succeeds.
"""

import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile

from gallery import EXAMPLES, SCRIPTS, TIMES

sys.path.append(str(EXAMPLES.parent / "benchmarks"))

from _machine import machine


def seconds(script: str) -> float:
    """Execute an example and return its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, EXAMPLES / script],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "MPLBACKEND": "agg"},
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    found = {}
    for script in SCRIPTS:
        found[script] = round(seconds(script), 1)
        print(f"{found[script]:7.1f} s  {script}", flush=True)
    print(f"{sum(found.values()):7.1f} s")
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "processor_seconds": found,
    }
    TIMES.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
