"""MCM and NegLabel on a small pair of an image tower and a text tower that the script trains.

    python benchmarks/concepts.py --data DIR            # adds a seed, about 10 minutes on one core
    python benchmarks/concepts.py --speed               # time of NegLabel beside its bare product
    python benchmarks/concepts.py --table               # the stored results as text

The pair is no CLIP. The image tower is a small convolutional network, the text tower the mean of
learned word vectors and a layer. Both are trained on images of CIFAR-10 and of every second class
of CIFAR-100 with the names of their classes, by a softmax over all names at a learned temperature.
In-distribution: CIFAR-10's test images and its ten names. Negative labels are chosen among the 50
names of CIFAR-100 that the pair knows. OOD: further images of these 50 classes, whose names are
among the candidates; images of the other 50 classes, whose names the pair does not know;
TinyImageNet; and SVHN. No OOD set chooses any parameter: the table has every fraction of negative
labels that was tried. The baselines read the same pair. DIR as for ``new_methods.py``, with
CIFAR-100's test images.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _images import labelled_images
from _machine import machine
from torch import nn

from skood import KNN, MCM, Energy, Mahalanobis, MaxLogit, NegLabel
from skood.functional import cosine_similarities
from skood.metrics import auroc, fpr_at_tpr

OF_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
OF_CIFAR100 = (
    "apple,aquarium fish,baby,bear,beaver,bed,bee,beetle,bicycle,bottle,bowl,boy,bridge,bus,"
    "butterfly,camel,can,castle,caterpillar,cattle,chair,chimpanzee,clock,cloud,cockroach,couch,"
    "crab,crocodile,cup,dinosaur,dolphin,elephant,flatfish,forest,fox,girl,hamster,house,kangaroo,"
    "keyboard,lamp,lawn mower,leopard,lion,lizard,lobster,man,maple tree,motorcycle,mountain,mouse,"
    "mushroom,oak tree,orange,orchid,otter,palm tree,pear,pickup truck,pine tree,plain,plate,poppy,"
    "porcupine,possum,rabbit,raccoon,ray,road,rocket,rose,sea,seal,shark,shrew,skunk,skyscraper,"
    "snail,snake,spider,squirrel,streetcar,sunflower,sweet pepper,table,tank,telephone,television,"
    "tiger,tractor,train,trout,tulip,turtle,wardrobe,whale,willow tree,wolf,woman,worm"
).split(",")
WORDS = OF_CIFAR100[::2]
WIDTH = 64
OOD = "known words", "other classes", "tinyimagenet_resize", "svhn"


class Pair(nn.Module):
    """Image tower and text tower, whose vectors have length 1."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.tokens = {t: k for k, t in enumerate(sorted({t for n in names for t in n.split()}))}
        layers: list[nn.Module] = []
        for n_in, n_out, size in ((3, 32, 5), (32, 64, 3), (64, 128, 3)):
            layers += [nn.Conv2d(n_in, n_out, size, 2, size // 2), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.images = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, WIDTH))
        self.words = nn.EmbeddingBag(len(self.tokens), WIDTH, mode="mean")
        self.texts = nn.Linear(WIDTH, WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.images(images.float() / 127.5 - 1), dim=1)

    def encode_texts(self, names: list[str]) -> torch.Tensor:
        known = [torch.tensor([self.tokens[t] for t in name.split()]) for name in names]
        starts = torch.tensor([0, *np.cumsum([len(k) for k in known])[:-1]])
        return nn.functional.normalize(self.texts(self.words(torch.cat(known), starts)), dim=1)


def trained(
    images: np.ndarray, labels: np.ndarray, names: list[str], epochs: int, seed: int
) -> Pair:
    torch.manual_seed(seed)
    pair = Pair(names)
    optimizer = torch.optim.AdamW(pair.parameters(), 2e-3, weight_decay=0.01)
    steps = epochs * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    X, y = torch.from_numpy(images), torch.from_numpy(labels)
    for epoch in range(epochs):
        order, total = torch.randperm(len(X)), 0.0
        for rows in order[: len(order) // 128 * 128].split(128):
            batch = X[rows]
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
            logits = pair.log_scale.exp() * pair.encode_images(batch) @ pair.encode_texts(names).T
            loss = nn.functional.cross_entropy(logits, y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total * 128 / len(X):.3f}", flush=True)
    return pair.eval()


def encoded(pair: Pair, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        parts = torch.from_numpy(images).split(256)
        return torch.cat([pair.encode_images(part) for part in parts]).numpy()


def read(args: argparse.Namespace, name: str, split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    images, labels = labelled_images(args.data, name, split)
    return np.ascontiguousarray(np.moveaxis(images, 3, 1)), labels


def run(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    images, labels = read(args, "cifar10", "train")
    kept = np.random.default_rng(seed).permutation(len(images))[: args.n_training]
    images, labels = images[kept], labels[kept]
    others, fine = read(args, "cifar100")
    is_known = fine % 2 == 0
    # Every second image of a class with a known name trains the pair.
    seen = np.zeros(len(fine), dtype=bool)
    for k in range(0, 100, 2):
        seen[np.flatnonzero(fine == k)[::2]] = True
    names = OF_CIFAR10 + WORDS
    start = time.perf_counter()
    pair = trained(
        np.concatenate([images, others[seen]]),
        np.concatenate([labels, 10 + fine[seen] // 2]),
        names,
        args.epochs,
        seed,
    )
    seconds = time.perf_counter() - start
    with torch.no_grad():
        texts, words = (pair.encode_texts(given).numpy() for given in (OF_CIFAR10, WORDS))
        temperature = float(1 / pair.log_scale.exp())
    test, truth = read(args, "cifar10")
    sets = {
        "known words": others[is_known & ~seen],
        "other classes": others[~is_known],
        **{name: read(args, name)[0] for name in OOD[2:]},
    }
    vectors = {name: encoded(pair, X[: args.n_test]) for name, X in {"test": test, **sets}.items()}
    training, truth = encoded(pair, images), truth[: args.n_test]
    # Functions from vectors to scores.
    scores: dict[str, Any] = {}
    for name, T in {"T = 1": 1.0, "trained T": temperature}.items():
        scores[f"MCM, {name}"] = MCM(texts, temperature=T).fit(training).score_samples
    for fraction in (0.15, 0.5, 1.0):
        for name, T in {"T = 0.01": 0.01, "trained T": temperature}.items():
            detector = NegLabel(texts, words, n_negatives=fraction, n_groups=1, temperature=T)
            label = f"NegLabel, {100 * fraction:.0f} % of the words, {name}"
            scores[label] = detector.fit(training).score_samples
    cosines = cosine_similarities(training, texts)
    for detector in (MaxLogit(), Energy(temperature=temperature)):
        detector.fit_outputs(cosines)
        scores[f"{type(detector).__name__} of the cosines"] = lambda z, d=detector: d.score_outputs(
            cosine_similarities(z, texts)
        )
    for detector in (KNN(normalize=True), Mahalanobis(normalize=True)):
        name = f"{type(detector).__name__} of the image vectors"
        scores[name] = detector.fit(training, labels).score_samples
    accuracy = (cosine_similarities(vectors["test"], texts).argmax(1) == truth).mean()
    return {
        "seed": seed,
        "seconds_of_training": seconds,
        "temperature": temperature,
        "accuracy": float(accuracy),
        "methods": {
            name: {key: areas(score(vectors["test"]), score(vectors[key])) for key in OOD}
            for name, score in scores.items()
        },
    }


def areas(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    scores = np.concatenate([inside, outside])
    truth = np.where(np.arange(len(scores)) < len(inside), 1, -1)
    return {"auroc": auroc(truth, scores), "fpr95": fpr_at_tpr(truth, scores)}


def speed() -> dict[str, Any]:
    """Time NegLabel at the size of the paper, beside the matrix product that it cannot avoid."""
    rng = np.random.default_rng(0)
    texts, words, images = (rng.normal(size=(n, 512)) for n in (1000, 10_000, 1920))
    detector = NegLabel(texts, words, n_negatives=10_000, n_groups=100, random_state=0)
    start = time.perf_counter()
    detector.fit(images)
    found = {"seconds_of_fit": time.perf_counter() - start}
    everything = np.concatenate([detector.text_embeddings_, detector.negative_embeddings_]).T
    best = {"product": np.inf, "score": np.inf, "one image": np.inf}
    for _ in range(5):
        for name, call in {
            "product": lambda: [images[i : i + 192] @ everything for i in range(0, 1920, 192)],
            "score": lambda: detector.score_samples(images),
            "one image": lambda: detector.score_samples(images[:1]),
        }.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return {
        **found,
        "milliseconds_per_image": 1e3 * best["score"] / 1920,
        "milliseconds_per_image_of_the_product": 1e3 * best["product"] / 1920,
        "milliseconds_for_one_image": 1e3 * best["one image"],
    }


def table(result: dict[str, Any]) -> str:
    runs = result["runs"]
    lines = [f"| score | {' | '.join(OOD)} |", "|---" * (1 + len(OOD)) + "|"]
    for name in runs[0]["methods"]:
        cells = []
        for key in OOD:
            rows = [one["methods"][name][key] for one in runs]
            found = [row["auroc"] for row in rows]
            rate = 100 * np.mean([row["fpr95"] for row in rows])
            spread = f" ({min(found):.3f} to {max(found):.3f})" if len(runs) > 1 else ""
            cells.append(f"{np.mean(found):.3f}{spread} / {rate:.1f} %")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    accuracy = ", ".join(f"{100 * one['accuracy']:.1f} %" for one in runs)
    return "\n".join([*lines, "", f"Accuracy: {accuracy}", f"Speed: {result.get('speed')}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--n-training", type=int, default=20_000)
    parser.add_argument("--n-test", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--speed", action="store_true", help="measure the time alone")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    args = parser.parse_args()
    path = args.out / "concepts.json"
    about = {"epochs": args.epochs, "n_training": args.n_training, "n_test": args.n_test}
    result = json.loads(path.read_text()) if path.exists() else {**about, "runs": []}
    if not args.table and {key: result[key] for key in about} != about:
        raise ValueError(f"{path} has results of other settings; give another --out")

    def store() -> None:
        result.update(machine=machine(), date=date.today().isoformat())
        path.write_text(json.dumps(result, indent=1))

    if args.speed:
        result["speed"] = speed()
        store()
    elif not args.table:
        for seed in args.seeds:
            known = [one for one in result["runs"] if one["seed"] != seed]
            result["runs"] = sorted([*known, run(args, seed)], key=lambda one: one["seed"])
            store()
    print(table(result) if result["runs"] else result.get("speed"))


if __name__ == "__main__":
    main()
