"""Time of one image: exported graphs, compared with the bare network and with `score_samples`.

    python benchmarks/speed_export.py            # writes benchmarks/results/speed_export.json
    python benchmarks/speed_export.py --quick    # a trial run, which writes nothing

One image of 32 and of 224 pixels through torchvision's ResNet-18, with Energy, KNN (a bank of
50 000 x 512 float32, k = 50), Mahalanobis and ViM:

- the bare network, in torch and in onnxruntime;
- ``score_samples``;
- the exported detector, in onnxruntime and as a program of torch.

Networks are untrained, which does not change the time. Every round runs all variants in turn; the
medians over the rounds are compared.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime
import torch
import torchvision
from _machine import machine
from _timing import summary
from torch import nn

import skood

RESULTS = Path(__file__).parent / "results" / "speed_export.json"
N_BANK, N_FEATURES, N_CLASSES, N_NEIGHBORS = 50_000, 512, 10, 50
Variants = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rounds = 3 if args.quick else args.rounds
    report: dict[str, object] = {
        "machine": {**machine(), "onnxruntime": onnxruntime.__version__},
        "date": date.today().isoformat(),
        "rounds": rounds,
    }
    for px in (32, 224):
        timed = time_in_turns(variants_of(px, args.threads), rounds)
        bare = {kind: timed[f"{kind}, network alone"]["median"] for kind in ("torch", "ONNX")}
        print(f"\none image of {px} px, ms (times the network alone)")
        for name, row in timed.items():
            row["ratio"] = row["median"] / bare["ONNX" if name.startswith("ONNX") else "torch"]
            print(f"  {name:28} {row['median']:8.3f}   ({row['ratio']:.2f})", flush=True)
        report[f"one image of {px} px, ms"] = timed
    if not args.quick:
        RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def time_in_turns(variants: Variants, rounds: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each variant, after three warm-up rounds."""
    measured = []
    for _ in range(rounds + 3):
        milliseconds = {}
        for name, variant in variants.items():
            start = perf_counter()
            variant()
            milliseconds[name] = 1000 * (perf_counter() - start)
        measured.append(milliseconds)
    return summary(measured[3:])


def variants_of(px: int, threads: int) -> Variants:
    torch.manual_seed(0)
    module = torchvision.models.resnet18(weights=None, num_classes=N_CLASSES).eval()
    X = np.random.default_rng(0).random((8 * N_CLASSES, 3, px, px), dtype=np.float32)
    item, tensor = X[:1], torch.from_numpy(X[:1])
    variants: Variants = {
        "torch, network alone": in_inference_mode(module, tensor),
        "ONNX, network alone": in_onnxruntime(network_as_onnx(module, tensor), item, threads),
    }
    for name, detector in fitted(module, X).items():
        variants[f"torch, {name}.score_samples"] = scorer(detector, item)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "detector.pt2"
            skood.export(detector, path, X[:2], format="torch")
            program = torch.export.load(path).module()
            variants[f"torch, {name} exported"] = in_inference_mode(program, tensor)
            skood.export(detector, path, X[:2], format="onnx")
            variants[f"ONNX, {name} exported"] = in_onnxruntime(path.read_bytes(), item, threads)
    return variants


def fitted(module: nn.Module, X: np.ndarray) -> dict[str, skood.base.BaseDetector]:
    data, y = skood.share_forward_pass(X), np.arange(len(X)) % N_CLASSES
    knn = skood.KNN(module, n_neighbors=N_NEIGHBORS).fit(data)
    # The bank of a large training set, without a pass over its images.
    bank = np.random.default_rng(1).random((N_BANK, N_FEATURES), dtype=np.float32)
    saved = skood.KNN(n_neighbors=N_NEIGHBORS).fit_outputs(features=bank)
    vars(knn).update({k: v for k, v in vars(saved).items() if k not in saved.get_params()})
    return {
        "Energy": skood.Energy(module).fit(data),
        "KNN": knn,
        "Mahalanobis": skood.Mahalanobis(module).fit(data, y),
        # Fewer components than images, so that the images have a residual.
        "ViM": skood.ViM(module, n_components=40).fit(data),
    }


def in_inference_mode(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            module(x)

    return run


def network_as_onnx(module: nn.Module, x: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.onnx.export(module, (x,), file, dynamo=True, external_data=False, verbose=False)
    return file.getvalue()


def in_onnxruntime(model: bytes, item: np.ndarray, threads: int) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait actively would slow down the variants of torch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: item})


def scorer(detector: skood.base.BaseDetector, X: np.ndarray) -> Callable[[], object]:
    return lambda: detector.score_samples(X)


if __name__ == "__main__":
    main()
