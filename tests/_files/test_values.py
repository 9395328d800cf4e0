"""Values keep their type, their bits and their identity in a file."""

import math
import struct
from pathlib import Path

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from sklearn.base import BaseEstimator

import skood
from skood.base import estimator, parameter


@estimator
class Holder(BaseEstimator):
    """Holds anything."""

    value: object = parameter(default=None)


def there_and_back(value, tmp_path):
    path = tmp_path / "holder.skood"
    skood.save(Holder(value), path)
    return skood.load(path, trusted=[Holder]).value


def assert_same(first, second):
    """Of one type, and with the same bits."""
    assert type(first) is type(second)
    if isinstance(first, float):
        assert struct.pack("d", first) == struct.pack("d", second)
    elif isinstance(first, complex):
        assert_same((first.real, first.imag), (second.real, second.imag))
    elif isinstance(first, dict):
        assert_same(list(first.items()), list(second.items()))
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, (np.ndarray, np.generic)):
        assert first.dtype == second.dtype
        assert first.dtype.byteorder == second.dtype.byteorder
        assert first.shape == second.shape
        if first.dtype == object:
            assert_same(first.tolist(), second.tolist())
        else:
            assert first.tobytes() == second.tobytes()
    else:
        assert first == second


simple = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
)
hashable = st.recursive(
    simple, lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=5
)
anything = st.recursive(
    simple,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner, max_size=3)
    ),
    max_leaves=10,
)
numbers = (
    arrays.boolean_dtypes()
    | arrays.integer_dtypes(endianness="?")
    | arrays.unsigned_integer_dtypes(endianness="?")
    | arrays.floating_dtypes(endianness="?")
    | arrays.complex_number_dtypes(endianness="?")
    | arrays.datetime64_dtypes(endianness="?")
    | arrays.byte_string_dtypes()
    | arrays.unicode_string_dtypes(endianness="?")
)
any_array = arrays.arrays(numbers, arrays.array_shapes(min_dims=0, min_side=0, max_side=3))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(value=anything)
def test_python_values(value, tmp_path_factory):
    assert_same(there_and_back(value, tmp_path_factory.getbasetemp()), value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(value=any_array)
def test_arrays(value, tmp_path_factory):
    assert_same(there_and_back(value, tmp_path_factory.getbasetemp()), value)


@pytest.mark.parametrize(
    "value",
    [
        10**4000,
        -(2**63),
        -0.0,
        math.inf,
        struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0],
        "\ud800 and \x00",
        bytearray(b"ab"),
        {3, "a", None},
        range(1, 10, 3),
        slice(None, 3, None),
        Path("folder/file"),
        np.float32(0.1),
        np.str_("ä"),
        np.datetime64("2020-01-01"),
        np.dtype(">f4"),
        np.dtype(float),
        np.array(["a", None, 3, (1, 2)], object),
        np.array([], "U5"),
        np.array([(1, 2.5), (3, 4.5)], [("a", "i1"), ("b", ">f8")]),
        np.zeros((2, 0, 3), "f2"),
        torch.bfloat16,
        torch.device("cpu"),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_further_values(value, tmp_path):
    assert_same(there_and_back(value, tmp_path), value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3).bfloat16(),
        torch.tensor(True),
        torch.tensor([1, 65535], dtype=torch.uint16),
        torch.randn(2, 3, dtype=torch.complex64),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(2, 1, 4, 4).to(memory_format=torch.channels_last),
        torch.randn(5, 4).T,
        torch.randn(5, 4)[:, ::2],
        torch.randn(0, 3),
        torch.nn.Parameter(torch.ones(2)),
        torch.ones(2, requires_grad=True),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_tensors(tensor, tmp_path):
    loaded = there_and_back(tensor, tmp_path)
    assert type(loaded) is type(tensor)
    assert loaded.dtype == tensor.dtype
    assert loaded.requires_grad == tensor.requires_grad
    assert torch.equal(loaded, tensor)
    if tensor.shape != (5, 2):
        assert loaded.stride() == tensor.stride()


@pytest.mark.parametrize("order", ["C", "F"])
def test_layout_of_arrays(order, tmp_path):
    array = np.asarray(np.arange(24.0).reshape(2, 3, 4), order=order)
    assert there_and_back(array, tmp_path).strides == array.strides
    moved = np.moveaxis(array, 0, 1)
    loaded = there_and_back(moved, tmp_path)
    assert (loaded == moved).all()
    assert np.argsort(loaded.strides).tolist() == np.argsort(moved.strides).tolist()
    assert (there_and_back(array[::-1, :, 1:3], tmp_path) == array[::-1, :, 1:3]).all()


@pytest.mark.parametrize(
    "generator", [np.random.MT19937, np.random.PCG64, np.random.Philox, np.random.SFC64]
)
def test_generators_continue(generator, tmp_path):
    rng = np.random.Generator(generator(0))
    rng.integers(5, dtype=np.int32)
    loaded = there_and_back(rng, tmp_path)
    assert (loaded.random(5) == rng.random(5)).all()


def test_random_states_continue(tmp_path):
    rng = np.random.RandomState(0)
    rng.normal()
    loaded = there_and_back(rng, tmp_path)
    assert (loaded.normal(size=5) == rng.normal(size=5)).all()
    generator = torch.Generator().manual_seed(1)
    torch.rand(3, generator=generator)
    loaded = there_and_back(generator, tmp_path)
    assert torch.equal(torch.rand(3, generator=loaded), torch.rand(3, generator=generator))


def test_shared_objects_are_one_object_again(tmp_path):
    array, items = np.ones(3), [1]
    first, second, inner, again = there_and_back([array, array, items, {"a": (items,)}], tmp_path)
    assert first is second
    assert again["a"][0] is inner


def test_a_memory_map_becomes_an_array(tmp_path):
    np.save(tmp_path / "array.npy", np.arange(5))
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r")
    loaded = there_and_back(mapped, tmp_path)
    assert type(loaded) is np.ndarray
    assert loaded.tolist() == list(range(5))


def loop():
    items = []
    items.append(items)
    return items


def deep():
    items = []
    for _ in range(500):
        items = [items]
    return items


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda X: X, "value is .*<lambda>, which a file cannot name"),
        ({"a": object()}, r"Holder\.value\.a is a builtins\.object"),
        (loop(), "contains itself"),
        (deep(), "nested more than 100 levels deep"),
        (np.ma.masked_array([1]), "MaskedArray"),
        (np.array([(1, None)], [("a", int), ("b", object)]), "dtype"),
        (torch.eye(2).to_sparse(), "dense"),
        (torch.empty(2, device="meta"), "dense"),
    ],
    ids=["lambda", "object", "loop", "deep", "masked", "structured", "sparse", "meta"],
)
def test_what_a_file_cannot_hold(value, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        skood.save(Holder(value), tmp_path / "holder.skood")
    assert not list(tmp_path.iterdir())
