"""Transformers of images and rows, for the first steps of a Pipeline."""

from skood.preprocessing._contrast import GlobalContrastNormalization

__all__ = ["GlobalContrastNormalization"]
