import math
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.utils.data import TensorDataset

from skood import MLP, ConvNet, share_forward_pass
from skood.datasets import gaussian_noise, sphere_noise, uniform_noise

CLIPPED = [gaussian_noise, uniform_noise]
SHAPES = [(7,), (6, 5), (3, 5, 6), (5, 6, 3)]
pixel_noise = pytest.mark.parametrize("make", CLIPPED)


def norms(X):
    return np.linalg.norm(np.reshape(X, (len(X), -1)).astype(np.float64), axis=1)


def data(shape, dtype=np.float32, n=20):
    values = np.random.default_rng(0).random((n, *shape))
    return (values * (255 if dtype == np.uint8 else 1)).astype(dtype)


@pixel_noise
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "high"),
    [(None, 1), ("float16", 1), (np.float32, 1), (np.float64, 1), (np.uint8, 255)],
)
def test_shape_dtype_and_range(make, shape, dtype, high):
    noise = make(200, shape, random_state=0, **({} if dtype is None else {"dtype": dtype}))
    assert noise.shape == (200, *shape)
    assert noise.dtype == np.dtype(dtype or np.float32)
    assert noise.flags.c_contiguous
    assert noise.min() == pytest.approx(0, abs=0.005 * high)
    assert noise.max() == pytest.approx(high, rel=0.005)
    assert (noise.min() >= 0) and (noise.max() <= high)


@pixel_noise
def test_rows_by_their_length(make):
    expected = make(3, (7,), random_state=0)
    np.testing.assert_array_equal(make(3, 7, random_state=0), expected)
    np.testing.assert_array_equal(make(np.int64(3), torch.Size([7]), random_state=0), expected)


@pixel_noise
def test_dtype_rounds_what_is_drawn(make):
    exact = make(40, (9, 8), dtype=np.float64, random_state=0)
    np.testing.assert_array_equal(make(40, (9, 8), random_state=0), exact.astype(np.float32))
    levels = make(40, (9, 8), dtype=np.uint8, random_state=0)
    np.testing.assert_array_equal(levels, np.rint(255 * exact).astype(np.uint8))


@pixel_noise
@pytest.mark.parametrize(
    ("value_range", "dtype"),
    [((-1, 1), np.float32), ((0.1, 0.7), np.float64), ((0, 16), np.uint8), ((-9, 9), np.int16)],
)
def test_value_range(make, value_range, dtype):
    low, high = value_range
    noise = make(500, (4, 4), value_range=value_range, dtype=dtype, random_state=0)
    assert noise.dtype == dtype
    assert (noise.min() >= low) and (noise.max() <= high)
    unit = make(500, (4, 4), dtype=np.float64, random_state=0)
    step = 0.5 if np.dtype(dtype).kind in "iu" else 1e-6
    np.testing.assert_allclose(noise, low + (high - low) * unit, atol=step)


