"""Image sets from files in the layouts of the public archives."""

import gzip
import hashlib
import pickle
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from skood.datasets import load_image_set
from skood.datasets._image_files import read_idx

ODIN = {
    "tinyimagenet_crop": "Imagenet/test",
    "tinyimagenet_resize": "Imagenet_resize/Imagenet_resize",
    "lsun_crop": "LSUN/test",
    "lsun_resize": "LSUN_resize/LSUN_resize",
    "isun": "iSUN/iSUN_patches",
}
IDX = {
    "mnist": "MNIST/raw/t10k",
    "fashion_mnist": "FashionMNIST/raw/t10k",
    "kmnist": "KMNIST/raw/t10k",
    "notmnist": "notMNIST/raw/t10k",
    "emnist_letters": "EMNIST/raw/emnist-letters-test",
}
DAMAGED = "A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png"


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_idx(path, array, *, gzipped=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    if gzipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def load(*args, **kwargs):
    """Load a part of a set, without the warning about its number of images."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in the published archive; unpack")
        return load_image_set(*args, **kwargs)


@pytest.mark.parametrize("level", ["as published", "one folder less"])
@pytest.mark.parametrize("name", ODIN)
def test_sets_of_odin(tmp_path, name, level):
    images = pixels(3, 6, 6, 3)
    folder = tmp_path / ODIN[name]
    if level == "one folder less":
        folder = folder.parent
    for number, image in zip((10, 2, 1), images, strict=True):
        write(folder / f"{number}.png", image)
    (folder / "._1.png").write_bytes(b"a file of the Finder")
    (folder / "list.txt").write_text("no picture")
    found, labels = load(name, tmp_path)
    # In the order of the names as text, which is torchvision's.
    np.testing.assert_array_equal(found, images[[2, 0, 1]])
    assert (found.dtype, labels.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(labels, [-1, -1, -1])


def test_a_jpeg_a_palette_and_a_grey_picture_become_rgb(tmp_path):
    folder = tmp_path / "iSUN" / "iSUN_patches"
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    write(folder / "a.jpeg", flat)
    Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "b.png")
    write(folder / "c.png", np.full((8, 8), 77, np.uint8))
    images, _ = load("isun", tmp_path)
    assert images.shape == (3, 8, 8, 3)
    np.testing.assert_allclose(images[0].astype(int), flat, atol=3)
    np.testing.assert_array_equal(images[1], flat)
    assert (images[2] == 77).all()


@pytest.mark.parametrize("name", ["lsun_crop", "fashion_mnist"])
def test_size_averages(tmp_path, name):
    board = np.indices((8, 8)).sum(0) % 2 * np.uint8(255)
    if name == "lsun_crop":
        write(tmp_path / "LSUN" / "test" / "0.png", np.dstack([board] * 3).astype(np.uint8))
    else:
        write_idx(tmp_path / f"{IDX[name]}-images-idx3-ubyte", board[None])
        write_idx(tmp_path / f"{IDX[name]}-labels-idx1-ubyte", np.array([3]))
    images, _ = load(name, tmp_path, size=2)
    assert images.shape[:3] == (1, 2, 2)
    # A filter that takes single pixels would return 0 or 255.
    np.testing.assert_allclose(images.astype(int), 127, atol=2)


def test_grey_is_luma(tmp_path):
    image = pixels(5, 5, 3)
    write(tmp_path / "LSUN" / "test" / "0.png", image)
    images, _ = load("lsun_crop", tmp_path, grey=True)
    assert images.shape == (1, 5, 5)
    np.testing.assert_allclose(images[0], image @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("form", ["omniglot-py", "omniglot", ".", "zip"])
@pytest.mark.parametrize("split", ["test", "train"])
def test_omniglot(tmp_path, form, split):
    part = {"test": "images_evaluation", "train": "images_background"}[split]
    root = tmp_path / ("omniglot-py" if form == "zip" else form)
    places = ["Greek/character01/0709_01", "Greek/character02/0710_01", "Latin/character01/0965_01"]
    strokes = [pixels(7, 7, seed=seed) > 200 for seed in range(3)]
    for place, stroke in zip(places, strokes, strict=True):
        path = root / part / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # As published: one bit, black on white.
        Image.fromarray(~stroke).save(path)
    if form == "zip":
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            for path in sorted((root / part).rglob("*.png"), reverse=True):
                archive.write(path, path.relative_to(root))
                path.unlink()
            archive.writestr(f"__MACOSX/{part}/Greek/character01/._0709_01.png", b"")
    with pytest.warns(UserWarning, match="has 3 images") as caught:
        images, labels = load_image_set("omniglot", tmp_path, split)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(images, 255 * np.array(strokes, np.uint8))
    np.testing.assert_array_equal(labels, [0, 1, 2])
    assert load("omniglot", tmp_path, split, size=4)[0].shape == (3, 4, 4)


def test_damaged_archive_of_omniglot(tmp_path):
    (tmp_path / "images_evaluation.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"images_evaluation\.zip is damaged"):
        load_image_set("omniglot", tmp_path)


@pytest.fixture
def letters(tmp_path):
    """Folders of notMNIST with one picture of each letter, and a file that is known to be empty."""
    for number, letter in enumerate("ABCDEFGHIJ"):
        write(tmp_path / "notMNIST_small" / letter / "x.png", np.full((4, 4), number, np.uint8))
    (tmp_path / "notMNIST_small" / DAMAGED).write_bytes(b"")
    return tmp_path


def test_notmnist_leaves_out_the_known_empty_files(letters):
    with pytest.warns(UserWarning) as caught:
        images, labels = load_image_set("notmnist", letters)
    np.testing.assert_array_equal(labels, np.arange(10))
    np.testing.assert_array_equal(images, np.broadcast_to(labels[:, None, None], (10, 4, 4)))
    left_out, number = (str(warning.message) for warning in caught)
    assert "1 files" in left_out
    assert DAMAGED in left_out
    assert "has 10 images, but 18724" in number
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.filterwarnings("ignore:1 files in")
def test_other_damaged_pictures_are_errors(letters):
    path = letters / "notMNIST_small" / "B" / "y.png"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"B/y.png cannot be read as a picture"):
        load("notmnist", letters)
    path.write_bytes((letters / "notMNIST_small/C/x.png").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"B/y.png cannot be read as a picture"):
        load("notmnist", letters)
    write(path, pixels(4, 5))
    with pytest.raises(ValueError, match=r"B/y.png has 4 x 5 pixels, and the first picture 4 x 4"):
        load("notmnist", letters)
    assert load("notmnist", letters, size=3)[0].shape == (11, 3, 3)
    for file in (letters / "notMNIST_small" / "J").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"notMNIST_small/J, from http.*small.tar.gz"):
        load("notmnist", letters)


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("name", IDX)
def test_idx_files(tmp_path, name, gzipped):
    images, labels = pixels(3, 5, 4), np.array([9, 0, 4])
    write_idx(tmp_path / f"{IDX[name]}-images-idx3-ubyte", images, gzipped=gzipped)
    write_idx(tmp_path / f"{IDX[name]}-labels-idx1-ubyte", labels, gzipped=gzipped)
    found, classes = load_image_set(name, tmp_path)
    expected = images.transpose(0, 2, 1) if name == "emnist_letters" else images
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(classes, labels)
    assert found.flags.writeable
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte or .*\.gz, from http"):
        load_image_set(name, tmp_path, "train")


def test_damaged_idx_files(tmp_path):
    path = tmp_path / "file"
    write_idx(path, pixels(3, 5))
    content = path.read_bytes()
    for damaged, message in [
        (content[:-1], r"14 values, and its header announces the shape \(3, 5\)"),
        (content[:9], "starts with the bytes 00 00 08 02; expected an IDX file"),
        (b"\x89PNG", "starts with the bytes 89 50 4e 47"),
        (b"", "expected an IDX file"),
        (b"\x00\x00\x0d" + content[3:], "expected an IDX file of uint8"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            read_idx(path)
    compressed = path.with_suffix(".gz")
    for damaged in (gzip.compress(content)[:-9], b"no gzip"):
        compressed.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            read_idx(compressed)


def test_images_and_labels_of_different_lengths(tmp_path):
    write_idx(tmp_path / f"{IDX['mnist']}-images-idx3-ubyte", pixels(3, 5, 4))
    write_idx(tmp_path / f"{IDX['mnist']}-labels-idx1-ubyte", np.arange(2))
    with pytest.raises(ValueError, match=r"images of shape \(3, 5, 4\) and labels of shape \(2,\)"):
        load_image_set("mnist", tmp_path)


def with_checksum(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_by_torchvision(tmp_path, monkeypatch, name):
    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    test_file = reader.test_list[0][0]
    images = pixels(2, 32, 32, 3)
    folder = tmp_path / reader.base_folder
    folder.mkdir()
    key = "labels" if name == "cifar10" else "fine_labels"
    batch = {"data": images.transpose(0, 3, 1, 2).reshape(2, -1), key: [4, 7]}
    (folder / test_file).write_bytes(pickle.dumps(batch))
    meta = {reader.meta["key"]: ["a", "b"]}
    (folder / reader.meta["filename"]).write_bytes(pickle.dumps(meta))
    with pytest.raises(FileNotFoundError, match=f"{reader.base_folder}/ with the published check"):
        load_image_set(name, tmp_path)
    monkeypatch.setattr(reader, "train_list", [])
    monkeypatch.setattr(reader, "test_list", [[test_file, with_checksum(folder / test_file)]])
    md5 = with_checksum(folder / reader.meta["filename"])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5})
    found, labels = load_image_set(name, tmp_path)
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(labels, [4, 7])


@pytest.mark.parametrize("folder", [".", "SVHN"])
def test_svhn_by_torchvision(tmp_path, monkeypatch, folder):
    images = pixels(3, 32, 32, 3)
    path = tmp_path / folder / "test_32x32.mat"
    path.parent.mkdir(exist_ok=True)
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array([[10], [1], [2]])})
    with pytest.raises(FileNotFoundError, match=r"SPLIT_32x32\.mat with the published checksums"):
        load_image_set("svhn", tmp_path)
    split = ["", "test_32x32.mat", with_checksum(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", {"test": split})
    found, labels = load_image_set("svhn", tmp_path)
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(labels, [0, 1, 2])
    assert load_image_set("svhn", tmp_path, grey=True, size=16)[0].shape == (3, 16, 16)


@pytest.mark.parametrize("name", [*ODIN, *IDX, "omniglot", "cifar10", "cifar100", "svhn"])
def test_missing_sets_name_the_layout_and_the_source(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"'{name}' is not in .*; expected .*, from http"):
        load_image_set(name, tmp_path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"name": "imagenet"}, "name='imagenet'; expected one of 'tinyimagenet_crop', "),
        ({"split": "train"}, "split='train'; 'lsun_crop' has only 'test'"),
        ({"name": "svhn", "split": "all"}, "'svhn' has only 'test' and 'train' and 'extra'"),
        ({"size": 0}, "size=0; expected None or a number of pixels"),
        ({"size": 2.5}, r"size=2\.5"),
    ],
)
def test_errors(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        load_image_set(**{"name": "lsun_crop", "root": tmp_path, **args})
