"""Feature vectors of images and of texts: training rows, test rows and OOD sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _colour import OOD_SETS, test_sets, train_network
from _docstrings import docstrings
from _images import labelled_images
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from skood import Airbench

__all__ = ["OOD_NAMES", "FeatureSets", "feature_sets"]

# Small enough for a fraction of one core.
NETWORK = Airbench((24, 64, 128), max_epochs=4)
ID_PACKAGE, OOD_PACKAGES = "torch", ("sklearn", "scipy", "numpy", "pandas", "matplotlib")
OOD_NAMES = {"images": tuple(OOD_SETS), "text": OOD_PACKAGES}
N_COMPONENTS = 128
# Fewest words of a docstring that is a text.
FEWEST_WORDS = 20


class FeatureSets(NamedTuple):
    """Rows of features, and facts about them."""

    training: np.ndarray
    test: np.ndarray
    ood: dict[str, np.ndarray]
    about: dict[str, Any]


def feature_sets(
    modality: str, n_training: int, n_test: int, seed: int, work: Path, data: Path | None
) -> FeatureSets:
    """Return at most `n_training` training rows, and at most `n_test` rows of each other set.

    They are stored in `work`, since a pass of the network takes minutes.
    """
    path = work / f"features-{modality}-{n_training}-{n_test}-{seed}.npz"
    if not path.exists():
        if modality == "text":
            stored = _of_texts(n_training, n_test, seed)
        else:
            stored = _of_images(n_training, n_test, seed, work, data)
        np.savez(path, **stored)
    with np.load(path) as sets:
        ood = {name: sets[name] for name in OOD_NAMES[modality]}
        about = {name: sets[name].item() for name in sets if not sets[name].ndim}
        return FeatureSets(sets["training"], sets["test"], ood, about)


def _of_images(
    n_training: int, n_test: int, seed: int, work: Path, data: Path | None
) -> dict[str, Any]:
    if data is None:
        raise SystemExit("--data is needed for the features of images")
    images, labels = labelled_images(data, "cifar10", "train")
    network, seconds = train_network("embeddings", NETWORK, images, labels, seed, work)
    rows = np.random.default_rng(seed).permutation(len(images))[:n_training]
    sets = {"training": images[rows], **test_sets(data, n_test, seed)}
    features = {name: network.transform(X) for name, X in sets.items()}
    features["test"] = features.pop("cifar10")
    test, y = labelled_images(data, "cifar10")
    about = {"network": repr(NETWORK), "accuracy": network.score(test, y)}
    return {**features, **about, "seconds of training": seconds}


def _of_texts(n_training: int, n_test: int, seed: int) -> dict[str, Any]:
    """Features of docstrings, each distinct text once."""
    rng = np.random.default_rng(seed)
    texts = _shuffled(docstrings(ID_PACKAGE, FEWEST_WORDS), rng)
    n_test = min(n_test, len(texts) // 5)
    test, training = texts[:n_test], texts[n_test : n_test + n_training]
    extractor = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2),
        TruncatedSVD(N_COMPONENTS, random_state=seed),
    ).fit(training)
    sets, known = {"training": training, "test": test}, set(texts)
    for name in OOD_PACKAGES:
        others = [text for text in docstrings(name, FEWEST_WORDS) if text not in known]
        sets[name] = _shuffled(others, rng)[:n_test]
    features = {name: extractor.transform(documents) for name, documents in sets.items()}
    explained = float(extractor[-1].explained_variance_ratio_.sum())
    return {**features, "texts": f"docstrings of {ID_PACKAGE}", "explained variance": explained}


def _shuffled(texts: list[str], rng: np.random.Generator) -> list[str]:
    return [texts[row] for row in rng.permutation(len(texts))]
