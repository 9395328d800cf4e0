"""Adds the outcome of a run of the suite to matrix.json: `matrix.py REPORT.xml [ARGUMENTS]`."""

from __future__ import annotations

import json
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

RESULTS = Path(__file__).with_suffix(".json")
PACKAGES = ("torch", "scikit-learn", "numpy", "scipy")


def main(report: Path, arguments: list[str]) -> None:
    suite = ElementTree.parse(report).getroot().find("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    outcome = {
        "python": platform.python_version(),
        "system": f"{platform.system()}, {platform.machine()}",
        **{name: version(name).partition("+")[0] for name in PACKAGES},
        "tests": " ".join(arguments) or "all",
        "passed": counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"],
        "failed": counts["failures"] + counts["errors"],
        "skipped": counts["skipped"],
        "date": date.today().isoformat(),
    }
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    stored[f"Python {python}, torch {outcome['torch']}"] = outcome
    RESULTS.write_text(json.dumps(dict(sorted(stored.items())), indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
