"""Features that are kept: cached, resumed after an interruption, written to a file."""

import os

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from skood._torch import partial_results
from skood.embeddings import ImageExtractor, _feature_file


class Counting(torch.nn.Module):
    """Counts the items that its network has computed; may fail after some."""

    count = 0
    fails_after = None

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        Counting.count += len(x)
        if Counting.fails_after is not None and Counting.count > Counting.fails_after:
            raise KeyboardInterrupt
        return self.network(x)


@pytest.fixture
def extractor(encoder, processor, images):
    Counting.count, Counting.fails_after = 0, None
    made = ImageExtractor(Counting(encoder), processor, batch_size=4)
    # The comparison with an item alone, once for a module, counts too.
    made.fit(images)
    Counting.count = 0
    return made


def test_a_cache_by_content(extractor, images, folder, tmp_path):
    extractor.set_params(memory=str(tmp_path / "cache"))
    first = extractor.transform(folder)
    assert Counting.count == len(images)
    np.testing.assert_array_equal(extractor.transform(folder), first)
    # Other paths of the same files.
    moved = tmp_path / "moved"
    folder[0].parents[1].rename(moved)
    paths = [moved / path.relative_to(folder[0].parents[1]) for path in folder]
    np.testing.assert_array_equal(extractor.transform(paths), first)
    assert Counting.count == len(images)
    # The batch size does not matter; another file, setting, preprocessing or weight does.
    extractor.set_params(batch_size=5).transform(paths)
    assert Counting.count == len(images)
    images[3].rotate(90).save(paths[7])
    other = extractor.transform(paths)
    assert Counting.count == 2 * len(images)
    assert (other[7] != first[7]).any()
    np.testing.assert_allclose(np.delete(other, 7, 0), np.delete(first, 7, 0), atol=1e-6)
    extractor.set_params(dtype="float16").transform(paths)
    assert Counting.count == 3 * len(images)
    transforms = extractor.processor.transforms
    extractor.set_params(processor=v2.Compose([v2.Resize(17), *transforms[1:]])).transform(paths)
    assert Counting.count == 4 * len(images)
    with torch.no_grad():
        extractor.module.network[-1].bias.add_(1)
    extractor.transform(paths)
    with torch.no_grad():
        extractor.module.network[-1].bias.sub_(1)
    assert Counting.count == 5 * len(images)


def test_what_cannot_be_hashed(extractor, images, tmp_path):
    extractor.set_params(memory=str(tmp_path), pooling=lambda tokens, mask: tokens)
    with pytest.raises(ValueError, match=r"memory=.*can be pickled.*in a module"):
        extractor.transform(images)


@pytest.fixture
def always_saved(monkeypatch):
    monkeypatch.setattr(partial_results, "_SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(_feature_file, "_SECONDS_BETWEEN_SAVES", 0)


def test_an_interrupted_call_is_resumed(extractor, images, tmp_path, always_saved):
    want = extractor.transform(images)
    extractor.set_params(checkpoint_dir=str(tmp_path))
    Counting.count, Counting.fails_after = 0, 17
    with pytest.raises(KeyboardInterrupt):
        extractor.transform(images)
    Counting.count, Counting.fails_after = 0, None
    np.testing.assert_array_equal(extractor.transform(images), want)
    assert Counting.count == len(images) - 16
    # Other items begin anew.
    Counting.count = 0
    extractor.transform(images[::-1])
    assert Counting.count == len(images)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_file(extractor, images, tmp_path, dtype):
    want = extractor.set_params(dtype=dtype).transform(images)
    path = tmp_path / "features.npy"
    features = extractor.write(images, path)
    assert isinstance(features, np.memmap)
    assert not features.flags.writeable
    np.testing.assert_array_equal(features, want)
    np.testing.assert_array_equal(np.load(path), want)
    assert os.listdir(tmp_path) == ["features.npy"]
    # A former file is replaced.
    np.testing.assert_array_equal(extractor.write(images[:8], str(path)), want[:8])


def interrupted(extractor, images, path):
    extractor.set_params(batch_size=1)
    Counting.count, Counting.fails_after = 0, 1 + 64 * 2
    with pytest.raises(KeyboardInterrupt):
        extractor.write(images, path)
    Counting.count, Counting.fails_after = 0, None


def test_an_interrupted_file_is_resumed(extractor, images, tmp_path, always_saved):
    images = images * 5
    want = extractor.set_params(batch_size=1).transform(images)
    path = tmp_path / "features.npy"
    interrupted(extractor, images, path)
    assert not path.exists()
    np.testing.assert_array_equal(extractor.write(images, path), want)
    # One item for the width, two to compare with the written rows.
    assert Counting.count == 3 + len(images) - 128
    assert os.listdir(tmp_path) == ["features.npy"]


def test_a_file_of_other_items_is_not_resumed(extractor, images, tmp_path, always_saved):
    images = images * 5
    path = tmp_path / "features.npy"
    interrupted(extractor, images, path)
    want = extractor.transform(images[1:] + images[:1])
    with pytest.warns(UserWarning, match="features of other items"):
        features = extractor.write(images[1:] + images[:1], path)
    np.testing.assert_array_equal(features, want)
    # Of another setting or number, without a warning.
    interrupted(extractor, images, path)
    want = extractor.set_params(normalize=True).transform(images)
    np.testing.assert_array_equal(extractor.write(images, path), want)


def test_damaged_files(extractor, images, tmp_path, always_saved):
    images = images * 5
    want = extractor.set_params(batch_size=1).transform(images)
    path = tmp_path / "features.npy"
    interrupted(extractor, images, path)
    progress = tmp_path / "features.npy.progress"
    content = progress.read_bytes()
    progress.write_bytes(content[:-9])
    with pytest.warns(UserWarning, match="All features are computed"):
        np.testing.assert_array_equal(extractor.write(images, path), want)
    interrupted(extractor, images, path)
    partial = tmp_path / "features.npy.partial"
    partial.write_bytes(partial.read_bytes()[:300])
    with pytest.warns(UserWarning, match="features of other items"):
        np.testing.assert_array_equal(extractor.write(images, path), want)


def test_a_path_that_is_no_file(extractor, images, tmp_path):
    with pytest.raises(IsADirectoryError, match="give the name of a file"):
        extractor.write(images, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="nothing can be written to path="):
        extractor.write(images, tmp_path / "file" / "features.npy")
