import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import TensorDataset

from skood.datasets import synthetic_outliers

FOR_ALL = ["mixup", "mutation", "noise", "permutation"]
FOR_IMAGES = ["blur", "far_crop", "inversion", "patch_shuffle"]
KINDS = [*FOR_ALL, *FOR_IMAGES]
SHAPES = {
    "rows": (20, 6),
    "grey": (20, 9, 8),
    "channels first": (20, 3, 8, 9),
    "channels last": (20, 8, 9, 3),
}


def make(shape, dtype, seed=0):
    values = np.random.default_rng(seed).random(shape)
    if dtype == "range":
        return 20 * values - 7
    if np.dtype(dtype).kind == "f":
        return values.astype(dtype)
    return (values * 200 + 20).astype(dtype)


def images(shape=(20, 3, 8, 8), dtype=np.float64):
    return make(shape, dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, "range"])
@pytest.mark.parametrize(
    ("kind", "layout"), [(k, s) for k in KINDS for s in SHAPES if s != "rows" or k in FOR_ALL]
)
def test_like_what_they_are_made_of(kind, layout, dtype):
    shape = SHAPES[layout]
    X = make(shape, dtype)
    before = X.copy()
    outliers = synthetic_outliers(X, kind, random_state=0)
    assert outliers.dtype == X.dtype
    assert outliers.shape == X.shape
    assert outliers.flags.c_contiguous
    assert not np.shares_memory(outliers, X)
    np.testing.assert_array_equal(X, before)
    changed = (outliers != X).reshape(len(X), -1)
    assert changed.any(1).all()
    if dtype is np.uint8:
        return
    low, high = X.min(), X.max()
    if len(shape) == 2:
        low, high = X.min(0), X.max(0)
    elif dtype in (np.float32, np.float64):
        low, high = 0, 1
    assert (outliers >= low).all()
    assert (outliers <= high).all()


@pytest.mark.parametrize("kind", [*KINDS, "all", ["blur", "noise"]])
def test_seeds(kind):
    X = images()
    first = synthetic_outliers(X, kind, random_state=0)
    np.testing.assert_array_equal(first, synthetic_outliers(X, kind, random_state=0))
    same = synthetic_outliers(X, kind, random_state=np.random.RandomState(0))
    np.testing.assert_array_equal(first, same)
    if kind not in ("blur", "inversion"):
        assert (first != synthetic_outliers(X, kind, random_state=1)).any()
        assert (first != synthetic_outliers(X, kind)).any()


def test_numpys_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    synthetic_outliers(images())
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("kind", [*KINDS, "all"])
@pytest.mark.parametrize("n_samples", [1, 7, 20, 53])
def test_number(kind, n_samples):
    outliers = synthetic_outliers(images(), kind, n_samples=n_samples, random_state=0)
    assert outliers.shape == (n_samples, 3, 8, 8)
    different = len(np.unique(outliers.reshape(n_samples, -1), axis=0))
    # Two items may be mixed with each other.
    assert different >= (0.9 if kind == "mixup" else 1) * min(n_samples, 20)


def test_every_item_is_used_before_any_is_used_twice():
    X = images()
    inverted = synthetic_outliers(X, "inversion", n_samples=27, random_state=0)
    used = [np.abs(1 - image - X).max(axis=(1, 2, 3)).argmin() for image in inverted]
    assert sorted(used[:20]) == list(range(20))
    assert len(set(used[20:])) == 7


def test_several_kinds_are_mixed_evenly():
    X = np.full((20, 4, 4), 0.25)
    outliers = synthetic_outliers(X, ["inversion", "blur"], random_state=0)
    assert sorted(outliers.mean((1, 2)).round(6)) == [0.25] * 10 + [0.75] * 10
    assert 0 < np.sum(outliers[:10].mean((1, 2)) > 0.5) < 10
    everything = synthetic_outliers(images((800, 6, 6)), random_state=0)
    inverted = np.abs(everything + images((800, 6, 6)) - 1).max((1, 2)) < 1e-9
    assert inverted.sum() == 100


