"""Speed of the post-hoc detectors, compared with bare forward passes and with pytorch-ood.

    python benchmarks/speed_posthoc.py              # writes benchmarks/results/speed_posthoc.json
    pip install --no-deps pytorch-ood==0.4.0        # required for the comparison with pytorch-ood

Passes: a ConvNet on images of 32 x 32 x 3, untrained, which does not change the time. One pass
    runs the bare module over prepared tensors, in batches of skood's scoring size. Detectors are
    fitted before the clock starts and score the same images from a numpy array: three detectors one
    by one, twenty over shared data, and ODIN, compared with two passes and a gradient. Each of the
    twenty is also timed without the pass, on data that the network has already processed.
Features: 50 000 x 512 float32 in 10 classes are fitted, and 10 000 other rows are scored. skood's
    fit includes the threshold, which scores 5 000 training rows; pytorch-ood has no threshold. Peak
    memory is measured in new processes that fit and score all rows with KNN and NNGuide.
Every round runs all variants in turn; the medians over the rounds are compared.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from _machine import machine
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood import ConvNet, share_forward_pass
from skood._torch.batching import scoring_batch_size

RESULTS = Path(__file__).parent / "results" / "speed_posthoc.json"
TWENTY = {
    "MSP": skood.MSP(),
    "MaxLogit": skood.MaxLogit(),
    "Energy": skood.Energy(),
    "Entropy": skood.Entropy(),
    "GEN": skood.GEN(),
    "KLMatching": skood.KLMatching(),
    "ReAct": skood.ReAct(),
    "VRA": skood.VRA(),
    "DICE": skood.DICE(),
    "ASH": skood.ASH(),
    "SCALE": skood.SCALE(),
    "LTS": skood.LTS(),
    "GradNorm": skood.GradNorm(),
    "SHE": skood.SHE(),
    "FDBD": skood.FDBD(),
    "NCI": skood.NCI(),
    "PNML": skood.PNML(),
    "ViM": skood.ViM(),
    "Residual": skood.Residual(),
    "Mahalanobis": skood.Mahalanobis(),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(peak_memory(args.memory_of))
        return
    report = {
        "machine": machine(),
        "date": date.today().isoformat(),
        "rounds": args.rounds,
        "passes": time_passes(args.images, args.rounds),
        "features": time_features(args.rounds),
        "peak_memory_mib": {
            f"{name}, {n} rows": int(
                subprocess.check_output(
                    [sys.executable, __file__, "--memory-of", f"{name} {n}"], text=True
                )
            )
            for name in ("nothing", "KNN", "NNGuide")
            for n in ((10_000, 50_000) if name != "nothing" else (50_000,))
        },
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def time_in_turns(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict]:
    """Return the seconds of each variant, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, variant in variants.items():
            start = perf_counter()
            variant()
            if turn:
                seconds[name].append(perf_counter() - start)
    return {
        name: {"median": median(s), "min": min(s), "max": max(s)} for name, s in seconds.items()
    }


def time_passes(n_images: int, rounds: int) -> dict:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n_images, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(n_images) % 10
    network = ConvNet((64, 128, 256), max_steps=1, compile=False, random_state=0)
    network.fit(images, labels)
    frozen = FrozenEstimator(network)
    module = network.module_.eval()
    tensor = network.network().tensor
    batch_size = scoring_batch_size(torch.device("cpu"), images.shape[1:])
    batches = [tensor(images[i : i + batch_size]) for i in range(0, n_images, batch_size)]

    def bare_pass() -> None:
        with torch.inference_mode():
            for x in batches:
                module(x)

    def bare_odin() -> None:
        """Run two passes and one gradient with respect to the input."""
        for x in batches:
            x = x.clone().requires_grad_()
            logits = module(x)
            loss = F.cross_entropy(logits / 1000, logits.detach().argmax(1), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            with torch.inference_mode():
                module(x.detach() - 0.0014 * gradient.sign())

    def on(detector: skood.base.BaseDetector) -> skood.base.BaseDetector:
        model = "features" if hasattr(detector, "features") else "classifier"
        detector = clone(detector).set_params(**{model: frozen})
        return detector.fit(training, labels)

    training = share_forward_pass(images)
    fitted = {name: on(detector) for name, detector in TWENTY.items()}
    odin = on(skood.ODIN())

    def twenty() -> None:
        shared = share_forward_pass(images)
        for detector in fitted.values():
            detector.score_samples(shared)

    variants = {
        "one bare pass": bare_pass,
        "MSP": lambda: fitted["MSP"].score_samples(images),
        "ViM": lambda: fitted["ViM"].score_samples(images),
        "Mahalanobis": lambda: fitted["Mahalanobis"].score_samples(images),
        "twenty detectors, shared": twenty,
        "two bare passes and a gradient": bare_odin,
        "ODIN": lambda: odin.score_samples(images),
    }
    timed = time_in_turns(variants, rounds)
    one, two = timed["one bare pass"], timed["two bare passes and a gradient"]
    after = time_in_turns(
        {
            name: (lambda detector=detector: detector.score_samples(training))
            for name, detector in fitted.items()
        },
        rounds,
    )
    return {
        "images": n_images,
        "seconds": timed,
        "ratio": {
            name: row["median"] / (two if name == "ODIN" else one)["median"]
            for name, row in timed.items()
        },
        "after the pass, as part of it": {
            name: row["median"] / one["median"] for name, row in after.items()
        },
    }


def features_of(n_rows: int) -> tuple[np.ndarray, np.ndarray, nn.Linear]:
    """Draw clusters after a ReLU, and a last layer that separates them."""
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % 10
    centres = rng.normal(size=(10, 512))
    z = np.maximum(centres[y] + rng.normal(size=(n_rows, 512)), 0).astype(np.float32)
    head = nn.Linear(512, 10)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(centres / 20))
        head.bias.normal_(generator=torch.Generator().manual_seed(0))
    return z, y, head


