"""A tower for words, and cosines in plain Python."""

import math

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin


class Letters(TransformerMixin, BaseEstimator):
    """Text tower: counts of letters, in a few random directions."""

    def __init__(self, width=3, alphabet="abcdefghijklmnopqrstuvwxyz {}"):
        self.width, self.alphabet = width, alphabet

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        assert isinstance(X, list)
        counts = np.array([[text.count(letter) for letter in self.alphabet] for text in X], float)
        return counts @ np.random.default_rng(1).normal(size=(len(self.alphabet), self.width))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )
