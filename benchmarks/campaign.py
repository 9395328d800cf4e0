"""Outcomes of calls with valid and invalid data, counted for every public estimator.

    python benchmarks/campaign.py --n 100000 --jobs 2

A call ends in a result, in a clear error (raised on purpose, with the name of the argument), or in
anything else. The first examples of "anything else" are printed with the code that reproduces them.
tests/campaign.py generates the cases; the test suite runs a few hundred of them. A case takes 40 ms
on one core. The counts depend on the seed and not on the number of jobs.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from datetime import date
from pathlib import Path

# Every case runs in one thread on the CPU, so that its outcome is reproducible.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import joblib
import numpy as np
import torch
from _machine import machine
from campaign import SUBJECTS, draw
from tqdm import tqdm

CASES_AT_ONCE = 100


def run(n: int, *seed: int) -> tuple[Counter[str], list[tuple[str, str]]]:
    """Return the counts of the outcomes of `n` cases; kind and text of each "anything else"."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    examples = []
    for _ in range(n):
        case = draw(rng)
        verdict, text = case.run()
        counts[verdict] += 1
        if verdict == "anything else":
            kind = type(SUBJECTS[case.subject]()).__name__ + re.sub(r"[\d.]+", "#", text)[:120]
            examples.append((kind, f"{text}\n    {case}"))
    return counts, examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--examples", type=int, default=20, help='printed of "anything else"')
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()

    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    parallel = joblib.Parallel(options.jobs, return_as="generator", batch_size=1)
    parts = parallel(
        joblib.delayed(run)(min(CASES_AT_ONCE, options.n - start), options.seed, start)
        for start in range(0, options.n, CASES_AT_ONCE)
    )
    with tqdm(total=options.n, unit="case", mininterval=5) as bar:
        for of_part, found in parts:
            counts += of_part
            bar.update(of_part.total())
            for kind, text in found:
                examples.setdefault(kind, []).append(text)

    for verdict, count in counts.most_common():
        print(f"{count:8} {verdict}")
    for texts in sorted(examples.values(), key=len, reverse=True)[: options.examples]:
        print(f"\n{len(texts)} times: {texts[0]}")
    if options.out:
        report = {
            "date": date.today().isoformat(),
            "machine": machine(),
            "cases": options.n,
            "seed": options.seed,
            "counts": dict(counts.most_common()),
            "anything else": {kind: len(texts) for kind, texts in examples.items()},
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
