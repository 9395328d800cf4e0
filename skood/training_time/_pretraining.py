"""Autoencoder pre-training of one-class networks: the network is the encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import joblib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._models import cached_call
from skood._torch.run import kept_unless_interrupted, n_interrupted
from skood._torch.seeding import Stream, isolated_rng
from skood.classifiers import NeuralClassifier
from skood.classifiers._network_classifier import last_linear
from skood.classifiers._objective import ClassifierObjective, Task
from skood.training_time._decoder import MirroredDecoder

__all__ = ["AutoencoderObjective", "batches_of_all", "pretrain", "remove_biases", "with_outliers"]


def pretrain(
    model: NeuralClassifier,
    data: CheckedData,
    y: npt.NDArray | None,
    outliers: CheckedData | Callable[[CheckedData], CheckedData] | None,
    *,
    n_latent: int,
    seed: int,
    memory: str | joblib.Memory | None,
) -> tuple[dict[str, list[float]], dict[str, npt.NDArray]]:
    """Train the network of an architecture as the encoder of an autoencoder.

    Parameters
    ----------
    model : NeuralClassifier
        Untrained, with the parameters of the pre-training.
    data : CheckedData
        In-distribution items. The fraction `validation_fraction` of the architecture is held out,
        the same rows as by ``fit_objective`` with the same `y` and `seed`.
    y : ndarray or None
        Labels of `data`, for the choice of the rows held out.
    outliers : CheckedData, callable or None
        Outliers as in ``fit_objective``; the autoencoder also learns them.
    n_latent : int
        Outputs of the network.
    seed : int
    memory : str, joblib.Memory or None

    Returns
    -------
    history : dict of str to list of float
    encoder : dict of str to ndarray
        Parameters and buffers of the network.
    """
    return cached_call(memory, _pretrain, model, data, y, outliers, n_latent, seed)


def _pretrain(
    model: NeuralClassifier,
    data: CheckedData,
    y: npt.NDArray | None,
    outliers: CheckedData | Callable[[CheckedData], CheckedData] | None,
    n_latent: int,
    seed: int,
) -> tuple[dict[str, list[float]], dict[str, npt.NDArray]]:
    before = n_interrupted()
    model.fit_objective(
        data,
        y,
        AutoencoderObjective,
        seed=seed,
        outliers=outliers,
        n_outputs=lambda n_classes: n_latent,
        depends_on=("autoencoder", outliers, n_latent, seed),
    )
    state = model.module_.state_dict()
    encoder = {name: tensor.cpu().numpy() for name, tensor in state.items()}
    return kept_unless_interrupted((model.history_, encoder), before)


class AutoencoderObjective(ClassifierObjective):
    """Mean squared error of the reconstruction of an item.

    Images are reconstructed as pixels in [0, 1], by a decoder that ends in a sigmoid; rows as
    standardised features.
    """

    couples_rows: str | None = None

    def __init__(self, task: Task) -> None:
        everything, self.outlier_rows = with_outliers(task)
        super().__init__(everything)
        remove_biases(task.network)
        with isolated_rng(self.device, task.seed, Stream.DECODER):
            self.decoder = _decoder(task).to(self.device)
        has_range = task.classifier.value_range_ is not None
        self.activation = nn.Sigmoid() if has_range else nn.Identity()
        moments = task.classifier.normalization() if has_range else (0.0, 1.0)
        for name, moment in zip(("mean", "std"), moments, strict=True):
            value = torch.as_tensor(moment, dtype=torch.float32, device=self.device)
            self.register_buffer(name, value, persistent=False)

    def epoch_batches(
        self, rows: npt.NDArray[np.integer], batch_size: int, rng: np.random.Generator
    ) -> Sequence[npt.NDArray[np.integer]]:
        if len(self.outlier_rows):
            return batches_of_all(np.concatenate([rows, self.outlier_rows]), batch_size, rng)
        return super().epoch_batches(rows, batch_size, rng)

    def loss(self, *batch: Tensor) -> Tensor:
        x, _ = batch
        reconstructed = self.activation(self.decoder(self.network(x)).float())
        target = x * self.get_buffer("std") + self.get_buffer("mean")
        return (reconstructed - target).square().flatten(1).mean(1)


def with_outliers(task: Task) -> tuple[Task, npt.NDArray[np.integer]]:
    """Return the task with its outliers appended to its data, and the rows of the outliers.

    The class index of an outlier is 2.
    """
    n_inliers = len(task.data)
    if task.outliers is None:
        return task, np.arange(0)
    outlying = np.full(len(task.outliers), 2)
    everything = replace(
        task,
        data=CheckedData.concatenate([task.data, task.outliers]),
        class_indices=np.concatenate([task.class_indices, outlying]),
    )
    return everything, np.arange(n_inliers, n_inliers + len(outlying))


def batches_of_all(
    rows: npt.NDArray[np.integer], batch_size: int, rng: np.random.Generator
) -> Sequence[npt.NDArray[np.integer]]:
    """Divide all rows into batches of one size; the first rows fill up the last batch."""
    order = rng.permutation(rows)
    size = min(batch_size, len(order))
    n_batches = math.ceil(len(order) / size)
    return np.split(np.resize(order, n_batches * size), n_batches)


def remove_biases(network: nn.Module) -> None:
    """Remove bias terms and all parameters of batch normalisation."""
    for layer in network.modules():
        names = [name for name, _ in layer.named_parameters(recurse=False)]
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.affine = False
        else:
            names = [name for name in names if name.endswith("bias")]
        for name in names:
            setattr(layer, name, None)


def _decoder(task: Task) -> nn.Module:
    """Return the decoder of the architecture, or else the mirror image of its network."""
    item_shape = task.data.item_shape
    build = getattr(task.classifier, "_build_decoder", None)
    decoder = build and build(item_shape, last_linear(task.network).out_features)
    if decoder is None:
        decoder = MirroredDecoder(task.network, item_shape, type(task.classifier).__name__)
    is_image = len(item_shape) == 3
    return decoder.to(memory_format=torch.channels_last) if is_image else decoder
