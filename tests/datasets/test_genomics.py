"""The reader of the bacteria, on files that the tests write."""

import struct

import numpy as np
import pytest

from skood.datasets import load_genomics
from skood.datasets._tfrecords import masked_crc32c, parse_example, read_tfrecords


def varint(value):
    value %= 1 << 64
    groups = []
    while True:
        groups.append(value & 0x7F)
        value >>= 7
        if not value:
            return bytes([*(g | 0x80 for g in groups[:-1]), groups[-1]])


def field(number, content):
    """Encode a field of bytes, or of an integer."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(*, packed=True, **features):
    """Encode a tf.train.Example."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        else:
            feature = field(3, field(1, varint(value) if packed else value))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def record(content):
    length = struct.pack("<Q", len(content))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
    return length + checksums[0] + content + checksums[1]


RECORDS = [example(x=b"0 1 2 3", y=7, z=b"NC_1"), example(x=b"3 3 0 0", y=300, packed=False)]


def test_checksum():
    # CRC-32C of the standard test string, with TFRecord's mask.
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_examples():
    assert parse_example(RECORDS[0]) == {"x": [b"0 1 2 3"], "y": [7], "z": [b"NC_1"]}
    assert parse_example(RECORDS[1])["y"] == [300]
    assert parse_example(example(y=-5))["y"] == [-5]
    for content in (b"\x0a\x05ab", b"\xff", b"\x0b"):
        with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
            parse_example(content)


def test_records(tmp_path):
    folder = tmp_path / "after_2016_ood_test"
    folder.mkdir()
    for number, content in enumerate(RECORDS):
        (folder / f"ood_test_{number}.tfrecord").write_bytes(record(content))
    (folder / "ood_test_nsample.json").write_text("{}")
    X, y = load_genomics(tmp_path, "test_ood")
    assert X.dtype == np.uint8
    assert X.tolist() == [[0, 1, 2, 3], [3, 3, 0, 0]]
    assert y.tolist() == [7, 300]
    assert y.dtype == np.int64


@pytest.mark.parametrize("damage", ["cut", "length", "tail"])
def test_damaged_records(tmp_path, damage):
    content = record(RECORDS[0]) + record(RECORDS[1])
    path = tmp_path / "in.tfrecord"
    start = len(record(RECORDS[0]))
    if damage == "length":
        content = content[:start] + b"\x01" + content[start + 1 :]
    path.write_bytes({"cut": content[:-20], "tail": content + b"ab"}.get(damage, content))
    records = read_tfrecords(path)
    assert next(records) == RECORDS[0]
    with pytest.raises(ValueError, match=r"record [12] is cut off or has a wrong checksum"):
        list(records)


@pytest.mark.parametrize(
    "content",
    [example(x=b"0 1"), example(x=b"0 A", y=1), example(x=b"0 999", y=1), b"\xff"],
)
def test_wrong_records(tmp_path, content):
    folder = tmp_path / "before_2011_in_tr"
    folder.mkdir()
    (folder / "in_tr.tfrecord").write_bytes(record(content))
    with pytest.raises(ValueError, match="record 0 of"):
        load_genomics(tmp_path, "train")


def test_text(tmp_path):
    path = tmp_path / "between_2011-2016_in_val.txt"
    rows = ["seq\tlabel\tseq_info\tdomain", "ACGT\tBacillus\tNC_1 7\tin", "TTTT\tYersinia\t-\tin"]
    path.write_text("\n".join(rows))
    X, y = load_genomics(tmp_path, "validation")
    assert X.tolist() == [[0, 1, 2, 3], [3, 3, 3, 3]]
    assert y.tolist() == ["Bacillus", "Yersinia"]
    path.write_text("\n".join([*rows, "ACNT\tBacillus\t-\tin"]))
    with pytest.raises(ValueError, match="line 4 of"):
        load_genomics(tmp_path, "validation")
    path.write_text("\n".join([*rows, "ACG\tBacillus\t-\tin"]))
    with pytest.raises(ValueError, match="sequences of one length"):
        load_genomics(tmp_path, "validation")
    path.write_text("text\nACGT")
    with pytest.raises(ValueError, match="line 2 of"):
        load_genomics(tmp_path, "validation")


def test_numbers_above_three(tmp_path):
    folder = tmp_path / "before_2011_in_tr"
    folder.mkdir()
    (folder / "in_tr.tfrecord").write_bytes(record(example(x=b"0 4", y=1)))
    with pytest.raises(ValueError, match="expected bases from 0 to 3"):
        load_genomics(tmp_path, "train")


def test_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"before_2011_in_tr\.txt or before_2011_in_tr/"):
        load_genomics(tmp_path, "train")
    with pytest.raises(ValueError, match="split='extra'"):
        load_genomics(tmp_path, "extra")
