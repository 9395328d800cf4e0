"""Speed of detectors on a density, compared with the published procedures in the same run.

    python benchmarks/speed_likelihood.py flipd
    python benchmarks/speed_likelihood.py regret
    python benchmarks/speed_likelihood.py waic

flipd: images per second of the local intrinsic dimension from a diffusion model of 28 x 28 pixels,
    by FLIPD with one probe, and by the normal-bundle estimator (Stanczuk et al. 2022). This
    estimator computes the singular values of the scores of 4 D noisy copies of an image; the
    number of singular values after the largest drop is the dimension.
regret: images per second of a VAE's LikelihoodRegret, over encoders as published and over latents,
    and of the published procedure, which fits an encoder to one image after the other.
waic: images per second of WAIC of five VAEs, compared with five calls of `score_samples`.
Every round runs all variants in turn.
"""

from __future__ import annotations

import argparse
import copy
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

from skood import VAE, WAIC, Diffusion, LikelihoodRegret, LocalIntrinsicDimension
from skood._data.checked_data import CheckedData
from skood.density._evidence import divergence

RESULTS = Path(__file__).parent / "results" / "speed_likelihood-cpu.json"
T = 0.1


def rates(methods: dict[str, tuple[int, Callable[[int], object]]], base: str, n: int) -> list[dict]:
    """Return the images per second of each method, and relative to `base`, in n rounds."""
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
    # One step suffices for the log-density, which is not measured.
    diffusion = Diffusion(max_steps=3, n_steps=1, random_state=0, verbose=0).fit(X)
    n_values = X[0].size

    def flipd(n: int) -> None:
        data = CheckedData.of(X[:n])
        diffusion.map(data, lambda m, x: detector._flipd(diffusion.denoiser(m), x, detector.scale_))

    def normal_bundle(n: int) -> list[int]:
        counts = []

        def count(network: object, x: torch.Tensor) -> torch.Tensor:
            denoiser = diffusion.denoiser(network)
            noise = torch.randn(4 * n_values, *x.shape[1:])
            noisy = denoiser.noisy(x[:1], T, noise)
            parts = noisy.split(128)
            scores = torch.cat([denoiser.noise(part, denoiser.log_ratio(T)) for part in parts])
            values = torch.linalg.svdvals(scores.flatten(1))
            counts.append(n_values - int((values[:-1] / values[1:]).argmax()) - 1)
            return x[:, 0, 0, 0]

        for k in range(n):
            diffusion.map(X[k : k + 1], count, doing="normal bundle")
        return counts

    log_ratio = float(diffusion._schedule().log_ratio(torch.tensor(T)))
    settings = {"scale": log_ratio, "n_calibration": 2, "random_state": 0, "verbose": 0}
    detector = LocalIntrinsicDimension(FrozenEstimator(diffusion), **settings).fit(X[:2])
    methods = {"flipd": (256, flipd), "normal bundle": (1, normal_bundle)}
    return {"images_per_second": summary(rates(methods, "normal bundle", args.rounds))}


def measure_regret(args: argparse.Namespace) -> dict:
    X = np.random.default_rng(0).integers(256, size=(256, 28, 28)).astype(np.uint8)
    vae = VAE(max_steps=3, random_state=0, verbose=0).fit(X)
    detectors = {
        optimize: LikelihoodRegret(
            FrozenEstimator(vae), optimize=optimize, n_steps=args.steps, verbose=0
        ).fit(X[:2])
        for optimize in ("encoder", "latents")
    }

    def published(n: int) -> None:
        """Fit the encoder to one image at a time, with a fixed decoder."""
        for items in X[:n, None]:
            network = copy.deepcopy(vae.module_)
            encoder = [*network.convolutions.parameters(), *network.encoder.parameters()]
            optimizer = torch.optim.Adam(encoder, lr=1e-3)
            x = vae._tensor(items[None], torch.device("cpu"))
            for _ in range(args.steps):
                mean, log_variance = network.encode(x, None)
                z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
                likelihood = vae._log_likelihood(network, x, network.decode(z, None))
                optimizer.zero_grad()
                (divergence(mean, log_variance) - likelihood).sum().backward()
                optimizer.step()

    methods = {
        "published": (4, published),
        "encoder": (64, lambda n: detectors["encoder"].score_samples(X[:n])),
        "latents": (128, lambda n: detectors["latents"].score_samples(X[:n])),
    }
    measured = summary(rates(methods, "published", args.rounds))
    return {"images_per_second": measured, "n_steps": args.steps}


def measure_waic(args: argparse.Namespace) -> dict:
    X = np.random.default_rng(0).integers(256, size=(128, 28, 28)).astype(np.uint8)
    members = [VAE(max_steps=3, random_state=k, verbose=0).fit(X) for k in range(5)]
    waic = WAIC([FrozenEstimator(member) for member in members], verbose=0).fit(X[:2])
    methods = {
        "five passes": (128, lambda n: [member.score_samples(X[:n]) for member in members]),
        "waic": (128, lambda n: waic.score_samples(X[:n])),
    }
    return {"images_per_second": summary(rates(methods, "five passes", args.rounds))}


PARTS = {"flipd": measure_flipd, "regret": measure_regret, "waic": measure_waic}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="steps of `regret` per image")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    measured = {**PARTS[args.part](args), "machine": machine(), "date": date.today().isoformat()}
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    args.out.write_text(json.dumps(results | {args.part: measured}, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
