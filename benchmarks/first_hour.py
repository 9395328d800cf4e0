"""The README's three-line example on images, with all default parameters.

    python benchmarks/first_hour.py --data DIR
    python benchmarks/first_hour.py --data DIR --picture FILE.png   # of the first seed

``LikelihoodRatio().fit(X)`` is fitted to 10 000 images of Fashion-MNIST. The script measures
seconds, bits per dimension, and the AUROC of log p and of the likelihood ratio against MNIST and
notMNIST. The defaults were chosen without these sets (``likelihood_ratio_defaults.py``). DIR has
the same layout as for the other benchmarks.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
from _images import labelled_images
from _machine import machine

from skood import LikelihoodRatio
from skood.metrics import auroc

RESULTS = Path(__file__).parent / "results"


def measure(
    data: Path, n_training: int, n_test: int, seed: int, picture: Path | None = None
) -> dict:
    rng = np.random.default_rng(seed)

    def images(name: str, split: str, n: int) -> np.ndarray:
        found = labelled_images(data, name, split)[0]
        return found[np.sort(rng.permutation(len(found))[:n])]

    X = images("fashion_mnist", "train", n_training)
    start = perf_counter()
    detector = LikelihoodRatio(random_state=seed).fit(X)
    seconds = perf_counter() - start
    sets = {name: images(name, "test", n_test) for name in ("fashion_mnist", "mnist", "notmnist")}
    log_p = {name: detector.density_.score_samples(images) for name, images in sets.items()}
    ratio = {name: detector.score_samples(images) for name, images in sets.items()}

    def area(scores: dict[str, np.ndarray], outliers: str) -> float:
        inliers, outliers = scores["fashion_mnist"], scores[outliers]
        labels = np.repeat([1, -1], [len(inliers), len(outliers)])
        return auroc(labels, np.concatenate([inliers, outliers]))

    if picture is not None:
        draw(
            picture,
            sets,
            {
                f"log p: AUROC {area(log_p, 'mnist'):.2f}": log_p,
                f"likelihood ratio: AUROC {area(ratio, 'mnist'):.2f}": ratio,
            },
        )
    return {
        "seed": seed,
        "seconds": seconds,
        "epochs": {
            "density": len(detector.density_.history_["loss"]),
            "background": len(detector.background_.history_["loss"]),
        },
        "bits_per_dim": float(detector.density_.bits_per_dim(sets["fashion_mnist"]).mean()),
        "accepted": float((detector.predict(sets["fashion_mnist"]) == 1).mean()),
        **{
            f"{score} against {name}": area(scores, name)
            for score, scores in [("log p", log_p), ("ratio", ratio)]
            for name in ("mnist", "notmnist")
        },
    }


def draw(path: Path, sets: dict[str, np.ndarray], scores: dict[str, dict[str, np.ndarray]]) -> None:
    """Draw some clothes and digits, and the histograms of their scores by title."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from skood.inspection._palette import COLOURS

    names = {"fashion_mnist": "clothes (trained on)", "mnist": "digits (never seen)"}
    figure, axes = plt.subplots(
        1, 3, figsize=(10, 3), width_ratios=(0.75, 1, 1), layout="constrained"
    )
    tiles = [np.hstack([*images[:4].reshape(-1, 28, 28)]) for images in map(sets.get, names)]
    for row, (tile, name, colour) in enumerate(zip(tiles, names.values(), COLOURS, strict=False)):
        top = 40 * row
        axes[0].imshow(tile, cmap="gray", extent=(0, 112, top + 28, top))
        axes[0].text(0, top - 2, name, color=colour, weight="bold")
    axes[0].set(xlim=(0, 112), ylim=(69, -10))
    axes[0].axis("off")
    for axis, (title, values) in zip(axes[1:], scores.items(), strict=True):
        bins = np.histogram_bin_edges(np.concatenate([values[name] for name in names]), 50)
        for name, colour in zip(names, COLOURS, strict=False):
            axis.hist(values[name], bins, color=colour, alpha=0.7)
        axis.set(title=title, xlabel="nats (right: in-distribution)", yticks=[])
        axis.spines[["left", "top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n-training", type=int, default=10_000)
    parser.add_argument("--n-test", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "first_hour.json")
    parser.add_argument("--picture", type=Path, help="where to draw the scores of the first seed")
    args = parser.parse_args()
    report = {"date": date.today().isoformat(), "machine": machine(), "runs": []}
    for seed in args.seeds:
        picture = args.picture if seed == args.seeds[0] else None
        report["runs"].append(measure(args.data, args.n_training, args.n_test, seed, picture))
        print(json.dumps(report["runs"][-1], indent=1), flush=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
