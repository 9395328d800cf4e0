"""What X may be, and what is said about an X that is not."""

import pickle
import re

import joblib
import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from skood import KNN
from skood._data.checked_data import CheckedData
from skood._data.validation import check_data, check_in_range, check_scores, resolve_value_range

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(7, 3))
GREY = RNG.normal(size=(7, 5, 4))
COLOUR = RNG.normal(size=(7, 3, 5, 4))


class Reader(BaseEstimator):
    """An estimator that does nothing but check its data."""

    def fit(self, X, **kwargs):
        self.source_ = check_data(self, X, reset=True, **kwargs)
        return self

    def read(self, X):
        return check_data(self, X, reset=False)


class Items(Dataset):
    """A Dataset over a list, which notes what is read."""

    def __init__(self, items):
        self.items = list(items)
        self.read = []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read.append(index)
        return self.items[index]


class Endless(IterableDataset):
    def __iter__(self):
        yield ROWS[0]


def everything(source):
    return source.take(np.arange(len(source)))


def memmap(tmp_path, array):
    np.save(tmp_path / "array.npy", array)
    return np.load(tmp_path / "array.npy", mmap_mode="r")


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (ROWS, ROWS),
        (ROWS.tolist(), ROWS),
        (torch.from_numpy(ROWS), ROWS),
        (GREY, GREY[:, None]),
        (GREY.tolist(), GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (torch.from_numpy(GREY), GREY[:, None]),
        (torch.tensor(GREY, requires_grad=True), GREY[:, None]),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 2, 3, 1), COLOUR),
        (np.asfortranarray(COLOUR), COLOUR),
        # The second axis counts the channels wherever it can.
        (COLOUR[..., :3], COLOUR[..., :3]),
        (COLOUR[:, :1, :, :1], COLOUR[:, :1, :, :1]),
        (COLOUR[:, :2], COLOUR[:, :2]),
        (np.repeat(COLOUR, 2, 1)[..., :3], np.repeat(COLOUR, 2, 1)[..., :3].transpose(0, 3, 1, 2)),
        (Items(ROWS), ROWS),
        (Items(GREY), GREY[:, None]),
        (Items(GREY[:, None]), GREY[:, None]),
        (Items(GREY[..., None]), GREY[:, None]),
        (Items(COLOUR.transpose(0, 2, 3, 1)), COLOUR),
        (Items((image, 1) for image in COLOUR), COLOUR),
        (Items([image, 1] for image in COLOUR), COLOUR),
        (TensorDataset(torch.from_numpy(COLOUR), torch.arange(7)), COLOUR),
    ],
)
def test_forms_of_data(X, expected):
    reader = Reader().fit(X)
    source = reader.source_
    assert len(source) == 7
    assert source.item_shape == reader.input_shape_ == expected.shape[1:]
    assert source.is_image == (expected.ndim == 4)
    assert reader.n_features_in_ == expected[0].size
    assert source.dtype == np.float64
    np.testing.assert_array_equal(everything(source), expected)
    np.testing.assert_array_equal(source.rows(), expected.reshape(7, -1))
    np.testing.assert_array_equal(reader.read(X).take(np.array([6, 0, 6])), expected[[6, 0, 6]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_dtype_is_kept(dtype):
    for X in (ROWS, GREY):
        X = (10 * abs(X)).astype(dtype)
        for form in (X, torch.from_numpy(X), Items(X)):
            source = Reader().fit(form).source_
            assert source.dtype == everything(source).dtype == dtype


def test_float16_is_read_as_float32():
    """Its squares overflow at 256."""
    for X in (ROWS, GREY):
        X = X.astype(np.float16)
        for form in (X, torch.from_numpy(X), Items(X)):
            source = Reader().fit(form).source_
            assert source.dtype == everything(source).dtype == np.float32
            np.testing.assert_array_equal(source.rows(), X.astype(np.float32).reshape(7, -1))


def test_bfloat16_tensor_is_read_as_float32():
    tensor = torch.from_numpy(GREY).bfloat16()
    source = Reader().fit(tensor).source_
    assert source.dtype == np.float32
    np.testing.assert_array_equal(everything(source)[:, 0], tensor.float().numpy())


def test_data_frame_leaves_its_feature_names():
    pandas = pytest.importorskip("pandas")
    reader = Reader().fit(pandas.DataFrame(ROWS, columns=["a", "b", "c"]))
    assert reader.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names should match those that were passed"):
        reader.read(pandas.DataFrame(ROWS, columns=["a", "c", "b"]))


def test_source_is_passed_through():
    source = CheckedData.of(COLOUR)
    reader = Reader().fit(source)
    assert reader.source_ is source
    assert reader.read(source) is source
    with pytest.raises(ValueError, match=r"items of shape \(1, 5, 4\), but Reader was fitted on"):
        reader.read(CheckedData.of(GREY[:, None]))


def test_subset():
    source = CheckedData.of(COLOUR).subset(np.array([4, 1, 5]))
    assert len(source) == 3
    np.testing.assert_array_equal(everything(source), COLOUR[[4, 1, 5]])
    np.testing.assert_array_equal(everything(source.subset([2, 0])), COLOUR[[5, 4]])
    flat = source.reshape((60,))
    assert not flat.is_image
    np.testing.assert_array_equal(everything(flat), COLOUR[[4, 1, 5]].reshape(3, 60))


def test_reshape():
    source = Reader().fit(COLOUR.reshape(7, -1)).source_.reshape((3, 5, 4))
    assert source.is_image
    np.testing.assert_array_equal(everything(source), COLOUR)
    message = (
        "items of shape (3, 5, 4) hold 60 values, which do not fill the shape (3, 5, 5); "
        "give the shape (C, H, W) of your images"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        source.reshape((3, 5, 5))


def test_memory_map_is_not_held_in_memory(tmp_path):
    for array, expected in [(COLOUR, COLOUR), (ROWS, ROWS), (GREY[..., None], GREY[:, None])]:
        mapped = memmap(tmp_path, array)
        source = Reader().fit(mapped).source_
        assert not source.in_memory
        assert not source.subset([0, 1]).in_memory
        assert CheckedData.of(array).in_memory
        assert CheckedData.of(array).subset([0, 1]).in_memory
        taken = source.take(np.array([3, 1]))
        assert not np.shares_memory(taken, mapped)
        np.testing.assert_array_equal(taken, expected[[3, 1]])


def test_dataset_is_read_item_by_item_when_asked_for():
    dataset = Items(COLOUR)
    source = Reader().fit(dataset).source_
    assert not source.in_memory
    assert dataset.read == [0]
    dataset.read.clear()
    source.subset([6, 5, 4]).take(np.array([0, 2]))
    assert dataset.read == [6, 4]
    assert all(type(index) is int for index in dataset.read)


def test_source_pickles_and_hashes_by_its_content():
    source = CheckedData.of(COLOUR).subset([1, 2])
    restored = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(everything(restored), COLOUR[1:3])
    assert joblib.hash(source) == joblib.hash(restored)
    assert joblib.hash(source) != joblib.hash(CheckedData.of(COLOUR).subset([1, 3]))


def test_taking_gives_a_copy():
    source = CheckedData.of(ROWS.copy())
    source.take(np.arange(2))[:] = 99
    np.testing.assert_array_equal(everything(source), ROWS)


def with_value(array, value):
    array = array.copy()
    array[-1, ..., -1] = value
    return array


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (3.0, "Expected 2D array, got scalar array instead"),
        (ROWS[0], "Expected 2D array, got 1D array instead"),
        (
            np.zeros((2, 3, 4, 5, 6)),
            "X has shape (2, 3, 4, 5, 6); expected rows (n, d) or images (n, H, W), (n, C, H, W) "
            "or (n, H, W, C)",
        ),
        (np.zeros((0, 3)), "Found array with 0 sample(s) (shape=(0, 3)) while a minimum of 2"),
        (
            np.zeros((0, 5, 4)),
            "Found array with 0 sample(s) (shape=(0, 5, 4)) while a minimum of 2",
        ),
        (np.zeros((0, 1, 5, 4)), "while a minimum of 2 is required by Reader"),
        (Items([]), "Found Dataset with 0 sample(s) while a minimum of 2 is required"),
        (ROWS[:1], "Found array with 1 sample(s) (shape=(1, 3)) while a minimum of 2"),
        (GREY[:1], "Found array with 1 sample(s) (shape=(1, 5, 4)) while a minimum of 2"),
        (Items(GREY[:1]), "Found Dataset with 1 sample(s) while a minimum of 2 is required"),
        (np.zeros((7, 0)), "Found array with 0 feature(s) (shape=(7, 0))"),
        (np.zeros((7, 5, 0)), "X has shape (7, 5, 0): its images have no pixels"),
        (np.zeros((7, 0, 5, 4)), "X has shape (7, 0, 5, 4): its images have no pixels"),
        (with_value(ROWS, np.nan), "Input X contains NaN"),
        (with_value(GREY, np.nan), "Input contains NaN"),
        (with_value(COLOUR, np.nan), "Input contains NaN"),
        (torch.from_numpy(with_value(COLOUR, np.nan)), "Input contains NaN"),
        (with_value(ROWS, np.inf), "Input X contains infinity"),
        (with_value(GREY, -np.inf), "Input contains infinity"),
        (np.full((7, 5, 4), "a"), "not compatible with arrays of bytes/strings"),
        (
            Endless(),
            "X is a Endless, an IterableDataset, whose items can be read in one order only; "
            "expected a Dataset with __getitem__ and __len__",
        ),
        (
            Items(np.zeros(7)),
            "the Dataset X has items of shape (); expected rows (d,), images (H, W), (C, H, W) "
            "or (H, W, C)",
        ),
        (
            Items(np.zeros((7, 2, 2, 2, 2))),
            "X has shape (7, 2, 2, 2, 2); expected rows (n, d) or images",
        ),
    ],
)
def test_what_fit_refuses(X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Reader().fit(X, min_samples=2)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            pandas.DataFrame(ROWS, columns=list("aba")),
            "X is a data frame with several columns named 'a'; give every column its own name",
        ),
        (
            pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
            "and is not numeric (could not convert string to float: 'x'); drop the column, or "
            "encode it in a Pipeline with the detector, for instance with scikit-learn's OneHot",
        ),
        (
            pandas.DataFrame({"a": [1, 2], "b": pandas.to_datetime(["2020", "2021"])}),
            "X is a data frame whose column 'b' has dtype datetime64",
        ),
        (np.array([[1, "a"]], dtype=object), "X cannot be read as an array of numbers: could not"),
        ([[1, 2], [3]], "X cannot be read as an array of numbers: setting an array element"),
        (
            [torch.ones(2, requires_grad=True)],
            "cannot be read as an array of numbers: Can't call",
        ),
        (np.zeros((2, 2), dtype="M8[D]"), "X has dtype datetime64[D]; expected numbers"),
        (torch.ones(2, 2).to_sparse(), "X is a tensor of layout torch.sparse_coo; give X.to_dense"),
    ],
    ids=["repeated", "strings", "dates", "objects", "ragged", "gradients", "times", "sparse"],
)
def test_what_holds_no_numbers(X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Reader().fit(X)


def test_data_frames_of_numbers_in_any_guise():
    frame = pandas.DataFrame({"a": ["1", "2"], "b": pandas.array([3, 4], dtype="Int64")})
    frame["c"] = pandas.Categorical([5, 6])
    np.testing.assert_array_equal(everything(Reader().fit(frame).source_), [[1, 3, 5], [2, 4, 6]])


class Failing(Items):
    """A Dataset whose third item cannot be read."""

    def __getitem__(self, index):
        if index == 2:
            raise KeyError("no such file")
        return super().__getitem__(index)


def test_item_that_raises_is_named():
    source = Reader().fit(Failing(ROWS)).source_
    message = "item 2 of the Dataset X cannot be read, KeyError: 'no such file'"
    with pytest.raises(ValueError, match=message) as raised:
        source.take(np.arange(4))
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize("item", ["text", None])
def test_item_that_is_no_array(item):
    message = f"item 0 of the Dataset X is of type {type(item).__name__} and dtype"
    with pytest.raises(ValueError, match=message):
        Reader().fit(Items([item]))


def test_items_that_require_grad():
    X = torch.tensor(ROWS, requires_grad=True)
    np.testing.assert_array_equal(everything(Reader().fit(Items(X)).source_), ROWS)


def test_dataset_without_a_length():
    class Endless(Dataset):
        def __getitem__(self, index):
            return ROWS[0]

    with pytest.raises(ValueError, match="X is a Endless, a Dataset without __len__"):
        Reader().fit(Endless())


def test_scores_that_are_no_numbers():
    check_scores(Reader(), np.array([0.0, -np.inf]))
    for wrong in (np.nan, np.inf):
        message = "Reader gives NaN or inf as the score of 2 of the 3 items of X.*rescale X"
        with pytest.raises(ValueError, match=message):
            check_scores(Reader(), np.array([wrong, 0.0, wrong]))


def test_sparse_rows_of_a_step_before():
    """The remedy works: a detector takes the vectorizer itself."""
    texts = ["a cat sat", "a dog ran", "the cat ran"] * 20
    with pytest.raises(TypeError, match=r"sparse_output=False.*KNN\(TfidfVectorizer\(\)\)"):
        make_pipeline(TfidfVectorizer(), KNN(n_neighbors=2)).fit(texts)
    scores = KNN(TfidfVectorizer(), n_neighbors=2).fit(texts).score_samples([texts[0], "none"])
    assert scores[0] > scores[1]


def test_sparse_rows_are_refused():
    with pytest.raises(TypeError, match="Sparse data was passed for X, but dense data is required"):
        Reader().fit(scipy.sparse.csr_array(ROWS))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("array", [ROWS, GREY])
def test_dataset_with_nan_or_infinity_is_refused_when_it_is_read(array, value):
    source = Reader().fit(Items(with_value(array, value))).source_
    np.testing.assert_array_equal(source.take(np.arange(6))[:, ...].shape[0], 6)
    message = "the Dataset X contains NaN or infinity; remove or impute those items"
    with pytest.raises(ValueError, match=message):
        source.take(np.array([5, 6]))


def test_dataset_of_unequal_items_is_refused_when_it_is_read():
    """Also where the other shape has as many values."""
    for other in (np.zeros((5, 5)), np.zeros((4, 5)), np.zeros((1, 4, 5))):
        source = Reader().fit(Items([GREY[0], GREY[1], other])).source_
        assert source.take(np.array([1])).shape == (1, 1, 5, 4)
        height, width = other.shape[-2:]
        message = (
            f"item 2 of the Dataset X has shape (1, {height}, {width}), but item 0 has (1, 5, 4); "
            "bring all items to one shape"
        )
        for indices in ([2], [0, 2]):
            with pytest.raises(ValueError, match=re.escape(message)):
                source.take(np.array(indices))


@pytest.mark.parametrize(
    ("fitted", "X", "message"),
    [
        (ROWS, np.zeros((2, 4)), "X has 4 features, but Reader is expecting 3 features as input"),
        (
            GREY,
            np.zeros((2, 4, 5)),
            "X has items of shape (1, 4, 5), but Reader was fitted on items of shape (1, 5, 4) "
            "(images are counted as (C, H, W))",
        ),
        (
            GREY,
            COLOUR,
            "X has items of shape (3, 5, 4), but Reader was fitted on items of shape (1,",
        ),
        (
            COLOUR,
            COLOUR[:, :2],
            "X has items of shape (2, 5, 4), but Reader was fitted on items of",
        ),
        (ROWS, Items(np.zeros((2, 4))), "X has items of shape (4,), but Reader was fitted on"),
        (
            ROWS,
            GREY,
            "X has items of shape (1, 5, 4), but Reader was fitted on items of shape (3,)",
        ),
        (GREY, ROWS, "X has 3 features, but Reader is expecting 20 features as input"),
        (
            GREY,
            GREY.reshape(7, 20),
            "X has items of shape (20,), but Reader was fitted on items of",
        ),
        (ROWS, np.zeros((0, 3)), "Found array with 0 sample(s)"),
    ],
)
def test_what_a_fitted_estimator_refuses(fitted, X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Reader().fit(fitted).read(X)


@pytest.mark.parametrize(
    ("pixels", "value_range", "expected"),
    [
        (np.array([3, 9], dtype=np.uint8), None, (0, 255)),
        (np.array([0.2, 0.3], dtype=np.float32), None, (0, 1)),
        (np.array([0.2, 0.3]), None, (0, 1)),
        (np.array([3, 9]), (0, 16), (0, 16)),
        (np.array([3, 9]), [-1.5, 16], (-1.5, 16)),
        (np.array([3, 9]), np.array([0, 16]), (0, 16)),
        (np.array([3, 9], dtype=np.uint8), (0, 16), (0, 16)),
        (np.array([3, -9]), "minmax", (-9, 3)),
        (np.array([0.2, 0.3]), "minmax", (0.2, 0.3)),
    ],
)
def test_value_range(pixels, value_range, expected):
    resolved = resolve_value_range(CheckedData.of(pixels.reshape(2, 1, 1, 1)), value_range)
    assert resolved == expected
    assert {type(value) for value in resolved} == {float}


def test_minmax_reads_every_chunk():
    pixels = np.zeros((10_000, 1, 1, 1))
    pixels[[5, 4095, 4096, 9999], 0, 0, 0] = [1, -2, 3, -4]
    assert resolve_value_range(CheckedData.of(pixels), "minmax") == (-4, 3)


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e300])
def test_minmax_of_a_constant_is_not_empty(value):
    low, high = resolve_value_range(CheckedData.of(np.full((2, 1, 1, 1), value)), "minmax")
    assert low == value
    assert np.isfinite(255 / (high - low))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool])
