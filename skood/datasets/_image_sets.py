"""Image sets of the OOD literature, as their public archives lay them out."""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from skood.datasets._checks import is_count
from skood.datasets._image_files import convert_images, pictures_in, read_idx, read_pictures

__all__ = ["load_image_set"]

Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]


def load_image_set(
    name: str,
    root: str | os.PathLike[str],
    split: str = "test",
    *,
    size: int | None = None,
    grey: bool = False,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Load an image set of the OOD literature from a folder.

    Nothing is downloaded: the folder holds the unpacked archive of the set, in the layout of its
    publisher or of torchvision. If it does not, the error states the expected files and where the
    archive is published.

    Parameters
    ----------
    name : str
        Name of the set, see the table in the Notes.
    root : path-like
        Folder that contains the unpacked archives.
    split : {"test", "train", "extra"}, default="test"
        The sets of [1]_ have only "test"; "extra" is a split of SVHN. For Omniglot, "train" is
        ``images_background``; for notMNIST, ``notMNIST_large``.
    size : int or None, default=None
        Height and width of the result; None keeps the size. Images are resized with Pillow's
        bilinear filter, which averages over the pixels when it reduces the size.
    grey : bool, default=False
        Whether to convert colour images to grey (ITU-R 601 luma).

    Returns
    -------
    images : ndarray of shape (n, H, W) or (n, H, W, 3), uint8
        Characters are white on black, as in MNIST: Omniglot is inverted, and EMNIST, whose files
        have rows and columns exchanged, is transposed.
    labels : ndarray of shape (n,), int64
        Classes as published; 0 to 9 for the letters A to J of notMNIST; the number of the character
        for Omniglot, in alphabetical order of alphabets and characters; -1, the label of OOD rows,
        for the sets of [1]_, which have no classes.

    Raises
    ------
    FileNotFoundError
        If the files of the set are not in `root`.
    ValueError
        If a parameter is unknown, or a file is damaged. A warning lists the files that are known to
        be empty in the archives of notMNIST, which are left out, and states a number of pictures
        that differs from the number in the archive.

    See Also
    --------
    gaussian_noise, uniform_noise : The noise in the tables of [1]_.
    synthetic_outliers : Outliers made from the data.

    Notes
    -----
    The images of the split "test", and their files relative to `root`:

    ===================== ====================== ===============================================
    name                  images                 files
    ===================== ====================== ===============================================
    "tinyimagenet_crop"   10 000, 32 x 32 x 3    ``Imagenet/test/*.png``
    "tinyimagenet_resize" 10 000, 32 x 32 x 3    ``Imagenet_resize/Imagenet_resize/*.png``
    "lsun_crop"           10 000, 32 x 32 x 3    ``LSUN/test/*.png``
    "lsun_resize"         10 000, 32 x 32 x 3    ``LSUN_resize/LSUN_resize/*.png``
    "isun"                8 925, 32 x 32 x 3     ``iSUN/iSUN_patches/*``
    "omniglot"            13 180, 105 x 105      ``omniglot-py/images_evaluation/*/*/*.png``
    "notmnist"            18 724, 28 x 28        ``notMNIST_small/A/*.png`` to ``J``
    "mnist"               10 000, 28 x 28        ``MNIST/raw/t10k-images-idx3-ubyte``
    "fashion_mnist"       10 000, 28 x 28        ``FashionMNIST/raw/t10k-images-idx3-ubyte``
    "kmnist"              10 000, 28 x 28        ``KMNIST/raw/t10k-images-idx3-ubyte``
    "emnist_letters"      20 800, 28 x 28        ``EMNIST/raw/emnist-letters-test-...``
    "cifar10"             10 000, 32 x 32 x 3    ``cifar-10-batches-py/``
    "cifar100"            10 000, 32 x 32 x 3    ``cifar-100-python/``
    "svhn"                26 032, 32 x 32 x 3    ``test_32x32.mat`` or ``SVHN/test_32x32.mat``
    ===================== ====================== ===============================================

    The pictures of the first five sets may be one folder higher (``LSUN_resize/*.png``). The folder
    of Omniglot [2]_ may be zipped, as it is published. notMNIST [3]_ may be in the format of MNIST
    (``notMNIST/raw/t10k-images-idx3-ubyte``). Files of this format may be gzipped.

    References
    ----------
    .. [1] S. Liang, Y. Li and R. Srikant, "Enhancing the Reliability of Out-of-distribution Image
       Detection in Neural Networks", ICLR 2018. Archives: https://github.com/facebookresearch/odin
    .. [2] B. M. Lake, R. Salakhutdinov and J. B. Tenenbaum, "Human-level concept learning through
       probabilistic program induction", Science 350, 2015. https://github.com/brendenlake/omniglot
    .. [3] Y. Bulatov, "notMNIST dataset", 2011. http://yaroslavvb.com/upload/notMNIST/

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skood.datasets import load_image_set
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / "KMNIST" / "raw").mkdir(parents=True)
    >>> files = {"images-idx3": [3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 90, 250]}
    >>> files["labels-idx1"] = [1, 0, 0, 0, 1, 7]
    >>> for name, values in files.items():
    ...     path = root / "KMNIST" / "raw" / f"t10k-{name}-ubyte"
    ...     _ = path.write_bytes(bytes([0, 0, 8, *values]))
    >>> load_image_set("kmnist", root)
    (array([[[ 90, 250]]], dtype=uint8), array([7]))
    """
    if name not in _SETS:
        raise ValueError(f"name={name!r}; expected one of {', '.join(map(repr, _SETS))}")
    read, splits = _SETS[name]
    if split not in splits:
        raise ValueError(f"split={split!r}; {name!r} has only {' and '.join(map(repr, splits))}")
    if size is not None and not is_count(size):
        raise ValueError(f"size={size!r}; expected None or a number of pixels, at least 1")
    images, labels = read(_Request(name, Path(root), split, size, grey))
    return convert_images(images, grey=grey, size=size), labels.astype(np.int64)


@dataclass(frozen=True)
class _Request:
    """The arguments of `load_image_set`."""

    name: str
    root: Path
    split: str
    size: int | None
    grey: bool

    def pictures(
        self, files: Iterable[tuple[str, Path | IO[bytes]]], *, grey: bool
    ) -> npt.NDArray[np.uint8]:
        return read_pictures(files, grey=grey, size=self.size)

    def missing(self, expected: str, source: str) -> FileNotFoundError:
        return FileNotFoundError(
            f"{self.name!r} is not in {self.root}; expected {expected}, from {source}"
        )

    def check_number(self, n_images: int, expected: int) -> None:
        """Warn about a number of pictures that differs from the number in the archive."""
        if n_images != expected:
            warnings.warn(
                f"{self.name!r} in {self.root} has {n_images} images, but {expected} in the "
                "published archive; unpack the archive again unless this is intended",
                stacklevel=4,
            )


@dataclass(frozen=True)
class _Pictures:
    """A folder of pictures without classes, of an archive of ODIN's authors."""

    folder: str
    inner_folder: str
    n_images: int
    url: str

    def __call__(self, request: _Request) -> Images:
        outer = request.root / self.folder
        for folder in (outer / self.inner_folder, outer):
            files = pictures_in(folder)
            if files:
                images = request.pictures(((str(file), file) for file in files), grey=request.grey)
                request.check_number(len(images), self.n_images)
                return images, np.full(len(images), -1)
        raise request.missing(f"pictures in {outer / self.inner_folder}", self.url)


@dataclass(frozen=True)
class _Idx:
    """Images and labels in files of the format of MNIST."""

    folder: str
    stems: dict[str, str]
    url: str
    transposed: bool = False

    def __call__(self, request: _Request) -> Images:
        raw = request.root / self.folder / "raw"
        arrays = []
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            path = raw / f"{self.stems[request.split]}-{kind}"
            candidates = [path, path.with_name(f"{path.name}.gz")]
            found = [candidate for candidate in candidates if candidate.is_file()]
            if not found:
                raise request.missing(f"{path} or {path.name}.gz", self.url)
            arrays.append(read_idx(found[0]))
        images, labels = arrays
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{raw} has images of shape {images.shape} and labels of shape {labels.shape}; "
                "expected (n, H, W) and (n,)"
            )
        return images.swapaxes(1, 2) if self.transposed else images, labels


_T10K = {"test": "t10k", "train": "train"}
_EMNIST = {"test": "emnist-letters-test", "train": "emnist-letters-train"}
_NOTMNIST_URL = "http://yaroslavvb.com/upload/notMNIST/"

# Files in the archives of notMNIST that contain no picture.
_DAMAGED = {
    "A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png",
    "F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png",
    "A/RnJlaWdodERpc3BCb29rSXRhbGljLnR0Zg==.png",
    "A/SG90IE11c3RhcmQgQlROIFBvc3Rlci50dGY=.png",
    "A/Um9tYW5hIEJvbGQucGZi.png",
    "B/TmlraXNFRi1TZW1pQm9sZEl0YWxpYy5vdGY=.png",
    "D/VHJhbnNpdCBCb2xkLnR0Zg==.png",
}


def _read_notmnist(request: _Request) -> Images:
    """Read folders A to J of pictures, or IDX files."""
    folder, n_images = {
        "test": (request.root / "notMNIST_small", 18_724),
        "train": (request.root / "notMNIST_large", 529_114),
    }[request.split]
    if not folder.is_dir() and (request.root / "notMNIST").is_dir():
        return _Idx("notMNIST", _T10K, _NOTMNIST_URL)(request)
    labels, paths, damaged = [], [], []
    for label, letter in enumerate("ABCDEFGHIJ"):
        files = pictures_in(folder / letter)
        if not files:
            raise request.missing(
                f"pictures in {folder / letter}", f"{_NOTMNIST_URL}{folder.name}.tar.gz"
            )
        for file in files:
            if f"{letter}/{file.name}" in _DAMAGED:
                damaged.append(f"{letter}/{file.name}")
            else:
                labels.append(label)
                paths.append(file)
    if damaged:
        warnings.warn(
            f"{len(damaged)} files in {folder} contain no picture in the published archive, and "
            f"are left out: {', '.join(damaged)}",
            stacklevel=3,
        )
    images = request.pictures(((str(path), path) for path in paths), grey=True)
    request.check_number(len(images), n_images)
    return images, np.array(labels)


def _read_omniglot(request: _Request) -> Images:
    """Read pictures in ALPHABET/CHARACTER/, inverted: white on black."""
    part, n_images = {
        "test": ("images_evaluation", 13_180),
        "train": ("images_background", 19_280),
    }[request.split]
    images, names = _omniglot_pictures(request, part)
    request.check_number(len(images), n_images)
    characters = [os.path.dirname(name) for name in names]
    return 255 - images, np.unique(characters, return_inverse=True)[1]


def _omniglot_pictures(request: _Request, part: str) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Read the pictures and their names from a folder, or from the zipped folder."""
    places = [request.root / name for name in ("omniglot-py", "omniglot", "")]
    for place in places:
        files = sorted((place / part).glob("*/*/[!.]*.png"))
        if files:
            names = [str(file) for file in files]
            return request.pictures(zip(names, files, strict=True), grey=True), names
        path = place / f"{part}.zip"
        if path.is_file():
            try:
                with zipfile.ZipFile(path) as archive:
                    names = sorted(
                        name for name in archive.namelist() if re.fullmatch(f"{part}/.+.png", name)
                    )
                    contents = (
                        (f"{name} in {path}", io.BytesIO(archive.read(name))) for name in names
                    )
                    return request.pictures(contents, grey=True), names
            except zipfile.BadZipFile as error:
                raise ValueError(f"{path} is damaged ({error}); get it again") from error
    raise request.missing(
        f"{part}/ALPHABET/CHARACTER/*.png or {part}.zip in {places[0]}",
        f"https://github.com/brendenlake/omniglot/raw/master/python/{part}.zip",
    )


def _read_with_torchvision(request: _Request) -> Images:
    from torchvision import datasets

    root, is_training = request.root, request.split == "train"
    try:
        if request.name == "svhn":
            folder = root / "SVHN" if (root / "SVHN").is_dir() else root
            data = datasets.SVHN(folder, split=request.split)
            return data.data.transpose(0, 2, 3, 1), data.labels
        reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[request.name]
        data = reader(root, train=is_training)
        return data.data, np.array(data.targets)
    except RuntimeError as error:
        expected, url = _OF_TORCHVISION[request.name]
        raise request.missing(f"{expected} with the published checksums", url) from error


_ODIN = "https://www.dropbox.com/s/"
_TEST, _BOTH = ("test",), ("test", "train")
_OF_TORCHVISION = {
    "cifar10": ("cifar-10-batches-py/", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "cifar100": ("cifar-100-python/", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "svhn": ("SPLIT_32x32.mat", "http://ufldl.stanford.edu/housenumbers/"),
}
# The reader of each set, and its splits.
_SETS: dict[str, tuple[Callable[[_Request], Images], tuple[str, ...]]] = {
    "tinyimagenet_crop": (
        _Pictures("Imagenet", "test", 10_000, f"{_ODIN}avgm2u562itwpkl/Imagenet.tar.gz"),
        _TEST,
    ),
    "tinyimagenet_resize": (
        _Pictures(
            "Imagenet_resize",
            "Imagenet_resize",
            10_000,
            f"{_ODIN}kp3my3412u5k9rl/Imagenet_resize.tar.gz",
        ),
        _TEST,
    ),
    "lsun_crop": (_Pictures("LSUN", "test", 10_000, f"{_ODIN}fhtsw1m3qxlwj6h/LSUN.tar.gz"), _TEST),
    "lsun_resize": (
        _Pictures(
            "LSUN_resize", "LSUN_resize", 10_000, f"{_ODIN}moqh2wh8696c3yl/LSUN_resize.tar.gz"
        ),
        _TEST,
    ),
    "isun": (
        _Pictures("iSUN", "iSUN_patches", 8_925, f"{_ODIN}ssz7qxfqae0cca5/iSUN.tar.gz"),
        _TEST,
    ),
    "omniglot": (_read_omniglot, _BOTH),
    "notmnist": (_read_notmnist, _BOTH),
    "mnist": (_Idx("MNIST", _T10K, "https://ossci-datasets.s3.amazonaws.com/mnist/"), _BOTH),
    "fashion_mnist": (
        _Idx("FashionMNIST", _T10K, "https://github.com/zalandoresearch/fashion-mnist"),
        _BOTH,
    ),
    "kmnist": (_Idx("KMNIST", _T10K, "https://github.com/rois-codh/kmnist"), _BOTH),
    "emnist_letters": (
        _Idx(
            "EMNIST",
            _EMNIST,
            "https://www.nist.gov/itl/products-and-services/emnist-dataset",
            transposed=True,
        ),
        _BOTH,
    ),
    "cifar10": (_read_with_torchvision, _BOTH),
    "cifar100": (_read_with_torchvision, _BOTH),
    "svhn": (_read_with_torchvision, (*_BOTH, "extra")),
}
