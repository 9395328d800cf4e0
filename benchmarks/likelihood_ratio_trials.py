"""Why the quick likelihood ratio falls short of the published one: trials that change one setting.

Trains every foreground and every background listed below on Fashion-MNIST and pairs them all. Each
foreground changes one setting of "quick", which has batches of 32; the preset `quick` of
likelihood_ratio.py now has more batches, of 8:

    python benchmarks/likelihood_ratio_trials.py --data DIR
    python benchmarks/likelihood_ratio_trials.py --data DIR --only "fg quick" "bg .3, 10"
    python benchmarks/likelihood_ratio_trials.py --table     # the stored results as text

For each foreground, a background is selected by AUROC against notMNIST, the validation set of the
paper; MNIST is the test set. The trials show that notMNIST does not guide the choice for MNIST:
likelihood_ratio.py chooses by synthetic outliers instead. Densities already trained are loaded from
the --work folder, so that several processes can share the list.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from _images import labelled_images
from _machine import machine
from _names import file_name

from skood import PixelCNN
from skood.density._diffusion_network import AveragedNetwork
from skood.metrics import auroc, fpr_at_tpr

QUICK = {
    "n_resnet": 2,
    "learning_rate": 2e-3,
    "lr_schedule": "cosine",
    "batch_size": 32,
    "max_epochs": 10**6,
    "validation_fraction": 0.0,
}
N_STEPS, N_BACKGROUND_STEPS = 6500, 600

FOREGROUNDS: dict[str, dict[str, Any]] = {
    "5 blocks, 20 000 steps": {"n_resnet": 5, "max_steps": 20_000, "learning_rate": 1e-3},
    "20 000 steps": {"max_steps": 20_000},
    "quick": {},
    "no floor": {"min_scale": 1e-5},
    "floor .25": {"min_scale": 0.25},
    "grey origin": {"pixel_origin": "grey"},
    "5 blocks, same time": {"n_resnet": 5, "max_steps": 2900},
    "5 blocks": {"n_resnet": 5},
    "batch 128": {"batch_size": 128},
    "rate .0005": {"learning_rate": 5e-4},
    "rate .004": {"learning_rate": 4e-3},
    "averaged weights": {"averaged": True},
    "weight norm": {"weight_norm": True},
    "5 components": {"n_components": 5},
    "mutated .1": {"mutation_rate": 0.1},
    "penalty 1": {"reg_weight": 1.0},
}
BACKGROUNDS: dict[str, dict[str, Any]] = {
    f"{f'{rate:g}'.lstrip('0')}, {weight:g}": {"mutation_rate": rate, "reg_weight": weight}
    for rate in (0.1, 0.2, 0.3)
    for weight in (0.0, 1.0, 10.0, 100.0)
}
BACKGROUNDS |= {
    f"{name}, {n_steps} steps": {**BACKGROUNDS[name], "max_steps": n_steps}
    for n_steps in (2000, 6500)
    for name in (".1, 10", ".3, 0", ".3, 10")
}
BACKGROUNDS |= {
    f"{name}, {label}": {**BACKGROUNDS[name], **FOREGROUNDS[label]}
    for label in ("no floor", "floor .25")
    for name in (".1, 10", ".3, 100")
}
BACKGROUNDS |= {
    f"{name}, not mutated": {**BACKGROUNDS[name], "mutation_rate": 0.0}
    for name in (".1, 10", ".1, 100")
}
TRIALS = {f"fg {name}": {"max_steps": N_STEPS, **values} for name, values in FOREGROUNDS.items()}
TRIALS |= {
    f"bg {name}": {"max_steps": N_BACKGROUND_STEPS, **values}
    for name, values in BACKGROUNDS.items()
}
SETS = {
    "validation_id": ("fashion_mnist", "train"),
    "validation_ood": ("notmnist", "test"),
    "test_id": ("fashion_mnist", "test"),
    "test_ood": ("mnist", "test"),
}


class AveragedPixelCNN(PixelCNN):
    """PixelCNN that scores with an exponential moving average of its weights."""

    def _build(self, data: Any) -> Any:
        return AveragedNetwork(super()._build(data), 0.999)

    def _after_step(self, module: Any) -> None:
        module.update()


def images(args: argparse.Namespace) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the training images, and the sets to score."""
    rng = np.random.default_rng(args.seed)
    everything = labelled_images(args.data, "fashion_mnist", "train")[0]
    order = rng.permutation(len(everything))
    n_training = int(0.8 * len(everything))
    sets = {name: labelled_images(args.data, *of)[0] for name, of in SETS.items()}
    sets["validation_id"] = everything[order[n_training:]]
    return everything[order[:n_training]], {
        name: found[np.sort(rng.permutation(len(found))[: args.n_scored])]
        for name, found in sets.items()
    }


def train(args: argparse.Namespace, name: str) -> None:
    """Train a density and store its scores."""
    parameters = {**QUICK, **TRIALS[name]}
    kind = AveragedPixelCNN if parameters.pop("averaged", False) else PixelCNN
    parameters["max_steps"] = max(1, int(parameters["max_steps"] * args.share))
    X, sets = images(args)
    start = perf_counter()
    density = kind(
        **parameters, checkpoint_dir=args.work, verbose=args.verbose, random_state=args.seed
    ).fit(X)
    seconds = perf_counter() - start
    scores = {key: density.score_samples(found) for key, found in sets.items()}
    facts = {"seconds": seconds, "machine": json.dumps(machine())}
    np.savez(stored(args, name), **facts, **scores)
    print(f"{name}: {seconds:.0f} s", flush=True)


def stored(args: argparse.Namespace, name: str) -> Path:
    return args.work / f"likelihood_ratio_trial-{args.seed}-{file_name(name)}.npz"


def figures(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    truth, both = np.repeat([1, -1], [len(inside), len(outside)]), np.append(inside, outside)
    return {
        "auroc": auroc(truth, both),
        "fpr80": fpr_at_tpr(truth, both, tpr=0.8),
        "fpr95": fpr_at_tpr(truth, both, tpr=0.95),
    }


def summary(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every pair of a trained foreground and a trained background."""
    known = {}
    for name in TRIALS:
        if stored(args, name).exists():
            with np.load(stored(args, name)) as file:
                known[name] = dict(file)
    result: dict[str, Any] = {"seed": args.seed, "n_scored": args.n_scored, "share": args.share}
    result |= {"date": date.today().isoformat(), "foregrounds": {}}
    result["machine"] = json.loads(str(next(iter(known.values()))["machine"]))
    result["backgrounds"] = {
        name[3:]: {"seconds": float(scores["seconds"])}
        for name, scores in known.items()
        if name.startswith("bg")
    }
    for name, scores in known.items():
        if name.startswith("bg"):
            continue
        row: dict[str, Any] = {
            "seconds": float(scores["seconds"]),
            "bits_per_dim": float(-scores["test_id"].mean() / np.log(2) / 784),
            "log_p": figures(scores["test_id"], scores["test_ood"]),
            "ratio": {},
        }
        for other, background in known.items():
            if other.startswith("bg"):
                ratio = {key: scores[key] - background[key] for key in SETS}
                row["ratio"][other[3:]] = {
                    "validation": figures(ratio["validation_id"], ratio["validation_ood"]),
                    "test": figures(ratio["test_id"], ratio["test_ood"]),
                }
        result["foregrounds"][name[3:]] = row
    return result


def text(result: dict[str, Any]) -> str:
    """Format the foregrounds, and the backgrounds with some of them, as Markdown."""
    lines = [
        f"Seed {result['seed']}, {result['n_scored']} images of each set, "
        f"{result['machine']['gpu'].replace('none', result['machine']['cpu'])}. "
        "AUROC against MNIST; selected: the background with the highest AUROC against notMNIST",
        "",
        "| foreground | seconds | bits/dim | log p | LLR, selected | FPR80 / FPR95, % | selected "
        "| LLR, median and best of all |",
        "|---" * 8 + "|",
    ]
    for name, row in result["foregrounds"].items():
        pairs = row["ratio"]
        if not pairs:
            continue
        chosen = max(pairs, key=lambda other: pairs[other]["validation"]["auroc"])
        test = pairs[chosen]["test"]
        areas = [pair["test"]["auroc"] for pair in pairs.values()]
        lines.append(
            f"| {name} | {row['seconds']:.0f} | {row['bits_per_dim']:.3f} | "
            f"{row['log_p']['auroc']:.3f} | {test['auroc']:.3f} | "
            f"{100 * test['fpr80']:.1f} / {100 * test['fpr95']:.1f} | {chosen} | "
            f"{np.median(areas):.3f}, {max(areas):.3f} |"
        )
    names = [name for name, row in result["foregrounds"].items() if row["ratio"]]
    shown = [name for name in ("quick", "20 000 steps", "5 blocks, 20 000 steps") if name in names]
    lines += [
        "",
        f"| background | seconds | {' | '.join(f'notMNIST / MNIST, fg {n}' for n in shown)} |",
        "|---" * (2 + len(shown)) + "|",
    ]
    for name, row in result["backgrounds"].items():
        pairs = [result["foregrounds"][of]["ratio"][name] for of in shown]
        cells = [f"{p['validation']['auroc']:.3f} / {p['test']['auroc']:.3f}" for p in pairs]
        lines.append(f"| {name} | {row['seconds']:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="*", help="names of the trials to train, all by default")
    parser.add_argument(
        "--share", type=float, default=1.0, help="fraction of the steps, for a trial run"
    )
    parser.add_argument("--n-scored", type=int, default=2000, help="images per set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="for resuming")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    path = args.out / "likelihood_ratio_trials.json"
    if args.table:
        print(text(json.loads(path.read_text())))
        return
    if args.data is None:
        parser.error("--data is needed to run")
    if unknown := set(args.only or ()) - set(TRIALS):
        parser.error(f"unknown trials {sorted(unknown)}; known: {list(TRIALS)}")
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    for name in TRIALS if args.only is None else args.only:
        if not stored(args, name).exists():
            train(args, name)
    result = summary(args)
    if args.only is None:
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(text(result))


if __name__ == "__main__":
    main()
