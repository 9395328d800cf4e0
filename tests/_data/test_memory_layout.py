"""The memory layout of X changes no bit of a score, in `fit` or in scoring."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.neighbors import KernelDensity
from torch import nn

import skood
from skood._data.checked_data import CheckedData, CheckedFields
from skood._data.validation import share_forward_pass
from skood._torch.estimator import NeuralEstimator

QUICK = {"max_epochs": 1, "batch_size": 16, "random_state": 0}


def dense(n_in):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(n_in, 16), nn.ReLU(), nn.Linear(16, 3))


def convolutional(n_channels):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(n_channels, 8, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        )


def spread(X):
    """Every second value along each axis of a larger array."""
    larger = np.zeros([2 * n for n in X.shape], X.dtype)
    view = larger[(slice(None, None, 2),) * X.ndim]
    view[...] = X
    return view


def reversed_twice(X):
    """Negative strides along each axis."""
    backwards = (slice(None, None, -1),) * X.ndim
    return np.ascontiguousarray(X[backwards])[backwards]


def memory_map(X, folder, **order):
    np.save(folder / "X.npy", np.asarray(X, **order))
    return np.load(folder / "X.npy", mmap_mode="r")


def unaligned(X):
    buffer = np.zeros(X.nbytes + 1, np.uint8)
    view = buffer[1:].view(X.dtype).reshape(X.shape)
    view[...] = X
    return view


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def axes_last_to_first(X):
    """A view of an array whose axes stand in another order, as of images (n, H, W, C)."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(X, 1, -1)), -1, 1)


def layouts(X, folder):
    """Yield the same values in other layouts, with the name of each."""
    yield "Fortran order", np.asfortranarray(X)
    yield "negative strides", reversed_twice(X)
    yield "other order of axes", axes_last_to_first(X)
    yield "every second value", spread(X)
    yield "byte order", X.astype(X.dtype.newbyteorder())
    yield "read-only", read_only(X)
    yield "unaligned", unaligned(X)
    yield "memory map", memory_map(X, folder)
    yield "memory map in Fortran order", memory_map(X, folder, order="F")
    yield "tensor", torch.from_numpy(X.copy())
    yield "tensor in Fortran order", torch.from_numpy(X.T.copy()).permute(*reversed(range(X.ndim)))
    if X.ndim == 4:
        yield "channels_last", torch.from_numpy(X.copy()).to(memory_format=torch.channels_last)
    if X.ndim == 4 and X.shape[1] == 1:
        yield "new axis", X[:, 0].copy()[:, None]
        yield "tensor with a new axis", torch.from_numpy(X[:, 0].copy())[:, None]


# Layouts on which networks are trained, which takes longer.
TO_TRAIN_ON = "Fortran order", "byte order", "memory map", "tensor in Fortran order", "new axis"
rng = np.random.default_rng(0)
DATA = {
    "rows": rng.normal(size=(40, 6)),
    "rows in float32": rng.normal(size=(40, 6)).astype(np.float32),
    "grey": rng.random((40, 8, 8), np.float32),
    "grey with channel": rng.random((40, 1, 8, 8), np.float32),
    "colour": rng.random((40, 3, 8, 8), np.float32),
    "uint8": rng.integers(0, 256, (40, 3, 8, 8), np.uint8),
}
OF_ROWS = [
    skood.MSP(dense(6)),
    skood.ODIN(dense(6)),
    skood.ViM(dense(6)),
    skood.Mahalanobis(),
    skood.KNN(n_neighbors=5),
    skood.KernelPCA(random_state=0),
    skood.LogLikelihood(KernelDensity()),
    skood.MLP((8,), **QUICK),
    skood.NeuralSplineFlow(1, hidden_features=(8,), **QUICK),
]
OF_GREY = [
    skood.MSP(convolutional(1)),
    skood.Mahalanobis(convolutional(1)),
    skood.Mahalanobis(skood.FeatureExtractor(convolutional(1))),
    skood.ODIN(convolutional(1)),
    skood.LayerMahalanobis(convolutional(1)),
    skood.KNN(n_neighbors=5),
    skood.ConvNet((2,), **QUICK),
    skood.PixelCNN(4, 1, **QUICK),
]
CASES = [
    *(("rows", estimator) for estimator in OF_ROWS),
    ("rows in float32", skood.MSP(dense(6))),
    ("rows in float32", skood.KNN(n_neighbors=5)),
    ("rows in float32", skood.NeuralSplineFlow(1, hidden_features=(8,), **QUICK)),
    ("grey", skood.MSP(dense(64))),
    ("grey", skood.ConvNet((2,), **QUICK)),
    ("grey", skood.VAE(2, n_filters=(3,), hidden_features=(6,), **QUICK)),
    *(("grey with channel", estimator) for estimator in OF_GREY),
    ("colour", skood.PretrainedClassifier(convolutional(3), mean=(0.5,) * 3, std=(0.2,) * 3)),
    ("colour", skood.MSP(convolutional(3))),
    ("colour", skood.ImageFlow((1, 2), 4, 1, n_bins=4, **QUICK)),
    ("uint8", skood.MSP(convolutional(3))),
    ("uint8", skood.ConvNet((2,), **QUICK)),
    ("uint8", skood.PixelCNN(4, 1, **QUICK)),
]


