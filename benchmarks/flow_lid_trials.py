"""The trials that chose how `LocalIntrinsicDimension` combines log-density and dimension.

    python benchmarks/flow_lid_trials.py --data DIR     # 2 flows; 15 minutes on a CPU core
    python benchmarks/flow_lid_trials.py --table        # the stored results as text

A flow of 14 x 14 images is trained on 6 000 images of Fashion-MNIST and of MNIST, and measured with
two estimators of the dimension, at the scale of local PCA, at the scale of half that dimension and
at r = -3. Synthetic outliers of eight kinds at two strengths choose, with test images and with
samples of the model as in-distribution data. The other sets are measured and choose nothing.

joint: the density of the pair, as in combine="joint". mixture: the density of its mixture, which
also rejects pairs that are high in both. min: the smaller rank among training pairs. The trials are
small; `flow_lid.py` showed that "joint" alone accepts MNIST at 28 x 28, and led to combine="all".
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import machine
from flow_lid import read, some
from sklearn.frozen import FrozenEstimator

from skood import ImageFlow, LocalIntrinsicDimension
from skood.datasets import model_samples, synthetic_outliers
from skood.likelihood._dimension import ConvolutionDimension, Spectrum, ThresholdDimension
from skood.likelihood._dimension_scale import scale_of_dimension
from skood.likelihood._local_pca import local_pca_dimension
from skood.likelihood._pair_scores import _standardised, fit_mixture, joint_density, ranks
from skood.metrics import auroc, dual_threshold_auroc, fpr_at_tpr

RESULTS = Path(__file__).parent / "results" / "flow_lid_trials.json"
IDS = "fashion_mnist", "mnist"
OTHERS = "mnist", "fashion_mnist", "notmnist", "omniglot"
KINDS = (
    *("mixup", "mutation", "noise", "permutation"),
    *("blur", "far_crop", "inversion", "patch_shuffle"),
)
ESTIMATORS = {"threshold": ThresholdDimension(), "convolution": ConvolutionDimension()}
SCORES = "joint", "mixture", "min"
SETTINGS = {"n_transforms": (4, 2), "n_filters": 32, "n_blocks": 1, "max_steps": 1500}


def halved(images: np.ndarray) -> np.ndarray:
    """Average blocks of 2 x 2 pixels."""
    blocks = images.astype(np.float32).reshape(len(images), 14, 2, 14, 2)
    return np.rint(blocks.mean((2, 4))).astype(np.uint8)


def spectra(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Train a flow; return log-densities and spectra of all sets, or read them from a file."""
    path = args.work / f"{name}.npz"
    if path.exists():
        return dict(np.load(path))
    train = halved(some(read(args.data, name, "train"), 6000))
    held = halved(some(read(args.data, name, "test"), 3000))
    settings: dict[str, Any] = {"compile": False, "random_state": 0, "verbose": 0}
    flow = ImageFlow(**SETTINGS, **settings).fit(train)
    sets = {"train": train[:1000], "test": held[:1000], "samples": model_samples(flow, 1000, 0)}
    for kind in KINDS:
        sets[f"syn {kind}"] = synthetic_outliers(held[1000:], kind, 250, 0)
        sets[f"half {kind}"] = synthetic_outliers(held[1000:], kind, 250, 1, strength=0.5)
    for other in OTHERS:
        if other != name:
            sets[f"ood {other}"] = halved(some(read(args.data, other, "test"), 500))
    settings = {"scale": -3.0, "n_calibration": 2, "random_state": 0, "verbose": 0}
    detector = LocalIntrinsicDimension(FrozenEstimator(flow), estimator="convolution", **settings)
    detector.fit(train)
    found: dict[str, Any] = {
        "target": local_pca_dimension(detector._check(train), rng=np.random.default_rng(0)),
        "bits": flow.bits_per_dim(held).mean(),
    }
    for key, images in sets.items():
        found[f"{key}|log_p"], *arrays = detector._map(
            detector._check(images), _log_density_and_spectrum(flow), "spectra"
        )
        found[f"{key}|eig"], found[f"{key}|w"] = arrays
    np.savez(path, **found)
    return found