def test_integers_have_no_range_of_their_own(dtype):
    message = (
        f"pixels of dtype {np.dtype(dtype)} have no range of their own: give value_range=(low, "
        "high), the values of black and white (uint8 is taken as 0..255, floats as 0..1)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_value_range(CheckedData.of(np.zeros((2, 1, 1, 1), dtype=dtype)), None)


@pytest.mark.parametrize("value_range", [(1, 0), (2, 2), (0,), (0, 1, 2), (np.nan, 1)])
def test_value_range_that_is_none(value_range):
    message = f"value_range={value_range!r} must be (low, high) with low < high"
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_value_range(CheckedData.of(COLOUR), value_range)


@pytest.mark.parametrize("value", [-0.01, 1.5, 255.0])
def test_pixels_out_of_range(value):
    pixels = np.full((3, 1, 1, 2), 0.5)
    check_in_range(pixels, (0, 1))
    check_in_range(np.array([0.0, 1.0]), (0, 1))
    pixels[2, 0, 0, 1] = value
    low, high = min(value, 0.5), max(value, 0.5)
    message = (
        f"X has values from {low:g} to {high:g}, but pixels from 0 to 1 are expected for float64 "
        "images; rescale X, or state its range with value_range=(low, high)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        check_in_range(pixels, (0, 1))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_chunks_are_everything_in_order(size):
    chunks = list(CheckedData.of(ROWS).chunks(size))
    np.testing.assert_array_equal(np.concatenate(chunks), ROWS)
    assert {len(chunk) for chunk in chunks[:-1]} <= {size}
    assert len(chunks) == -(-7 // size)
