"""Inputs that a VAE refuses."""

import re

import numpy as np
import pytest
from tiny_models import make_vae

from skood.density import VAE


@pytest.mark.parametrize(
    ("settings", "X", "message"),
    [
        ({}, np.full((9, 3, 4), 2.5), "X has values from 2.5 to 2.5, but pixels from 0 to 1"),
        (
            {"value_range": (0, 16)},
            np.full((9, 3, 4), 17),
            "X has values from 17 to 17, but pixels from 0 to 16 are expected for int64 images",
        ),
        (
            {"likelihood": "bernoulli"},
            np.full((9, 3), -0.5),
            "X has values from -0.5 to -0.5, but pixels from 0 to 1",
        ),
        ({"likelihood": "logistic"}, np.full((9, 3), 1.5), "X has values from 1.5 to 1.5"),
        (
            {"likelihood": "bernoulli"},
            np.zeros((9, 3), dtype=np.int64),
            "pixels of dtype int64 have no range of their own: give value_range=(low, high)",
        ),
        ({}, np.zeros((9, 3, 4), dtype=bool), "pixels of dtype bool have no range of their own"),
        ({"value_range": (1, 1)}, np.zeros((9, 3, 4)), "value_range=(1, 1) must be (low, high)"),
        ({"value_range": (1, 0)}, np.zeros((9, 3)), "value_range=(1, 0) must be (low, high)"),
        (
            {"image_shape": (1, 3, 5)},
            np.zeros((9, 12)),
            "items of shape (12,) hold 12 values, which do not fill the shape (1, 3, 5)",
        ),
        ({}, np.zeros((1, 3)), "Found array with 1 sample(s)"),
        ({}, np.zeros((0, 3)), "Found array with 0 sample(s)"),
        ({}, np.full((9, 3), np.nan), "Input X contains NaN"),
        ({}, np.full((9, 3, 4), np.nan), "Input contains NaN"),
        ({}, np.full((9, 3), np.inf), "Input X contains infinity"),
        ({}, np.zeros((9, 2, 3, 4, 5)), "X has shape (9, 2, 3, 4, 5); expected rows (n, d) or"),
        ({"likelihood": "poisson"}, np.zeros((9, 3)), "The 'likelihood' parameter of VAE must be"),
        ({"bound": "exact"}, np.zeros((9, 3)), "The 'bound' parameter of VAE must be a str among"),
        ({"n_latent": 0}, np.zeros((9, 3)), "The 'n_latent' parameter of VAE must be an int in"),
        ({"n_importance_samples": 0}, np.zeros((9, 3)), "The 'n_importance_samples' parameter of"),
        ({"n_levels": 1}, np.zeros((9, 3)), "The 'n_levels' parameter of VAE must be an int in"),
        ({"optimizer": "sgd"}, np.zeros((9, 3)), "The 'optimizer' parameter of VAE must be a str"),
        ({"mutation_rate": 1.1}, np.zeros((9, 3)), "The 'mutation_rate' parameter of VAE must be"),
    ],
)
def test_what_fit_refuses(settings, X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_vae(**settings).fit(X)


each_reader = pytest.mark.parametrize("method", ["score_samples", "transform", "reconstruct"])


@each_reader
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            np.zeros((2, 4, 5), dtype=np.uint8),
            "X has items of shape (1, 4, 5), but VAE was fitted on items of shape (1, 5, 4) "
            "(images are counted as (C, H, W))",
        ),
        (
            np.zeros((2, 5, 4)),
            "X has pixels of dtype float64, but VAE was fitted on pixels from 0 to 255 (uint8 is "
            "taken as 0..255, floats as 0..1); convert X, or state one range for both with "
            "value_range=(low, high)",
        ),
        (np.zeros((2, 5, 4), dtype=np.int64), "pixels of dtype int64 have no range of their own"),
        (np.zeros((2, 20), dtype=np.uint8), "X has items of shape (20,), but VAE was fitted on"),
        (np.zeros((0, 5, 4), dtype=np.uint8), "Found array with 0 sample(s)"),
        (np.full((2, 5, 4), np.nan), "Input contains NaN"),
    ],
)
def test_what_scoring_refuses(images, method, X, message):
    vae = make_vae().fit(images)
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(vae, method)(X)


@each_reader
def test_what_scoring_of_rows_refuses(method):
    vae = make_vae().fit(np.random.default_rng(0).random((12, 4)))
    with pytest.raises(ValueError, match="X has 5 features, but VAE is expecting 4 features"):
        getattr(vae, method)(np.zeros((3, 5)))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        getattr(vae, method)(np.full((3, 4), np.nan))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "VAE(conditional=True) models p(x | y) and requires y to be passed to fit"),
        (np.zeros(23), "y has 23 labels for 24 items; expected one for each"),
        (np.linspace(0, 1, 24), "Unknown label type: continuous"),
        (np.zeros((24, 2)), "y should be a 1d array, got an array of shape (24, 2)"),
    ],
)
def test_conditional_model_wants_labels(images, y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_vae(conditional=True).fit(images, y)


def test_what_decoding_refuses(images):
    vae = make_vae().fit(images)
    for Z, message in [
        (np.zeros((3, 5)), "Z has 5 columns; expected n_latent=2"),
        (np.full((3, 2), np.nan), "Input Z contains NaN"),
        (np.zeros(2), "Expected 2D array, got 1D array instead"),
    ]:
        with pytest.raises(ValueError, match=message):
            vae.inverse_transform(Z)
    with pytest.raises(ValueError, match="n_samples=0; expected at least 1"):
        vae.sample(0)


def test_unfitted_model_says_so(images):
    for method in ("score_samples", "transform", "reconstruct", "inverse_transform", "score"):
        with pytest.raises(ValueError, match="This VAE instance is not fitted yet"):
            getattr(VAE(), method)(images)
    with pytest.raises(ValueError, match="This VAE instance is not fitted yet"):
        VAE().sample()
