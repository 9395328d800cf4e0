"""Sets, networks and schedules of ``vmdls.py``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from skood import ConvNet, DenseNet, MNISTConvNet
from skood.classifiers import multi_step

__all__ = ["PRESETS", "SETTINGS", "Preset", "Setting"]


@dataclass(frozen=True)
class Setting:
    """An ID set, its OOD test sets and its training outliers."""

    base: str
    classes: tuple[int, ...]
    ood: tuple[str, ...]
    # The set for methods that train on outliers.
    outliers: str


ALL = tuple(range(10))
GREY = ("omniglot", "mnist + noise", "noise")
COLOUR = ("tinyimagenet_crop", "tinyimagenet_resize", "svhn")
SETTINGS = {
    "mnist": Setting("mnist", ALL, GREY, "notmnist"),
    "mnist_0_5": Setting("mnist", ALL[:6], ("held-out classes", *GREY), "notmnist"),
    "cifar10": Setting("cifar10", ALL, COLOUR, "cifar100"),
    "cifar10_0_5": Setting("cifar10", ALL[:6], ("held-out classes", *COLOUR), "cifar100"),
}


@dataclass(frozen=True)
class Preset:
    """Settings of the networks and of their training."""

    # None: the network is given by --backbone.
    backbone: Any
    one_class: Any
    # Parameters of VMDLS.
    vmdls: dict[str, Any]
    n_members: int
    autoencoder: dict[str, Any]
    # Outliers per inlier, for methods that train on outliers.
    outlier_ratio: float
    # Random images drawn from each OOD set; None takes all.
    n_ood: int | None = None
    n_training: int | None = None
    n_test: int | None = None
    # Parameters of a class given by --backbone, then of backbone and VMDLS in its fine-tuning.
    trained_backbone: dict[str, Any] = field(default_factory=dict)
    tuned_backbone: dict[str, Any] = field(default_factory=dict)
    tuned_vmdls: dict[str, Any] = field(default_factory=dict)

    def unused(self, *, fine_tunes: bool) -> set[str]:
        """Return the names of the settings that a run with or without --backbone ignores."""
        if fine_tunes:
            return {"backbone", "one_class", "vmdls", "n_members", "outlier_ratio"}
        return {"trained_backbone", "tuned_backbone", "tuned_vmdls"}


def every(step: int, max_epochs: int) -> tuple[tuple[float, float], ...]:
    """Divide the learning rate by 10 every `step` epochs, as torch's StepLR does."""
    return multi_step(range(step, max_epochs, step), max_epochs)


def adam(n_filters: tuple[int, ...], max_epochs: int, **settings: Any) -> ConvNet:
    settings = {"learning_rate": 1e-3, "weight_decay": 1e-4, "lr_schedule": "cosine", **settings}
    return ConvNet(n_filters, max_epochs=max_epochs, optimizer="adam", **settings)


def authors(max_epochs: int, step: int, **settings: Any) -> MNISTConvNet:
    """Return the authors' network for MNIST, with their augmentation and schedule."""
    return MNISTConvNet(
        max_epochs=max_epochs,
        lr_schedule=every(step, max_epochs),
        augmentation=("rotate", "resized_crop"),
        **settings,
    )


def tuned(max_epochs: int, step: int) -> dict[str, Any]:
    """Return the backbone's parameters in the authors' fine-tuning."""
    return {
        "max_epochs": max_epochs,
        "optimizer": "sgd",
        "momentum": 0.9,
        "learning_rate": 0.001,
        "weight_decay": 1e-4,
        "lr_schedule": every(step, max_epochs),
        "lookahead": None,
    }


AUTOENCODER = {"n_latent": 32, "learning_rate": 1e-4, "batch_size": 256}
# The authors train for 500 epochs, the heads of a trained network for the first 20.
PUBLISHED_FINE_TUNING = {
    "tuned_backbone": tuned(500, 100),
    "tuned_vmdls": {
        "n_head_epochs": 20,
        "head_learning_rate": 0.01,
        "margin_start_epoch": 40,
        "kl_start_epoch": 0,
        "n_samples_per_batch": 20,
    },
}
# Margin of a training of few epochs. With a margin of 32, which grows by 8 per epoch, fewer
# held-out digits were nearest to the mean of their class: 88.5 instead of 96.6 % after six epochs
# of about 67 steps, and 96.3 instead of 97.2 % after fine-tuning (32 filters, 14 x 14 pixels).
SMALL_MARGIN = {"margin": 8.0, "margin_step": 2.0}
SHORT_FINE_TUNING = {
    "tuned_backbone": tuned(8, 6),
    "tuned_vmdls": {
        "n_head_epochs": 2,
        "head_learning_rate": 0.01,
        "n_samples_per_batch": 20,
        **SMALL_MARGIN,
    },
}
SMALL = adam((16, 32, 64), 4)
PRESETS = {
    # A small network, for all methods within half an hour on two cores.
    ("mnist", "quick"): Preset(
        backbone=SMALL,
        one_class=SMALL,
        vmdls={"margin_step": 8.0, "n_samples_per_batch": 8},
        n_members=2,
        autoencoder={"max_epochs": 3},
        outlier_ratio=1.0,
        n_ood=4000,
        **SHORT_FINE_TUNING,
    ),
    # The authors' network, for a few epochs.
    ("mnist", "short"): Preset(
        backbone=authors(6, 4, learning_rate=1e-3),
        one_class=authors(6, 4, learning_rate=1e-3),
        vmdls={"n_samples_per_batch": 16, **SMALL_MARGIN},
        n_members=2,
        autoencoder={"max_epochs": 3},
        outlier_ratio=1.0,
        n_ood=4000,
        **SHORT_FINE_TUNING,
    ),
    ("mnist", "paper"): Preset(
        backbone=authors(500, 100),
        one_class=authors(500, 100),
        vmdls={"margin_start_epoch": 1, "kl_start_epoch": 0, "n_samples_per_batch": 16},
        n_members=5,
        autoencoder={**AUTOENCODER, "max_epochs": 50},
        outlier_ratio=2.0,
        **PUBLISHED_FINE_TUNING,
    ),
    ("cifar10", "short"): Preset(
        backbone=None,
        one_class=None,
        vmdls={},
        n_members=2,
        autoencoder={"max_epochs": 5},
        outlier_ratio=1.0,
        **SHORT_FINE_TUNING,
    ),
    ("cifar10", "paper"): Preset(
        backbone=DenseNet(max_epochs=500, weight_decay=1e-4, lr_schedule=every(100, 500)),
        one_class=adam((32, 64, 128), 100, learning_rate=1e-4),
        vmdls={"margin_start_epoch": 30, "kl_start_epoch": 0, "n_samples_per_batch": 8},
        n_members=5,
        autoencoder={**AUTOENCODER, "max_epochs": 100},
        outlier_ratio=2.0,
        **PUBLISHED_FINE_TUNING,
    ),
}
# To check that the script runs.
PRESETS |= {
    (base, "smoke"): replace(
        PRESETS["mnist", "quick"],
        backbone=adam((4, 8), 1),
        one_class=adam((4, 8), 1),
        autoencoder={"max_epochs": 1, "n_filters": (4, 8)},
        n_training=600,
        n_test=200,
        n_ood=200,
        trained_backbone={"max_epochs": 1},
        tuned_backbone=tuned(3, 2),
        tuned_vmdls={**SHORT_FINE_TUNING["tuned_vmdls"], "n_head_epochs": 1},
    )
    for base in ("mnist", "cifar10")
}