@pytest.mark.parametrize("convert", [torch.from_numpy, np.ndarray.tolist], ids=["tensor", "list"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_types(shape, convert):
    X = make(shape, np.float64)
    expected = synthetic_outliers(X, random_state=0)
    np.testing.assert_array_equal(synthetic_outliers(convert(X), random_state=0), expected)


def test_frames():
    rows = make((20, 6), np.float32)
    frame = pytest.importorskip("pandas").DataFrame(rows)
    expected = synthetic_outliers(rows, random_state=0)
    np.testing.assert_array_equal(synthetic_outliers(frame, random_state=0), expected)


def test_datasets():
    pixels = make((20, 8, 9, 3), np.float32)
    dataset = TensorDataset(torch.from_numpy(pixels), torch.arange(20))
    np.testing.assert_array_equal(
        synthetic_outliers(dataset, random_state=0),
        synthetic_outliers(pixels.transpose(0, 3, 1, 2), random_state=0),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_channels(kind):
    """Outliers do not depend on the channel axis."""
    X = images((20, 3, 8, 9))
    last = synthetic_outliers(X.transpose(0, 2, 3, 1), kind, random_state=0)
    first = synthetic_outliers(X, kind, random_state=0)
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), first)


@pytest.mark.parametrize("kind", ["blur", "inversion", "mixup", "mutation", "noise"])
def test_strength(kind):
    X = images((200, 8, 8))
    distances = [
        np.abs(synthetic_outliers(X, kind, random_state=0, strength=s) - X).mean()
        for s in (0.1, 0.4, 1.0)
    ]
    assert distances[0] < distances[1] < distances[2]


def test_noise():
    X = images((500, 4, 4))
    pure = synthetic_outliers(X, "noise", random_state=0)
    assert abs(np.corrcoef(pure.ravel(), X.ravel())[0, 1]) < 0.05
    assert pure.mean() == pytest.approx(0.5, abs=0.02)
    assert pure.std() == pytest.approx(12**-0.5, abs=0.01)
    weak = synthetic_outliers(X, "noise", random_state=0, strength=0.25)
    np.testing.assert_allclose(weak, 0.75 * X + 0.25 * pure)
    levels = synthetic_outliers((X * 9).astype(np.uint8), "noise", random_state=0)
    assert (levels.min(), levels.max()) == (0, 255)
    rows = np.column_stack([X[:, 0, 0], 100 * X[:, 0, 1], np.full(500, 3.0)])
    noise = synthetic_outliers(rows, "noise", random_state=0)
    np.testing.assert_allclose(np.ptp(noise, axis=0), np.ptp(rows, axis=0), rtol=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99), st.floats(0.01, 1))
def test_mixup_lies_between_its_parents(n, seed, strength):
    X = make((n, 5), np.float64, seed)
    mixed = synthetic_outliers(X, "mixup", random_state=seed, strength=strength)
    for row, own in zip(mixed, X, strict=True):
        other = (row - (1 - strength / 2) * own) / (strength / 2)
        distances = np.abs(X - other).max(axis=1)
        assert distances.min() < 1e-6
        assert not np.array_equal(X[distances.argmin()], own)


def test_mutation_of_rows_takes_values_of_the_column():
    X = np.arange(3000.0).reshape(500, 6)
    mutated = synthetic_outliers(X, "mutation", random_state=0)
    assert np.mean(mutated != X) == pytest.approx(0.5, abs=0.03)
    for column, own in zip(mutated.T, X.T, strict=True):
        assert np.isin(column, own).all()


def test_mutation_of_images_draws_from_the_range():
    X = np.full((50, 8, 8), 100, dtype=np.uint8)
    mutated = synthetic_outliers(X, "mutation", random_state=0, strength=0.4)
    assert np.mean(mutated != X) == pytest.approx(0.2, abs=0.02)
    assert mutated.min() < 10
    assert mutated.max() > 245


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.floats(0.01, 1), st.integers(0, 99))
def test_permutation_keeps_the_columns(n, n_columns, strength, seed):
    X = make((n, n_columns), np.float64, seed)
    permuted = synthetic_outliers(X, "permutation", random_state=seed, strength=strength)
    np.testing.assert_array_equal(np.sort(permuted, axis=0), np.sort(X, axis=0))
    assert np.sum((permuted != X).any(0)) <= max(1, round(strength * n_columns))