def scores(fitted, X):
    method = "score_samples" if hasattr(fitted, "score_samples") else "predict_proba"
    return getattr(fitted, method)(X)


@pytest.mark.parametrize(
    ("data", "estimator"), CASES, ids=lambda v: v if isinstance(v, str) else type(v).__name__
)
def test_scores_do_not_depend_on_the_layout(data, estimator, tmp_path):
    X, y = DATA[data], np.arange(40) % 2
    fitted = clone(estimator).fit(X, y)
    expected = scores(fitted, X)
    for name, same in layouts(X, tmp_path):
        np.testing.assert_array_equal(np.asarray(same), X, err_msg=name)
        np.testing.assert_array_equal(scores(fitted, same), expected, err_msg=name)
        if not isinstance(estimator, NeuralEstimator) or name in TO_TRAIN_ON:
            again = clone(estimator).fit(same, y)
            np.testing.assert_array_equal(scores(again, X), expected, err_msg=f"fit of {name}")


@pytest.mark.parametrize("data", ["rows", "grey with channel"])
def test_repeated_rows_without_memory_of_their_own(data):
    X = DATA[data]
    module = dense(6) if data == "rows" else convolutional(1)
    for detector in (skood.MSP(module), skood.Mahalanobis(module), skood.KNN(n_neighbors=5)):
        detector.fit(X, np.arange(40) % 2)
        expected = detector.score_samples(np.repeat(X[:1], 9, 0))
        repeated = np.broadcast_to(X[:1], (9, *X.shape[1:]))
        np.testing.assert_array_equal(detector.score_samples(repeated), expected)
        tensor = torch.from_numpy(X[:1].copy()).expand(9, *X.shape[1:])
        np.testing.assert_array_equal(detector.score_samples(tensor), expected)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">i4", "<i8"])
def test_byte_order_of_every_dtype(dtype):
    X = (10 * DATA["rows"]).astype(dtype)
    native = X.astype(X.dtype.newbyteorder("="))
    module = dense(6)
    for detector in (skood.MSP(module), skood.KNN(n_neighbors=5)):
        expected = detector.fit(native, np.arange(40) % 2).score_samples(native)
        np.testing.assert_array_equal(detector.score_samples(X), expected)
        again = clone(detector).fit(X, np.arange(40) % 2)
        np.testing.assert_array_equal(again.score_samples(native), expected)
    assert share_forward_pass(X).dtype.isnative


def test_fields_are_in_c_order():
    """With the layout of the user's arrays, a network would see other strides."""
    mask = np.asfortranarray(np.ones((4, 3), ">i8"))
    data = share_forward_pass({"ids": np.arange(12).reshape(4, 3)[:, ::-1], "mask": mask})
    assert isinstance(data, CheckedFields)
    for values in data.take(np.arange(4)).values():
        assert values.flags.c_contiguous and values.dtype.isnative


def test_batches_are_copied_once():
    """Only the rows that are taken; a second copy would share no memory with the first."""
    taken = []

    def read(indices):
        taken.append(DATA["colour"][indices])
        return taken[-1]

    data = CheckedData(read, 40, (3, 8, 8), np.float32, in_memory=True)
    assert np.shares_memory(data.take(np.arange(5)), taken[0])
