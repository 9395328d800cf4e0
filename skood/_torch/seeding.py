"""Random numbers that neither read nor change the global state of numpy and torch."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.utils import check_random_state

__all__ = ["Stream", "draw_seed", "isolated_rng", "numpy_rng", "seed_global", "torch_rng"]


@enum.unique
class Stream(enum.IntEnum):
    """All purposes for which the package draws random numbers.

    A fit has one seed and a separate stream for every purpose: ``numpy_rng(seed, Stream.BANK)``,
    or with further integers, ``numpy_rng(seed, Stream.EPOCH_ORDER, epoch)``. A new purpose gets a
    new number; numbers are never reused.
    """

    # Training of a network; its initial weights use the seed without a stream.
    VALIDATION_ROWS = 0
    EPOCH_ORDER = 1
    STEP = 2
    STEP_LOSS = 3
    AROUND_STEPS = 4
    READING = 5
    # Samples from a density, and near the boundary of the data.
    SAMPLES = 10
    OFF_MANIFOLD = 11
    ON_MANIFOLD = 12
    SHOWN_ROWS = 13
    SHOWN_POINTS = 14
    # Every detector.
    THRESHOLD_ROWS = 20
    HELD_OUT_ROWS = 21
    # Detectors on a density.
    BACKGROUND_VALIDATION_ROWS = 30
    SYNTHETIC_OUTLIERS = 31
    MUTATIONS = 32
    DIMENSION_ROWS = 33
    DIMENSION_PROBES = 34
    LOCAL_PCA_ROWS = 35
    STATISTICS_ROWS = 36
    RECONSTRUCTION_ROWS = 37
    ADDED_NOISE = 38
    TYPICAL_ROWS = 39
    TYPICAL_BATCHES = 70
    DENSITY_MEMBERS = 71
    # Detectors on a classifier.
    TEMPERATURE_ROWS = 40
    BANK = 41
    SHIFT_ROWS = 42
    GRAM_VALIDATION_ROWS = 43
    COVERAGE_ROWS = 44
    DROPOUT_MASKS = 45
    ENSEMBLE_MEMBERS = 46
    FOURIER_FEATURES = 47
    # Detectors that train their own classifier.
    SAMPLER = 50
    TRAINING_OFF_MANIFOLD = 51
    HELD_OUT_OFF_MANIFOLD = 52
    HELD_OUT_ON_MANIFOLD = 53
    TRAINING_OUTLIERS = 54
    UNCERTAINTY = 55
    # Detectors that wrap detectors.
    CALIBRATION_ROWS = 60
    FOLDS = 61
    REFERENCE_HALF = 62
    VALIDATION_OUTLIERS = 63


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Draw the seed of one fit.

    None uses entropy of the operating system; :func:`sklearn.utils.check_random_state` would use
    numpy's global generator.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    return int(check_random_state(random_state).randint(2**31 - 1))


def numpy_rng(*seed: int) -> np.random.Generator:
    """Return a numpy generator that depends on all the integers of `seed`."""
    # numpy pads with zeros; the length distinguishes (1,) from (1, 0).
    return np.random.default_rng([len(seed), *seed])


def torch_rng(device: torch.device, *seed: int) -> torch.Generator:
    """Return a torch generator on `device` that depends on all the integers of `seed`."""
    return torch.Generator(device).manual_seed(_torch_seed(*seed))


def _torch_seed(*seed: int) -> int:
    entropy = np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0]
    return int(entropy >> np.uint64(1))


def seed_global(device: torch.device, *seed: int) -> None:
    """Seed torch's global generators of the CPU and of `device`, with all the integers of `seed`.

    :func:`torch.manual_seed` would seed the generators of all CUDA devices.
    """
    number = _torch_seed(*seed)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)


@contextlib.contextmanager
def isolated_rng(device: torch.device, *seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore them after it.

    For code that can draw only from the global generator: layer initialisation, dropout.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        seed_global(device, *seed)
        yield
