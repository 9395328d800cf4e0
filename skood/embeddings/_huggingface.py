"""Extractors from the networks of transformers, and pairs of towers that share a space."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import torch
from torch import nn

from skood._optional import import_optional
from skood.embeddings._audio import AudioExtractor
from skood.embeddings._base import Extractor
from skood.embeddings._headless import Tower
from skood.embeddings._images import ImageExtractor
from skood.embeddings._texts import TextExtractor
from skood.embeddings._vision import placed

__all__ = ["clip_pair", "from_huggingface"]

_KINDS = {"pixel_values": "image", "input_ids": "text", "input_values": "audio"}
_KINDS |= {"input_features": "audio"}
_PROCESSORS = {
    "image": "AutoImageProcessor",
    "text": "AutoTokenizer",
    "audio": "AutoFeatureExtractor",
}
# Attributes of a processor that combines several.
_PARTS = {"image": "image_processor", "text": "tokenizer", "audio": "feature_extractor"}
# Parts of a network that only one tower needs.
_OF_TOWER = {
    "image": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
    "audio": ("audio_model", "audio_projection"),
}
# What identifies a download, for the network and its processor alike.
_SHARED = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")
# Networks whose texts were all padded to one length in training.
_PADDED = ("siglip",)


def from_huggingface(
    model: str | PathLike | nn.Module,
    *,
    kind: str | None = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Extractor:
    """Make an extractor of images, texts or sounds of a network of transformers.

    Parameters
    ----------
    model : str, PathLike or Module
        A name on the Hugging Face Hub, a folder of ``save_pretrained``, or a network of
        transformers. A head for a task is left out; of an encoder and a decoder, the encoder is
        used.
    kind : {"image", "text", "audio"} or None, default=None
        What the network reads. None: what its main input is. Networks with two towers need it.
    processor : object, default=None
        Image processor, tokenizer or feature extractor. None: the network's own, from the same
        name or folder; a network that is given needs it.
    device : str or torch.device, default=None
        Where the network computes. None: a GPU if there is one; a network that is given stays on
        its device.
    settings : mapping, default=None
        Further arguments of ``from_pretrained``, such as ``revision`` or ``local_files_only``.
    **options : dict
        Parameters of :class:`ImageExtractor`, :class:`TextExtractor` or :class:`AudioExtractor`.

    Returns
    -------
    ImageExtractor, TextExtractor or AudioExtractor

    Raises
    ------
    ImportError
        If transformers is not installed.
    ValueError
        If the kind of the items or the processor is unknown, or if weights are missing in the
        folder.

    Examples
    --------
    >>> from skood.embeddings import from_huggingface
    >>> texts = from_huggingface("bert-base-uncased", pooling="cls")  # doctest: +SKIP
    >>> images = from_huggingface("facebook/dinov2-small", pooling="mean")  # doctest: +SKIP
    """
    network, untrained = _loaded(model, settings)
    kind = _kind_of(network, kind)
    if processor is None:
        processor = _processor_of(model, kind, settings)
    processor = _part(processor, kind)
    name = model if isinstance(model, str) else type(network).__name__
    given = isinstance(model, nn.Module)
    if hasattr(network, f"get_{kind}_features"):
        return _tower(network, kind, processor, device, given, str(name), options)
    if hasattr(network, "get_encoder") and getattr(network.config, "is_encoder_decoder", False):
        network = network.get_encoder()
    module = placed(network, device, given)
    if untrained and options.get("pooling", "mean" if kind != "image" else None) is None:
        raise ValueError(
            f"the weights of {untrained[:3]} are not in {name}, and would be random, so that the "
            "network has no vector of its own; give pooling='cls' or 'mean'"
        )
    return _extractor(kind, module, processor, options)


def clip_pair(
    model: str | PathLike | nn.Module,
    *,
    processor: Any = None,
    device: str | torch.device | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[ImageExtractor, TextExtractor]:
    """Make the image tower and the text tower of CLIP, SigLIP or a network of the same form.

    Both return vectors of length 1 in one space: the product of an image's and a text's vector is
    their cosine.

    Parameters
    ----------
    model : str, PathLike or Module
        A name on the Hugging Face Hub, a folder of ``save_pretrained``, or a network of
        transformers with ``get_image_features`` and ``get_text_features``.
    processor : object, default=None
        The processor of both. None: the network's own, from the same name or folder; a network
        that is given needs it.
    device : str or torch.device, default=None
        Where the network computes. None: a GPU if there is one; a network that is given stays on
        its device.
    settings : mapping, default=None
        Further arguments of ``from_pretrained``, such as ``revision`` or ``local_files_only``.
    **options : dict
        Parameters of both extractors: ``dtype``, ``batch_size``, ``memory``, ...

    Returns
    -------
    images : ImageExtractor
    texts : TextExtractor

    Examples
    --------
    >>> from skood.embeddings import clip_pair
    >>> images, texts = clip_pair("openai/clip-vit-base-patch32")  # doctest: +SKIP
    >>> cosines = images.transform(photos) @ texts.transform(names).T  # doctest: +SKIP
    """
    network, _ = _loaded(model, settings)
    if not (hasattr(network, "get_image_features") and hasattr(network, "get_text_features")):
        raise ValueError(
            f"{type(network).__name__} has no image tower and text tower (get_image_features and "
            "get_text_features); use from_huggingface for a network of one kind"
        )
    name = str(model) if isinstance(model, (str, PathLike)) else type(network).__name__
    given = isinstance(model, nn.Module)
    towers = []
    for kind in ("image", "text"):
        part = _processor_of(model, kind, settings) if processor is None else processor
        made = _tower(network, kind, _part(part, kind), device, given, name, dict(options))
        towers.append(made)
    images, texts = towers
    assert isinstance(images, ImageExtractor)
    assert isinstance(texts, TextExtractor)
    return images, texts


def _loaded(model: Any, settings: Mapping[str, Any] | None) -> tuple[Any, list[str]]:
    """Return a network without a head for a task, and the names of weights that were missing."""
    transformers = import_optional("transformers", "from_huggingface", "transformers")
    if isinstance(model, nn.Module):
        if settings:
            raise ValueError(
                f"settings={dict(settings)!r} are arguments of from_pretrained, but a network was "
                "given"
            )
        return getattr(model, "base_model", model), []
    network, info = transformers.AutoModel.from_pretrained(
        fspath(model), output_loading_info=True, **dict(settings or {})
    )
    missing = sorted(info["missing_keys"])
    untrained = [name for name in missing if "pooler." in name]
    if untrained != missing:
        others = [name for name in missing if name not in untrained]
        raise ValueError(
            f"{fspath(model)} lacks {len(others)} weights of {type(network).__name__}, for example "
            f"{others[:3]}, which would be random; give a folder or name with all weights"
        )
    return network, untrained


def _kind_of(network: Any, kind: str | None) -> str:
    if kind is None:
        towers = [k for k in _PROCESSORS if hasattr(network, f"get_{k}_features")]
        kind = _KINDS.get(getattr(network, "main_input_name", ""))
        if len(towers) > 1:
            raise ValueError(
                f"{type(network).__name__} reads {' and '.join(towers)}; give "
                f"kind={towers[0]!r} or kind={towers[1]!r}, or use clip_pair for both towers"
            )
    if kind not in _PROCESSORS:
        raise ValueError(
            f"kind={kind!r}, and what {type(network).__name__} reads is not known otherwise; "
            "expected kind='image', 'text' or 'audio'"
        )
    return kind


def _processor_of(model: Any, kind: str, settings: Mapping[str, Any] | None) -> Any:
    if isinstance(model, nn.Module):
        raise ValueError(
            f"the preprocessing of a network that is given is unknown; give processor=, its "
            f"{_PARTS[kind].replace('_', ' ')}, for example from "
            f"transformers.{_PROCESSORS[kind]}.from_pretrained"
        )
    transformers = import_optional("transformers", "from_huggingface", "transformers")
    shared = {k: v for k, v in dict(settings or {}).items() if k in _SHARED}
    return getattr(transformers, _PROCESSORS[kind]).from_pretrained(fspath(model), **shared)


def _part(processor: Any, kind: str) -> Any:
    """Return the part of a combined processor for items of one kind."""
    return getattr(processor, _PARTS[kind], None) or processor


def _tower(
    network: Any,
    kind: str,
    processor: Any,
    device: str | torch.device | None,
    given: bool,
    name: str,
    options: dict[str, Any],
) -> Extractor:
    """Return the extractor of one tower, which shares its weights with the network."""
    one = copy.copy(network)
    others = {part for k, parts in _OF_TOWER.items() if k != kind for part in parts}
    one._modules = {k: v for k, v in network._modules.items() if k not in others}
    options = {"pooling": None, "normalize": True, **options}
    if kind != "audio":
        options["space"] = name
    is_padded = any(word in str(network.config.model_type) for word in _PADDED)
    if kind == "text" and is_padded:
        options = {"padding": "max_length", **options}
    return _extractor(kind, placed(Tower(one, kind), device, given), processor, options)


def _extractor(kind: str, module: nn.Module, processor: Any, options: dict[str, Any]) -> Extractor:
    if kind == "image":
        return ImageExtractor(module, processor, **options)
    if kind == "text":
        return TextExtractor(module, processor, **options)
    if "sampling_rate" not in options:
        rate = getattr(processor, "sampling_rate", "the samples of X in a second")
        raise ValueError(
            f"give sampling_rate=, the samples of X in a second; the network expects {rate}"
        )
    return AudioExtractor(module, processor, options.pop("sampling_rate"), **options)
