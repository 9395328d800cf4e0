"""Random numbers that neither read nor change the global state of numpy and torch."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.utils import check_random_state

from skood._torch.threads import Turns

__all__ = [
    "Stream",
    "draw_seed",
    "isolated_rng",
    "numpy_rng",
    "released_rng",
    "seed_global",
    "torch_rng",
]


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
    STREAMED_ROWS = 22
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
    PAIR_MIXTURE = 73
    # Detectors on a classifier.
    TEMPERATURE_ROWS = 40
    BANK = 41
    SHIFT_ROWS = 42
    GRAM_VALIDATION_ROWS = 43
    COVERAGE_ROWS = 44
    DROPOUT_MASKS = 45
    ENSEMBLE_MEMBERS = 46
    FOURIER_FEATURES = 47
    NEGATIVE_GROUPS = 48
    SUPERCLASSES = 49
    # Detectors that train their own classifier.
    SAMPLER = 50
    TRAINING_OFF_MANIFOLD = 51
    HELD_OUT_OFF_MANIFOLD = 52
    HELD_OUT_ON_MANIFOLD = 53
    TRAINING_OUTLIERS = 54
    UNCERTAINTY = 55
    DECODER = 56
    # Detectors that wrap detectors.
    CALIBRATION_ROWS = 60
    FOLDS = 61
    REFERENCE_HALF = 62
    VALIDATION_OUTLIERS = 63
    DRIFT = 64
    # Comparison of detectors.
    RECOMMENDATION_ROWS = 90
    RECOMMENDATION_OUTLIERS = 91
    RECOMMENDATION_RESAMPLES = 92


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

    For code that can draw only from the global generator: layer initialisation, dropout. Other
    threads wait for the end of the block, or for :func:`released_rng`.
    """
    global _n_threads
    with _drawing:
        outermost = _drawing.depth == 1
        before = _states(device)
        if outermost:
            for kind, state in before.items():
                _outside.setdefault(kind, state)
            _n_threads += 1
        try:
            seed_global(device, *seed)
            yield
        finally:
            if not outermost:
                _restore(before)
            else:
                _n_threads -= 1
                if not _n_threads:
                    _restore(_outside)
                    _outside.clear()


@contextlib.contextmanager
def released_rng(device: torch.device) -> Iterator[None]:
    """Let other threads draw from torch's global generators, in a block inside `isolated_rng`.

    Outside of `isolated_rng`, it does nothing.
    """
    if not _drawing.is_held:
        yield
        return
    states = _states(device)
    try:
        with _drawing.released():
            yield
    finally:
        _restore(states)


# Held by the thread that draws from torch's global generators.
_drawing = Turns()
# Number of threads inside `isolated_rng`, and the states from before the first of them.
_n_threads = 0
_outside: dict[torch.device, torch.Tensor] = {}


def _states(device: torch.device) -> dict[torch.device, torch.Tensor]:
    states = {torch.device("cpu"): torch.get_rng_state()}
    if device.type == "cuda":
        states[device] = torch.cuda.get_rng_state(device)
    return states


def _restore(states: dict[torch.device, torch.Tensor]) -> None:
    for device, state in states.items():
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
