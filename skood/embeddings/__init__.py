"""Extractors: transformers from images, texts and sounds to features of trained networks."""

from skood.embeddings._audio import AudioExtractor
from skood.embeddings._base import Extractor
from skood.embeddings._huggingface import clip_pair, from_huggingface
from skood.embeddings._images import ImageExtractor
from skood.embeddings._layers import LayerAverage
from skood.embeddings._texts import TextExtractor
from skood.embeddings._vision import from_timm, from_torchvision

__all__ = [
    "AudioExtractor",
    "Extractor",
    "ImageExtractor",
    "LayerAverage",
    "TextExtractor",
    "clip_pair",
    "from_huggingface",
    "from_timm",
    "from_torchvision",
]
