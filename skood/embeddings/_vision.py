"""Extractors of images from the networks of timm and torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from skood._optional import import_optional
from skood._torch.device import resolve_device
from skood.embeddings._headless import BeforeHead, BeforeTimmHead
from skood.embeddings._images import ImageExtractor

__all__ = ["from_timm", "from_torchvision", "placed"]

# How timm names what it pools tokens or maps with.
_POOLING_OF_TIMM = {"cls": "token", "mean": "avg", "max": "max"}


def from_timm(
    model: str | nn.Module,
    *,
    pretrained: bool = True,
    pooling: str | None = None,
    processor: Callable | None = None,
    device: str | torch.device | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> ImageExtractor:
    """Make an extractor of a network of timm, with the preprocessing of its evaluation.

    Parameters
    ----------
    model : str or Module
        A name for ``timm.create_model``, such as "resnet50.a1_in1k", "hf-hub:..." or
        "local-dir:...", or a network of timm, with or without a head.
    pretrained : bool, default=True
        Whether the published weights are loaded. "local-dir:" reads them from the folder.
    pooling : {"cls", "mean", "max"} or None, default=None
        Pooling by the network, timm's ``global_pool`` "token", "avg" or "max". None: the network's
        own.
    processor : callable, default=None
        Preprocessing of a PIL image. None: ``timm.data.create_transform`` with the data
        configuration of the network, the one for evaluation.
    device : str or torch.device, default=None
        Where the network computes. None: a GPU if there is one; a network that is given stays on
        its device.
    settings : mapping, default=None
        Further arguments of ``timm.create_model``, such as ``img_size``.
    **options : dict
        Parameters of :class:`ImageExtractor`.

    Returns
    -------
    ImageExtractor

    Raises
    ------
    ImportError
        If timm is not installed.

    Examples
    --------
    >>> from skood import KNN
    >>> from skood.embeddings import from_timm
    >>> extractor = from_timm("vit_small_patch14_dinov2.lvd142m")  # doctest: +SKIP
    >>> KNN(extractor).fit(images).predict(new_images)  # doctest: +SKIP
    """
    timm = import_optional("timm", "from_timm", "timm")
    data = import_optional("timm.data", "from_timm", "timm")
    given = isinstance(model, nn.Module)
    settings = dict(settings or {})
    network: Any = model
    if given:
        _refuse(settings, "settings", "to timm.create_model")
        _refuse(pooling, "pooling", "as global_pool= to timm.create_model")
        module = network if network.num_classes == 0 else BeforeTimmHead(network)
    else:
        if pooling is not None:
            settings["global_pool"] = _POOLING_OF_TIMM.get(pooling, pooling)
        network = module = timm.create_model(
            model, pretrained=pretrained, num_classes=0, **settings
        )
    if processor is None:
        if settings.get("in_chans", 3) != 3:
            raise ValueError(
                f"timm states no mean and standard deviation for in_chans={settings['in_chans']}; "
                "give processor=, and mode='L' for grey images"
            )
        size = settings.get("img_size")
        args = {}
        if size is not None:
            args["input_size"] = (3, size, size) if isinstance(size, int) else (3, *size)
        config = data.resolve_data_config(args, model=network)
        processor = data.create_transform(**config, is_training=False)
    return ImageExtractor(placed(module, device, given), processor, **options)


def from_torchvision(
    model: str | nn.Module,
    weights: Any = "DEFAULT",
    *,
    processor: Callable | None = None,
    device: str | torch.device | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> ImageExtractor:
    """Make an extractor of the penultimate features of a classifier of torchvision.

    Parameters
    ----------
    model : str or Module
        A name of :func:`torchvision.models.list_models`, such as "resnet50", or a classifier that
        returns the output of its last linear layer.
    weights : str, WeightsEnum or None, default="DEFAULT"
        Published weights, whose ``transforms()`` preprocess the images. None: an untrained network,
        with the preprocessing of its default weights. For a network that is given, the weights
        that it was trained with, or None with a `processor`.
    processor : callable, default=None
        Preprocessing of a PIL image. None: the preprocessing of `weights`.
    device : str or torch.device, default=None
        Where the network computes. None: a GPU if there is one; a network that is given stays on
        its device.
    settings : mapping, default=None
        Further arguments of :func:`torchvision.models.get_model`.
    **options : dict
        Parameters of :class:`ImageExtractor`.

    Returns
    -------
    ImageExtractor

    Raises
    ------
    ValueError
        If the network has no linear layer, or if its preprocessing is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from skood.embeddings import from_torchvision
    >>> extractor = from_torchvision("resnet18", weights=None)
    >>> images = [np.zeros((48, 64, 3), dtype=np.uint8), np.ones((80, 80, 3), dtype=np.uint8)]
    >>> extractor.transform(images).shape
    (2, 512)
    """
    from torchvision.models import get_model, get_model_weights

    given = isinstance(model, nn.Module)
    if given:
        _refuse(settings, "settings", "to torchvision.models.get_model")
        if isinstance(weights, str) or weights is None:
            if processor is None:
                raise ValueError(
                    "the preprocessing of a network that is given is unknown; give weights=, an "
                    "entry such as torchvision.models.ResNet50_Weights.IMAGENET1K_V2, or processor="
                )
            weights = None
    elif isinstance(weights, str):
        weights = get_model_weights(model)[weights]
    if processor is None:
        preset = get_model_weights(model)["DEFAULT"] if weights is None else weights
        processor = preset.transforms()
    network: Any = model if given else get_model(model, weights=weights, **dict(settings or {}))
    linear = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError(
            f"{type(network).__name__} has no linear layer whose input could be the features; "
            "choose them with skood.FeatureExtractor(module, output=...)"
        )
    module = BeforeHead(network, linear[-1])
    return ImageExtractor(placed(module, device, given), processor, **options)


def placed(module: nn.Module, device: str | torch.device | None, is_given: bool) -> nn.Module:
    """Move a network to a device, and put one that was made here into eval mode."""
    if not is_given:
        module.eval()
    if device is None and is_given:
        return module
    return module.to(resolve_device(device))


def _refuse(value: Any, name: str, where: str) -> None:
    if value:
        raise ValueError(
            f"{name}={value!r} applies to a network that is made from its name, but a network was "
            f"given; pass it {where}"
        )
