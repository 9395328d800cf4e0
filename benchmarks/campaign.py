"""Calls with good and bad data on every public estimator: how many end in what.

    python benchmarks/campaign.py --n 100000 --seed 0

A call ends in a result, in a clear error, which names the argument and is raised on purpose, or in
anything else, of which the first examples are printed with what makes them again. The cases are
those of tests/campaign.py, which the test suite draws a few hundred of. A case takes 40 ms on one
core.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from campaign import SUBJECTS, draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=20, help="printed of anything else")
    options = parser.parse_args()
    torch.set_num_threads(1)

    rng = np.random.default_rng(options.seed)
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for _ in tqdm(range(options.n), unit="case", mininterval=1):
        case = draw(rng)
        verdict, text = case.run()
        counts[verdict] += 1
        if verdict == "anything else":
            kind = type(SUBJECTS[case.subject]()).__name__ + re.sub(r"[\d.]+", "#", text)[:120]
            examples.setdefault(kind, []).append(f"{text}\n    {case}")

    for verdict, count in counts.most_common():
        print(f"{count:8} {verdict}")
    for found in sorted(examples.values(), key=len, reverse=True)[: options.examples]:
        print(f"\n{len(found)} times: {found[0]}")


if __name__ == "__main__":
    main()
