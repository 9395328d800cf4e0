"""CIFAR-10 and its OOD sets: the classifier, the test images, and the measurements."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
from _images import labelled_images
from sklearn.base import clone

from skood.classifiers import NeuralClassifier
from skood.metrics import aupr_in, aupr_out, auroc, detection_error, fpr_at_tpr

__all__ = ["OOD_SETS", "accuracy_of_six_views", "measure", "test_sets", "train_network"]

# The OOD sets, and their names in tables.
OOD_SETS = {
    "svhn": "SVHN",
    "cifar100": "CIFAR-100",
    "tinyimagenet_crop": "TinyImageNet, crops",
    "tinyimagenet_resize": "TinyImageNet, resized",
    "gaussian": "Gaussian noise",
    "uniform": "uniform noise",
}
# A finished training is read in less time.
SECONDS_TO_READ = 30.0
METRICS = {
    "auroc": auroc,
    "fpr95": fpr_at_tpr,
    "aupr_in": aupr_in,
    "aupr_out": aupr_out,
    "detection_error": detection_error,
}


def train_network(
    name: str,
    architecture: NeuralClassifier,
    images: np.ndarray,
    labels: np.ndarray,
    seed: int,
    work: Path,
) -> tuple[NeuralClassifier, float]:
    """Train a network, or read the finished training from `work`.

    Returns
    -------
    network : NeuralClassifier
    seconds : float
        Duration of the training, with all interrupted parts.
    """
    network = clone(architecture).set_params(random_state=seed, checkpoint_dir=work, verbose=1)
    start = perf_counter()
    network.fit(images, labels)
    seconds = perf_counter() - start
    path = work / f"{name}-{seed}-seconds.txt"
    if path.exists():
        trained_before = float(path.read_text())
        seconds = trained_before + (seconds if seconds > SECONDS_TO_READ else 0)
    path.write_text(str(seconds))
    return network.set_params(verbose=0), seconds


def accuracy_of_six_views(
    network: NeuralClassifier, images: np.ndarray, labels: np.ndarray
) -> float:
    """Compute the accuracy of the mean logits of six views, as Jordan (2024) reports it.

    The views are an image and its mirror image, with half the weight, and both of them shifted by
    a pixel up and left, and down and right, over mirrored borders.
    """
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    height, width = images.shape[1:3]
    logits = 0.0
    for start, weight in ((1, 0.5), (0, 0.25), (2, 0.25)):
        view = padded[:, start : start + height, start : start + width]
        for copy in (view, view[:, :, ::-1]):
            logits = logits + weight / 2 * network.decision_function(copy)
    return float(np.mean(network.classes_[np.argmax(logits, axis=1)] == labels))


def test_sets(data: Path, n_test: int, seed: int) -> dict[str, np.ndarray]:
    """Return at most `n_test` random test images of CIFAR-10 and of every OOD set."""
    rng = np.random.default_rng(seed)
    sets = {}
    for name in ("cifar10", *OOD_SETS):
        images, _ = labelled_images(data, name)
        sets[name] = images[np.sort(rng.permutation(len(images))[:n_test])]
    return sets


def measure(inliers: np.ndarray, outliers: np.ndarray) -> dict[str, float]:
    """Compute every metric; in-distribution images are the positive class."""
    y = np.repeat([1, -1], [len(inliers), len(outliers)])
    scores = np.concatenate([inliers, outliers])
    return {name: metric(y, scores) for name, metric in METRICS.items()}