def test_permutation_makes_columns_independent():
    X = np.repeat(np.random.default_rng(0).normal(size=(500, 1)), 3, axis=1)
    correlations = np.corrcoef(synthetic_outliers(X, "permutation", random_state=0).T)
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 0.15


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(2, 9)),
    st.floats(0.01, 1),
)
def test_patch_shuffle_keeps_the_pixels(shape, strength):
    if shape[3] == 3:
        shape = (*shape[:3], 4)
    X = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    shuffled = synthetic_outliers(X, "patch_shuffle", random_state=0, strength=strength)
    ours, theirs = (np.sort(a.reshape(*shape[:2], -1), axis=2) for a in (X, shuffled))
    np.testing.assert_array_equal(ours, theirs)
    # Pixels move with all their channels.
    places = shuffled - X
    np.testing.assert_array_equal(places, np.repeat(places[:, :1], shape[1], axis=1))


def test_patch_shuffle_moves_whole_patches():
    X = np.arange(2 * 64).reshape(2, 8, 8)
    shuffled = synthetic_outliers(X, "patch_shuffle", random_state=0)
    assert (shuffled != X).all()
    corners = shuffled[:, ::2, ::2]
    np.testing.assert_array_equal(np.sort(corners.ravel()), np.sort(X[:, ::2, ::2].ravel()))
    np.testing.assert_array_equal(shuffled[:, 1::2, 1::2], corners + 9)
    few = synthetic_outliers(X, "patch_shuffle", random_state=0, strength=0.25)
    assert ((few != X).sum(axis=(1, 2)) == 4 * 4).all()
    uneven = np.arange(81).reshape(1, 9, 9)
    kept = synthetic_outliers(uneven, "patch_shuffle", random_state=0) == uneven
    np.testing.assert_array_equal(np.argwhere(~kept[0]).max(0), [7, 7])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64, "range"])
def test_inversion_is_an_involution(dtype):
    X = make((20, 8, 8), dtype)
    inverted = synthetic_outliers(X, "inversion")
    restored = synthetic_outliers(inverted, "inversion")
    np.testing.assert_allclose(restored, X, atol=1e-12)
    grey = synthetic_outliers(images(), "inversion", strength=0.5)
    np.testing.assert_allclose(grey, 0.5)


def test_blur_keeps_the_mean_and_lowers_the_contrast():
    X = images()
    blurred = synthetic_outliers(X, "blur")
    np.testing.assert_allclose(blurred.mean((2, 3)), X.mean((2, 3)))
    assert (blurred.std((2, 3)) < 0.6 * X.std((2, 3))).all()
    constant = np.full((4, 9, 9), 0.3)
    np.testing.assert_allclose(synthetic_outliers(constant, "blur"), constant)


def test_far_crop_is_a_corner():
    rows, columns = np.indices((16, 12))
    X = np.tile(100 * rows + columns, (60, 1, 1))
    crops = synthetic_outliers(X, "far_crop", random_state=0)
    corners = set()
    for crop in crops:
        seen_rows, seen_columns = np.unique(crop // 100), np.unique(crop % 100)
        np.testing.assert_array_equal(crop, crop[::4, ::4].repeat(4, 0).repeat(4, 1))
        corners.add((*seen_rows.tolist(), *seen_columns.tolist()))
    expected = [(*r, *c) for r in (range(4), range(12, 16)) for c in (range(3), range(9, 12))]
    assert corners == set(expected)
    half = synthetic_outliers(X, "far_crop", random_state=0, strength=2 / 3)
    assert {len(np.unique(crop)) for crop in half} == {8 * 6}


@pytest.mark.parametrize(
    ("X", "params", "message"),
    [
        (images(), {"kind": "fog"}, "kind='fog' names 'fog'; expected 'all', or one or several"),
        (images(), {"kind": ["blur", "fog"]}, "names 'fog'"),
        (images(), {"kind": []}, "names nothing"),
        (
            images()[:, 0, 0],
            {"kind": ["blur", "noise"]},
            "blur can only be made from images, .* 8 va",
        ),
        (images()[:1], {"kind": "mixup"}, "mixup combine different items, but X has 1"),
        (images()[:, :, :1, :1], {"kind": "patch_shuffle"}, "images of at least 2 pixels"),
        (images(), {"strength": 0.0}, "strength=0.0; expected a number in"),
        (images(), {"strength": 1.1}, "strength=1.1"),
        (images(), {"n_samples": 0}, "n_samples=0; expected an integer of at least 1"),
        (images()[:, :, :, :, None], {}, "X has shape"),
        (np.full((4, 4), np.nan), {}, "NaN"),
    ],
)
def test_errors(X, params, message):
    with pytest.raises(ValueError, match=message):
        synthetic_outliers(X, **params)
