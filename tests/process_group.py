"""Fits in each of two processes that torchrun starts; run as a script by test_distributed.py."""

import os
import pickle
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from skood import MLP, MSP, VMDLS, VOS, ConvNet, DeepSVDD, EnergyRegularized, LogitNorm, RegMixup
from skood._torch import distributed, run as run_module
from skood.classifiers import NeuralClassifier
from skood.density import VAE, Autoencoder, NeuralSplineFlow, PixelCNN

QUIET = {"random_state": 0, "precision": "fp32", "verbose": 0}

X, y = load_digits(return_X_y=True)
X, y = X[:300], y[:300]
IMAGES = X.reshape(-1, 8, 8)


def mlp(**params):
    # An odd number of rows in a batch: the parts of the processes differ in size.
    settings = {"max_epochs": 3, "batch_size": 65, "validation_fraction": 0.1, **QUIET}
    return MLP((16,), **{**settings, **params})


def streamed():
    return TensorDataset(torch.from_numpy(IMAGES).float()[:, None], torch.from_numpy(y))


# Fits without random numbers after the initial weights and the order of the rows.
EXACT = {
    "momentum and clipped gradients": lambda: mlp(clip_norm=0.5).fit(X, y),
    "early stopping": lambda: mlp(learning_rate=1.0, patience=1, max_epochs=9).fit(X, y),
    "streamed images": lambda: Autoencoder(
        4, n_filters=(4,), value_range=(0, 16), max_epochs=2, batch_size=50, **QUIET
    ).fit(streamed()),
    "start on the first batch, and a penalty": lambda: PixelCNN(
        n_filters=8, n_resnet=1, value_range=(0, 16), max_steps=4, reg_weight=0.1, **QUIET
    ).fit(IMAGES),
    "density of rows": lambda: NeuralSplineFlow(max_epochs=2, **QUIET).fit(X[:, 18:22]),
    "loss of a detector": lambda: LogitNorm(mlp(), random_state=0).fit(X, y).classifier_,
    "one class": lambda: DeepSVDD(mlp(), random_state=0).fit(X).backbone_,
}
NOISY = {
    "noise in the loss": lambda: VAE(4, max_epochs=5, **QUIET).fit(X),
    "noise in the batches": lambda: NeuralSplineFlow(
        max_epochs=3, mutation_rate=0.2, batch_size=64, **QUIET
    ).fit(X[:, 18:22]),
}


def refused(fit):
    """Return the message of the error."""
    try:
        fit()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None


def in_thread(fit):
    messages = []
    thread = threading.Thread(target=lambda: messages.append(refused(fit)))
    thread.start()
    thread.join()
    return messages[0]


def with_outliers(detector):
    return detector.fit(X, np.where(y == 9, -1, y))


def refusals(rank):
    small = MLP((16,), max_epochs=1, validation_fraction=0.1, **QUIET)
    return {
        "RegMixup": refused(lambda: RegMixup(small, random_state=0).fit(X, y)),
        "VOS": refused(lambda: VOS(small, random_state=0).fit(X, y)),
        "VMDLS": refused(lambda: VMDLS(small, random_state=0).fit(X, y)),
        "EnergyRegularized": refused(
            lambda: with_outliers(EnergyRegularized(small, random_state=0))
        ),
        "soft boundary": refused(
            lambda: DeepSVDD(small, objective="soft-boundary", random_state=0).fit(X)
        ),
        "batch normalisation": refused(
            lambda: ConvNet(max_epochs=1, value_range=(0, 16), **QUIET).fit(IMAGES, y)
        ),
        "small batch": refused(lambda: mlp(batch_size=1).fit(X, y)),
        "other rows": refused(lambda: mlp().fit(X[rank::2], y[rank::2])),
        "other parameters": refused(lambda: mlp(random_state=rank).fit(X, y)),
        "thread": in_thread(lambda: mlp().fit(X, y)),
    }


def late(rank):
    """Call fit in the second process a second later than in the first."""
    distributed._SECONDS_TO_WARNING = 0.5
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        time.sleep(rank)
        mlp(max_steps=1).fit(X, y)
    return [str(warning.message) for warning in caught]


def interrupted_and_resumed(rank, folder):
    """Press Ctrl-C in the second process; only the first has the folder of checkpoints."""
    network = mlp(max_epochs=4, checkpoint_dir=folder / f"rank {rank}")
    advance = run_module.TrainingRun.advance

    def press(run, losses):
        advance(run, losses)
        if rank == 1 and run.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    run_module.TrainingRun.advance = press
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network.fit(X, y)
    run_module.TrainingRun.advance = advance
    network.fit(X, y)
    uninterrupted = mlp(max_epochs=4).fit(X, y)
    return {
        "warnings": [str(warning.message) for warning in caught],
        "resumed": result(network),
        "uninterrupted": result(uninterrupted),
        "files": sorted(path.name for path in folder.glob("*/*")),
    }


def shared_scores(detector, rank, size):
    """Score a part of the rows in each process, and collect the parts in all of them."""
    parts = [None] * size
    dist.all_gather_object(parts, detector.score_samples(X[rank::size]))
    scores = np.empty(len(X))
    for first, part in enumerate(parts):
        scores[first::size] = part
    return scores


def result(model):
    weights = {name: w.numpy() for name, w in model.module_.state_dict().items()}
    return model.history_, weights


def main(folder):
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with warnings.catch_warnings(record=True) as alone:
        warnings.simplefilter("always")
        for _ in range(2):
            mlp(max_steps=1).fit(X, y)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    warnings.simplefilter("error")
    results = {name: result(fit()) for name, fit in {**EXACT, **NOISY}.items()}
    results["random seed"] = result(mlp(random_state=None).fit(X, y))
    detector = MSP(mlp(), random_state=0).fit(X, y)
    assert isinstance(pickle.loads(pickle.dumps(detector)).classifier_, NeuralClassifier)
    found = {
        "results": results,
        "alone": [str(warning.message) for warning in alone],
        "offset": detector.offset_,
        "scores": shared_scores(detector, rank, size),
        "refusals": refusals(rank),
        "late": late(rank),
        "interrupted": interrupted_and_resumed(rank, folder),
    }
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