def time_features(rounds: int) -> dict:
    from pytorch_ood import detector as peer

    z, y, head = features_of(60_000)
    train, labels, test = z[:50_000], y[:50_000], z[50_000:]
    tensors = torch.from_numpy(train), torch.from_numpy(labels), torch.from_numpy(test)
    network = FrozenEstimator(nn.Sequential(nn.Identity(), head))

    def ours(detector: skood.base.BaseDetector, n: int) -> tuple[Callable, Callable]:
        # The pass that computes the features is not timed: the peer gets features, too.
        data, queries = share_forward_pass(train), share_forward_pass(test[:n])
        if hasattr(detector, "classifier"):
            detector.set_params(classifier=network)
        fitted = detector.fit(data, labels)
        return lambda: detector.fit(data, labels), lambda: fitted.score_samples(queries)

    def theirs(make: Callable[[], object], n: int) -> tuple[Callable, Callable]:
        def fit() -> object:
            with torch.inference_mode():
                return make().fit_features(*tensors[:2])

        fitted = fit()

        def score() -> np.ndarray:
            with torch.inference_mode():
                return -fitted.predict_features(tensors[2][:n]).numpy()

        return fit, score

    weight, bias = head.weight.detach(), head.bias.detach()
    pairs = {
        "Mahalanobis": (skood.Mahalanobis(), lambda: peer.Mahalanobis(None), 10_000),
        "ViM": (skood.ViM(n_components=256), lambda: peer.ViM(None, 256, weight, bias), 10_000),
        "KNN": (skood.KNN(normalize=True), lambda: peer.KNN(None, k=50), 10_000),
        "NNGuide": (skood.NNGuide(n_neighbors=10), lambda: peer.NNGuide(None, head, k=10), 10_000),
    }
    result = {}
    for name, (detector, make, n) in pairs.items():
        (our_fit, our_score), (their_fit, their_score) = ours(detector, n), theirs(make, n)
        ranks = [np.argsort(np.argsort(scores)) for scores in (our_score(), their_score())]
        variants = {
            "skood fit": our_fit,
            "pytorch-ood fit": their_fit,
            "skood score": our_score,
            "pytorch-ood score": their_score,
        }
        timed = time_in_turns(variants, rounds)
        result[name] = {
            "rows scored": n,
            "rank correlation": float(np.corrcoef(*ranks)[0, 1]),
            "seconds": timed,
            "ratio of scoring": timed["skood score"]["median"]
            / timed["pytorch-ood score"]["median"],
        }
        print(name, result[name], flush=True)
    return result


def peak_memory(what: str) -> int:
    """Return the peak memory of this process in MiB, with imports and data (Linux)."""
    name, n = what.split()
    z, _, head = features_of(int(n))
    if name == "KNN":
        skood.KNN(normalize=True).fit(z).score_samples(z)
    elif name == "NNGuide":
        skood.NNGuide(nn.Sequential(nn.Identity(), head)).fit(z).score_samples(z)
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


if __name__ == "__main__":
    main()