def test_uniform_moments():
    noise = uniform_noise(2000, (10, 10), dtype=np.float64, random_state=0).ravel()
    # Five standard errors of 200 000 draws.
    assert noise.mean() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / noise.size))
    counts = np.histogram(noise, bins=10, range=(0, 1))[0] / noise.size
    np.testing.assert_allclose(counts, 0.1, atol=5 * math.sqrt(0.09 / noise.size))
    neighbours = np.corrcoef(noise[:-1], noise[1:])[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(noise.size)


@pytest.mark.parametrize(
    ("mean", "scale"), [(0.5, 1.0), (0.5, 0.1), (0.2, 0.5), (-1, 0.5)], ids=str
)
def test_gaussian_moments(mean, scale):
    noise = gaussian_noise(2000, (10, 10), mean=mean, scale=scale, random_state=0).ravel()
    black, white = norm.cdf(-mean / scale), norm.sf((1 - mean) / scale)
    for observed, expected in ((noise == 0, black), (noise == 1, white)):
        error = math.sqrt(expected * (1 - expected) / noise.size)
        assert observed.mean() == pytest.approx(expected, abs=5 * error + 1e-12)
    for point in (0.1, 0.5, 0.8):
        below = norm.cdf((point - mean) / scale)
        error = math.sqrt(below * (1 - below) / noise.size)
        assert np.mean(noise < point) == pytest.approx(below, abs=5 * error)


def test_the_published_gaussian_noise_is_black_or_white_in_six_of_ten_values():
    noise = gaussian_noise(500, (32, 32, 3), dtype=np.uint8, random_state=0)
    # Rounding adds half a level at both ends to what clipping puts there.
    expected = norm.cdf(-0.5 + 0.5 / 255)
    assert np.mean(noise == 0) == pytest.approx(expected, abs=0.002)
    assert np.mean(noise == 255) == pytest.approx(expected, abs=0.002)
    assert noise.mean() / 255 == pytest.approx(0.5, abs=0.002)
    z = np.array([-0.5, 0.5])
    # E[y^2] of y = clip(z, -1/2, 1/2) for a standard normal z.
    inside = np.diff(norm.cdf(z) - z * norm.pdf(z))[0]
    variance = inside + 2 * 0.25 * norm.cdf(-0.5)
    assert noise.std() / 255 == pytest.approx(math.sqrt(variance), abs=0.002)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sphere_norms(shape, dtype):
    X = data(shape, np.uint8 if dtype == np.uint8 else np.float64)
    X = (X * 100 if dtype == np.int32 else X).astype(dtype)
    before = X.copy()
    points = sphere_noise(X, 50, margin=0.75, random_state=0)
    np.testing.assert_array_equal(X, before)
    assert points.shape == (50, *shape)
    assert points.dtype == (np.float64 if dtype == np.float64 else np.float32)
    largest = norms(X).max() / (255 if dtype == np.uint8 else 1)
    np.testing.assert_allclose(norms(points), largest + 0.75, rtol=1e-6)


def test_sphere_defaults():
    X = np.zeros((4, 3, 2))
    X[1, 0, 0], X[2, 2, 1] = -5, 4
    points = sphere_noise(X, random_state=0)
    assert points.shape == (2000, 3, 2)
    np.testing.assert_allclose(norms(points), 7)


def test_sphere_is_uniform():
    dimension, n = 12, 20_000
    X = np.eye(dimension)[:, None].reshape(dimension, 3, 4)
    points = sphere_noise(X, n, margin=4, random_state=0).reshape(n, dimension)
    radius = 5
    variance = radius**2 / dimension
    np.testing.assert_allclose(points.mean(0), 0, atol=5 * math.sqrt(variance / n))
    covariance = points.T @ points / n
    np.testing.assert_allclose(covariance, variance * np.eye(dimension), atol=6 * variance / n**0.5)
    # E[u^4] = 3 / (D (D + 2)); a Gaussian would have 3 / D^2, a cube 1 / D^2 at most.
    fourth = np.mean((points / radius) ** 4)
    assert fourth == pytest.approx(3 / (dimension * (dimension + 2)), rel=0.02)


def test_sphere_of_three_dimensions_has_uniform_coordinates():
    """The theorem of Archimedes on the hat-box."""
    heights = sphere_noise(np.zeros((2, 3)), 20_000, margin=1, random_state=0)
    for column in heights.T:
        counts = np.histogram(column, bins=10, range=(-1, 1))[0]
        np.testing.assert_allclose(counts, 2000, atol=5 * math.sqrt(2000))


@pytest.mark.parametrize("shape", [(7,), (6, 5)], ids=str)
@pytest.mark.parametrize("convert", [torch.from_numpy, np.ndarray.tolist], ids=["tensor", "list"])
def test_sphere_of_other_types(shape, convert):
    X = data(shape, np.float64)
    expected = sphere_noise(X, 9, random_state=0)
    np.testing.assert_array_equal(sphere_noise(convert(X), 9, random_state=0), expected)


def test_sphere_of_frames():
    rows = data((7,))
    frame = pytest.importorskip("pandas").DataFrame(rows)
    expected = sphere_noise(rows, 9, random_state=0)
    np.testing.assert_array_equal(sphere_noise(frame, 9, random_state=0), expected)


def test_sphere_of_streams():
    pixels = data((5, 6, 3), np.uint8)
    dataset = TensorDataset(torch.from_numpy(pixels), torch.arange(20))
    for X in (dataset, share_forward_pass(pixels)):
        points = sphere_noise(X, 9, random_state=0)
        assert points.shape == (9, 3, 5, 6)
        np.testing.assert_allclose(norms(points), norms(pixels).max() / 255 + 2, rtol=1e-6)


def test_sphere_reads_in_chunks(monkeypatch):
    from skood.datasets import _noise

    X = data((3, 5, 6))
    # The farthest item is in neither the first nor the last of the chunks.
    X[11] += 1
    expected = sphere_noise(X, 25, random_state=0)
    for size in (1, 200, 90 * 20):
        monkeypatch.setattr(_noise, "_CHUNK", size)
        np.testing.assert_array_equal(sphere_noise(X, 25, random_state=0), expected)


@pixel_noise
def test_chunks_do_not_change_what_is_drawn(make, monkeypatch):
    from skood.datasets import _noise

    expected = make(25, (5, 6), random_state=0)
    monkeypatch.setattr(_noise, "_CHUNK", 64)
    np.testing.assert_array_equal(make(25, (5, 6), random_state=0), expected)


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [*CLIPPED, sphere_noise])
def test_memory(make):
    """In float64 all at once, these 30 000 000 values would take 240 MB."""
    if make is sphere_noise:
        X = np.zeros((100, 300_000), dtype=np.uint8)
        peak = peak_bytes(lambda: make(X, 10, random_state=0))
    else:
        peak = peak_bytes(lambda: make(100, (300, 1000), dtype=np.uint8, random_state=0))
    assert peak < 60e6


