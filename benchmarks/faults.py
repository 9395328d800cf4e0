"""Faults survived: interrupted, killed and starved fits, damaged files, shared folders.

    python benchmarks/faults.py --n 10000 --jobs 2

Each fault strikes a tiny training, scoring or cached fit at a random line of code. After up to
three faults in one folder, the same call without a fault must give the bits of a call without any.
tests/fault_injection.py causes the faults; the test suite runs a few hundred of them.

- Ctrl-C: SIGINT.
- full disk: from some line on, no file can grow beyond a random size.
- folder gone: the folder is moved away, and in most cases a file takes its place.
- kill -9: of another process.
- shared folder: two processes at once; in a third of the cases, one of them is killed.
- damage to one file: bits flipped, cut off, zeros, more bytes, nothing left, the content of another
  file, a pipe in its place.

*Lost* counts calls that ended in an exception although the fault should not end them, *wrong*
counts other results, *warnings* counts calls with more than the documented warnings, and *files*
counts calls that left temporary files. A fault takes 60 ms on one core.
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import date
from pathlib import Path
from time import monotonic
from typing import Any

# Processes are forked, which hangs after torch has used several threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import joblib
from _machine import machine
from fault_injection import FAULTS, Tally, cause_faults
from tqdm import tqdm

FAULTS_AT_ONCE = 125


def run(n: int, seed: int) -> Tally:
    with tempfile.TemporaryDirectory() as folder:
        return cause_faults(n, seed, folder)


def table(result: dict[str, Any]) -> str:
    columns = "faults", "lost", "wrong", "noisy", "littered"
    lines = ["| fault | events | lost | wrong | warnings | files |", "|---" * 6 + "|"]
    for kind in FAULTS:
        counts = [result[column].get(kind, 0) for column in columns]
        lines.append(f"| {kind} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    totals = [sum(result[column].values()) for column in columns]
    lines.append("| all | " + " | ".join(f"{total:,}" for total in totals) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=10_000, help="faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time to stop after")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--examples", type=int, default=20, help="printed of what went wrong")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    path = args.out / "faults.json"
    if not args.table:
        seeds = [1_000_000 * args.seed + k for k in range(-(-args.n // FAULTS_AT_ONCE))]
        parts = joblib.Parallel(args.jobs, return_as="generator_unordered")(
            joblib.delayed(run)(min(args.n, FAULTS_AT_ONCE), seed) for seed in seeds
        )
        began, tally = monotonic(), Tally()
        for part in tqdm(parts, total=len(seeds), unit="campaign", disable=None):
            tally.add(part)
            if monotonic() - began > 60 * args.minutes:
                break
        print("\n".join(tally.examples[: args.examples]))
        result = {name: dict(value) for name, value in vars(tally).items() if name != "examples"}
        result |= {"seed": args.seed, "machine": machine(), "date": date.today().isoformat()}
        path.write_text(json.dumps(result, indent=2) + "\n")
    print(table(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