def _log_density_and_spectrum(flow: ImageFlow) -> Any:
    def of_items(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z, log_prob, derivative = flow.linearize(module, x)
        return log_prob, *ConvolutionDimension().spectrum(derivative(), z)

    return of_items


def measured(found: dict[str, Any], estimator: str, scale: float | None, part: float) -> Any:
    """Measure scores at a scale, or at the scale of `part` of the target dimension."""
    keys = [key.removesuffix("|log_p") for key in found if key.endswith("|log_p")]

    def dimensions(key: str, r: float, rows: slice = slice(None)) -> np.ndarray:
        arrays = (torch.from_numpy(found[f"{key}|{name}"][rows]) for name in ("eig", "w"))
        return ESTIMATORS[estimator].dimension(Spectrum(*arrays), r).numpy()

    if scale is None:
        first = slice(256)
        target = part * float(found["target"])
        scale = scale_of_dimension(lambda r: dimensions("train", r, first), (-20, 5), target, 50)
    pairs = {key: np.stack((found[f"{key}|log_p"], dimensions(key, scale)), 1) for key in keys}
    train = pairs["train"]
    mixture = fit_mixture(train, 0)
    compute = {
        "joint": lambda pairs: joint_density(mixture, train, pairs),
        "mixture": lambda pairs: mixture.score_samples(_standardised(train, pairs)),
        "min": lambda pairs: ranks(train, pairs).min(0),
    }
    row: dict[str, Any] = {"scale": scale, "correlation": float(np.corrcoef(train.T)[0, 1])}
    for name in SCORES:
        scores = {key: compute[name](pairs[key]) for key in keys}
        threshold = np.percentile(scores["train"], 5)
        row[name] = {
            f"accepted {key}": float((scores[key] >= threshold).mean())
            for key in ("test", "samples")
        }
        for inside in ("test", "samples"):
            figures = {
                key: _figures(scores[inside], scores[key])
                for key in keys
                if key.startswith(("syn", "half", "ood"))
            }
            for group in ("syn", "half"):
                group_figures = [v for key, v in figures.items() if key.startswith(group)]
                row[name][f"{inside} {group}"] = np.mean(group_figures, 0).tolist()
            row[name] |= {f"{inside} {k}": v for k, v in figures.items() if k.startswith("ood")}
    row["oracle"] = {
        key: dual_threshold_auroc(
            _truth(pairs["test"], values), np.concatenate([pairs["test"], values])
        )
        for key, values in pairs.items()
        if key.startswith("ood")
    }
    return row


def _truth(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    return np.append(np.ones(len(inside)), np.full(len(outside), -1))


def _figures(inside: np.ndarray, outside: np.ndarray) -> list[float]:
    """AUROC and FPR95."""
    truth, scores = _truth(inside, outside), np.append(inside, outside)
    return [auroc(truth, scores), fpr_at_tpr(truth, scores)]


def text(results: dict[str, Any]) -> str:
    """Format results as Markdown: AUROC / FPR95 in %."""
    columns = [f"{inside} {group}" for inside in ("test", "samples") for group in ("syn", "half")]
    lines = [
        f"| setting | score | accepted test, samples | {' | '.join(columns)} | ood |",
        "|---" * (len(columns) + 4) + "|",
    ]
    for setting, row in results["rows"].items():
        for score in SCORES:
            figures = row[score]
            cells = [
                " / ".join((f"{figures[c][0]:.3f}", f"{100 * figures[c][1]:.0f}")) for c in columns
            ]
            ood = [
                f"{key.removeprefix('test ood ')} {auc:.3f} / {100 * fpr:.0f}"
                for key, (auc, fpr) in (item for item in figures.items() if "test ood" in item[0])
            ]
            accepted = ", ".join(f"{figures[f'accepted {k}']:.3f}" for k in ("test", "samples"))
            lines.append(
                f"| {setting} | {score} | {accepted} | {' | '.join(cells)} | {', '.join(ood)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for spectra")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to run")
        args.work.mkdir(parents=True, exist_ok=True)
        rows, bits = {}, {}
        for name in IDS:
            found = spectra(args, name)
            bits[name] = float(found["bits"])
            for estimator in ESTIMATORS:
                for label, scale, part in (
                    ("lpca", None, 1.0),
                    ("half", None, 0.5),
                    ("-3", -3.0, 0),
                ):
                    rows[f"{name}, {estimator}, {label}"] = measured(found, estimator, scale, part)
        result = {"bits_per_dim": bits, "rows": rows, "machine": machine(), "seed": 0}
        RESULTS.write_text(json.dumps(result | {"date": date.today().isoformat()}, indent=1) + "\n")
    print(text(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