@pytest.mark.parametrize("make", [*CLIPPED, sphere_noise])
def test_seeds(make):
    def noise(random_state):
        first = (data((4, 4)), 30) if make is sphere_noise else (30, (4, 4))
        return make(*first, random_state=random_state)

    first = noise(0)
    np.testing.assert_array_equal(noise(0), first)
    np.testing.assert_array_equal(noise(np.random.RandomState(0)), first)
    assert (noise(1) != first).any()
    assert (noise(None) != noise(None)).any()
    generator = np.random.RandomState(0)
    assert (noise(generator) != noise(generator)).any()
    assert len(np.unique(first.reshape(30, -1), axis=0)) == 30


@pytest.mark.parametrize("make", [*CLIPPED, sphere_noise])
def test_global_generators_are_left_alone(make):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    of_torch = torch.get_rng_state()
    make(*((data((4, 4)), 3) if make is sphere_noise else (3, (4, 4))))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(of_torch, torch.get_rng_state())


def test_sphere_needs_minmax():
    """Estimators that check the range of pixels, as in the docstring."""
    X, y = data((6, 6)), np.arange(20) % 2
    points = sphere_noise(X, 5, random_state=0)
    settings = {"max_steps": 1, "random_state": 0}
    with pytest.raises(ValueError, match="pixels from 0 to 1 are expected"):
        ConvNet((2,), **settings).fit(X, y).predict(points)
    network = ConvNet((2,), value_range="minmax", **settings).fit(X, y)
    assert np.isfinite(network.decision_function(points)).all()
    rows = MLP((2,), **settings).fit(X.reshape(20, -1), y)
    assert np.isfinite(rows.decision_function(points.reshape(5, -1))).all()


