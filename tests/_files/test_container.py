"""A file that is not whole and unchanged gives one error."""

import io
import json
import os
import pickle
import struct

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image

import skood
from skood._files import _container


@pytest.fixture(scope="module")
def detector():
    return skood.Mahalanobis().fit(np.random.default_rng(0).normal(size=(60, 3)))


@pytest.fixture
def path(detector, tmp_path):
    path = tmp_path / "detector.skood"
    skood.save(detector, path)
    return path


def assert_refused(path, message):
    for function in skood.load, skood.inspect_file:
        with pytest.raises(ValueError, match=message) as caught:
            function(path)
        assert str(path) in str(caught.value)


def test_every_flipped_bit_is_noticed(path):
    content = path.read_bytes()
    for k in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[k // 8] ^= 1 << k % 8
        with pytest.raises(ValueError):
            _container.read_from(io.BytesIO(damaged), len(damaged))


def test_flipped_bits_of_files(path):
    content = path.read_bytes()
    for place in np.linspace(0, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert_refused(path, "cannot be loaded")


@pytest.mark.parametrize("keep", [0, 1, 8, 50, 120, 1000, -1])
def test_truncated(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    assert_refused(path, "truncated|not a file of skood.save|damaged")


def test_longer(path):
    path.write_bytes(path.read_bytes() + b"\0")
    assert_refused(path, "its arrays take")


def test_newer_format(path):
    path.write_bytes(path.read_bytes().replace(b'"skood_format":"1"', b'"skood_format":"2"'))
    assert_refused(path, "has format 2, but this version of skood reads format 1; install")


def write_pickle(path):
    path.write_bytes(pickle.dumps([1, 2, 3] * 100))


def write_torch(path):
    torch.save({"a": torch.ones(30)}, path)


def write_image(path):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path, format="png")


def write_safetensors(path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(30)}, path, metadata={"card": "{}", "tree": "{}"})


@pytest.mark.parametrize(
    "write",
    [
        write_pickle,
        write_torch,
        write_image,
        write_safetensors,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(10_000)),
        lambda path: path.write_text("{}" * 200),
    ],
    ids=["pickle", "torch", "image", "safetensors", "empty", "zeros", "text"],
)
def test_foreign_files(write, tmp_path):
    path = tmp_path / "file"
    write(path)
    assert_refused(path, "is not a file of skood.save")


def test_a_folder(tmp_path):
    assert_refused(tmp_path, "not a regular file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "not a regular file")


def test_no_file(tmp_path):
    for function in skood.load, skood.inspect_file:
        with pytest.raises(FileNotFoundError, match=r"nothing\.skood"):
            function(tmp_path / "nothing.skood")


def test_the_tools_of_safetensors_read_it(path, detector):
    with safetensors.safe_open(path, "np") as file:
        assert list(file.metadata()) and "Mahalanobis" in file.metadata()["card"]
        (name,) = (name for name in file.keys() if name.endswith("means_"))
        assert (file.get_tensor(name) == detector.means_).all()


def header(entries):
    whole = {"skood_format": "1", "sha256": "0" * 64, "card": "{}", "tree": "null"}
    text = json.dumps({"__metadata__": whole, **entries}, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [2**31, 2**31, 4], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [0, 2**70], "data_offsets": [0, 0]},
        {"dtype": "O", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": {}, "data_offsets": [0, 4]},
        {"dtype": "F32"},
        [],
        None,
    ],
)
def test_hostile_entries(entry, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(header({"a": entry}))
    assert_refused(path, "cannot be loaded")


def test_hostile_headers(tmp_path):
    path = tmp_path / "file"
    start = b'{"__metadata__":{"skood_format":"1","sha256":"' + b"0" * 64 + b'",'
    for end in (
        b'"a":' + b"[" * 100_000,
        b'"a":' + b'{"a":' * 100_000,
        b'"tree":"","tree":""}}',
        b'"a":' + b"9" * 10_000 + b"}}",
        b'"a":NaN}}',
        b'"a":1}}',
        b'"a":"\xff"}}',
        b"",
    ):
        for n in (len(start + end), 2**63, 100, 0):
            path.write_bytes(struct.pack("<Q", n) + start + end)
            assert_refused(path, "cannot be loaded")
