"""Speed of scores that a density gives, beside the published procedures in the same run.

    python benchmarks/speed_likelihood.py flipd

flipd: images a second whose local intrinsic dimension a diffusion model of 28 x 28 pixels gives, by
    FLIPD with one probe, and by the normal-bundle estimator (Stanczuk et al. 2022): the singular
    values of the scores of 4 D noisy copies of an image, of which those beyond the largest drop are
    its dimension.
Variants take turns in every round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from _machine import machine
from _timing import summary
from sklearn.frozen import FrozenEstimator

from skood import Diffusion, LocalIntrinsicDimension
from skood._checked_data import CheckedData

RESULTS = Path(__file__).parent / "results" / "speed_likelihood-cpu.json"
T = 0.1


def rates(methods: dict[str, tuple[int, Callable[[int], object]]], base: str, n: int) -> list[dict]:
    """Images a second of each method, and its multiple of the method `base`, in n rounds."""
    rounds = []
    for _ in range(n):
        row = {}
        for name, (n_images, score) in methods.items():
            start = perf_counter()
            score(n_images)
            row[name] = n_images / (perf_counter() - start)
        row |= {f"{name} / {base}": row[name] / row[base] for name in methods if name != base}
        rounds.append(row)
    return rounds


def measure_flipd(args: argparse.Namespace) -> dict:
    X = np.random.default_rng(0).integers(256, size=(256, 1, 28, 28)).astype(np.uint8)
    # One step of the log-density, which is not measured.
    diffusion = Diffusion(max_steps=3, n_steps=1, random_state=0, verbose=0).fit(X)
    n_values = X[0].size

    def flipd(n: int) -> None:
        data = CheckedData.of(X[:n])
        detector._map_noise(data, lambda d, x: detector._flipd(d, x, detector.scale_), "")

    def normal_bundle(n: int) -> list[int]:
        counts = []

        def count(denoiser: object, x: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(4 * n_values, *x.shape[1:])
            noisy = denoiser.noisy(x[:1], T, noise)
            parts = noisy.split(128)
            scores = torch.cat([denoiser.noise(part, denoiser.log_ratio(T)) for part in parts])
            values = torch.linalg.svdvals(scores.flatten(1))
            counts.append(n_values - int((values[:-1] / values[1:]).argmax()) - 1)
            return x[:, 0, 0, 0]

        for k in range(n):
            diffusion.map_noise(CheckedData.of(X[k : k + 1]), count, doing="normal bundle")
        return counts

    log_ratio = float(diffusion._schedule().log_ratio(torch.tensor(T)))
    settings = {"scale": log_ratio, "n_calibration": 2, "random_state": 0, "verbose": 0}
    detector = LocalIntrinsicDimension(FrozenEstimator(diffusion), **settings).fit(X[:2])
    methods = {"flipd": (256, flipd), "normal bundle": (1, normal_bundle)}
    return {"images_per_second": summary(rates(methods, "normal bundle", args.rounds))}


PARTS = {"flipd": measure_flipd}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    measured = {**PARTS[args.part](args), "machine": machine(), "date": date.today().isoformat()}
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    args.out.write_text(json.dumps(results | {args.part: measured}, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