@pixel_noise
@pytest.mark.parametrize(
    ("args", "params", "message"),
    [
        ((0, (4, 4)), {}, "n_samples=0; expected an integer of at least 1"),
        ((2.5, (4, 4)), {}, "n_samples=2.5; expected an integer"),
        ((True, (4, 4)), {}, "n_samples=True; expected an integer"),
        ((3, ()), {}, r"shape=\(\); expected the shape of one item, without n_samples"),
        ((3, (20, 3, 4, 4)), {}, r"shape=\(20, 3, 4, 4\); expected the shape of one item, wit"),
        ((3, (4, 0)), {}, r"shape=\(4, 0\); expected .* all numbers at least 1"),
        ((3, (4, 4.0)), {}, r"shape=\(4, 4.0\); expected the shape of one item"),
        ((3, None), {}, "shape=None; expected the shape of one item"),
        ((3, (4, 4)), {"dtype": bool}, "'bool'> is neither float nor integer"),
        ((3, (4, 4)), {"dtype": "complex64"}, "dtype='complex64' is neither float nor"),
        (
            (3, (4, 4)),
            {"dtype": np.int16},
            r"dtype int16 has no default range: give value_",
        ),
        ((3, (4, 4)), {"value_range": "minmax"}, r"value_range='minmax'; expected \(low, high\)"),
        ((3, (4, 4)), {"value_range": (0, 1, 2)}, r"=\(0, 1, 2\); expected \(low, high\)"),
        ((3, (4, 4)), {"value_range": (1, 1)}, r"=\(1, 1\); expected \(low, high\) with low < h"),
        ((3, (4, 4)), {"value_range": (0, np.inf)}, "expected .* both finite"),
        ((3, (4, 4)), {"value_range": (0, np.nan)}, "expected .* both finite"),
        ((3, (4, 4)), {"value_range": ("0", "1")}, "expected .* both finite"),
        (
            (3, (4, 4)),
            {"value_range": (0, 256), "dtype": np.uint8},
            r"value_range=\(0, 256\), but dtype uint8 holds values from 0 to 255",
        ),
        (
            (3, (4, 4)),
            {"value_range": (-1e5, 0), "dtype": np.float16},
            r"but dtype float16 holds values from -6.*; give another range, or a wider dtype",
        ),
        (
            (3, (4, 4)),
            {"value_range": (0, 2.5), "dtype": np.int32},
            r"value_range=\(0, 2.5\) ends between two values of dtype int32; expected whole",
        ),
        ((3, (4, 4)), {"random_state": "seed"}, "'seed' cannot be used to seed"),
    ],
)
def test_errors(make, args, params, message):
    with pytest.raises(ValueError, match=message):
        make(*args, **params)


@pixel_noise
@pytest.mark.parametrize("dtype", ["fog", torch.float32], ids=str)
def test_unknown_dtype(make, dtype):
    with pytest.raises(TypeError, match=r"dtype=.* is no dtype of numpy; expected a float or"):
        make(3, (4, 4), dtype=dtype)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mean": np.nan}, "mean=nan; expected a finite number"),
        ({"mean": "0.5"}, "mean='0.5'; expected a finite number"),
        ({"scale": np.inf}, "scale=inf; expected a finite number"),
        ({"scale": 0}, "scale=0; expected a standard deviation above 0"),
        ({"scale": -1.0}, "scale=-1.0; expected a standard deviation above 0"),
    ],
)
def test_errors_of_gaussian_noise(params, message):
    with pytest.raises(ValueError, match=message):
        gaussian_noise(3, (4, 4), **params)


@pytest.mark.parametrize(
    ("X", "params", "message"),
    [
        (data((4,)), {"n_samples": 0}, "n_samples=0; expected an integer of at least 1"),
        (data((4,)), {"margin": 0}, "margin=0; expected a finite number above 0, by which"),
        (data((4,)), {"margin": -1.0}, "margin=-1.0; expected"),
        (data((4,)), {"margin": np.inf}, "margin=inf; expected a finite number above 0"),
        (data((4,)), {"margin": "2"}, "margin='2'; expected a finite number above 0"),
        (data((2, 3, 4, 5)), {}, "X has shape"),
        (np.full((4, 4), np.nan), {}, "NaN"),
        (np.zeros((0, 4)), {}, "0 sample"),
        (np.ones(4), {}, "1D array"),
    ],
)
def test_errors_of_sphere_noise(X, params, message):
    with pytest.raises(ValueError, match=message):
        sphere_noise(X, **params)
