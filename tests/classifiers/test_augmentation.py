"""Augmentations: what they change, and that each image has its own."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from skood.classifiers import ConvNet
from skood.classifiers._augmentation import augment, augmentations_of


def kinds(given):
    return augmentations_of(given, ())


def augmented(x, kind, seed=0, epoch=0):
    return augment(x, kinds(kind), torch.Generator().manual_seed(seed), epoch)


def numbered(n, n_channels=2, height=16, width=24):
    """Images whose pixels all differ, none of them black."""
    size = n * n_channels * height * width
    return 1 + torch.arange(float(size)).reshape(n, n_channels, height, width)


def test_flip():
    x = numbered(200)
    changed = augmented(x, "flip")
    flipped = (changed == x.flip(3)).all((1, 2, 3))
    kept = (changed == x).all((1, 2, 3))
    assert (flipped ^ kept).all()
    assert 70 < flipped.sum() < 130


@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
def test_crop_shifts_each_image_and_fills_with_black(kind):
    x = numbered(150)
    changed = augmented(x, kind)
    assert changed.shape == x.shape
    shifts = []
    for before, after in zip(x, changed, strict=True):
        matches = []
        for mirrored, image in [(False, before), (True, before.flip(2))]:
            padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
            matches += [
                (down, right, mirrored)
                for down in range(5)
                for right in range(5)
                if torch.equal(padded[:, down : down + 16, right : right + 24], after)
            ]
        assert len(matches) == 1
        shifts += matches
    down, right, mirrored = zip(*shifts, strict=True)
    assert set(down) == set(right) == set(range(5))
    assert set(mirrored) == ({False, True} if kind == "crop_flip" else {False})
    assert len(set(shifts)) > 20


@pytest.mark.parametrize("kind", ["crop", "flip", "crop_flip"])
def test_is_decided_by_the_generator(kind):
    x = numbered(9)
    assert torch.equal(augmented(x, kind, 1), augmented(x, kind, 1))
    assert not torch.equal(augmented(x, kind, 1), augmented(x, kind, 2))
    assert torch.equal(x, numbered(9))


def test_small_images_are_shifted_by_one_pixel():
    x = numbered(40, height=3, width=3)
    lost = (augmented(x, "crop") == 0).sum((2, 3))
    assert lost.max() == 5


def test_translate_mirrors_the_border():
    x = numbered(150, height=32, width=40)
    changed = augmented(x, "translate")
    shifts = set()
    for before, after in zip(x, changed, strict=True):
        padded = np.pad(before.numpy(), [(0, 0), (2, 2), (2, 2)], mode="reflect")
        matches = {
            (down, right)
            for down in range(5)
            for right in range(5)
            if (padded[:, down : down + 32, right : right + 40] == after.numpy()).all()
        }
        assert len(matches) == 1
        shifts |= matches
    assert len(shifts) == 25


def test_alternating_flip():
    """Each image is mirrored in every second epoch; half of them start with it."""
    x = torch.rand((400, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    flipped = [
        (augmented(x, "alternating_flip", epoch=e) == x.flip(3)).all((1, 2, 3)) for e in range(3)
    ]
    kept = (augmented(x, "alternating_flip", epoch=0) == x).all((1, 2, 3))
    assert (flipped[0] ^ kept).all()
    assert (flipped[0] ^ flipped[1]).all()
    assert (flipped[0] == flipped[2]).all()
    assert 160 < flipped[0].sum() < 240
    # The half depends on the image alone, not on its place in a batch.
    half = augmented(x[100:], "alternating_flip", epoch=0)
    assert torch.equal(half, augmented(x, "alternating_flip", epoch=0)[100:])


def test_rotation_keeps_the_center_and_turns_by_up_to_ten_degrees():
    """A bright point 10 pixels right of the center moves along a circle."""
    x = torch.zeros((400, 1, 33, 49))
    x[:, 0, 16, 34] = 1.0
    changed = augmented(x, "rotate")[:, 0].double()
    mass = changed.sum((1, 2))
    down = (changed * torch.arange(33.0)[:, None]).sum((1, 2)) / mass - 16
    right = (changed * torch.arange(49.0)).sum((1, 2)) / mass - 24
    degrees = torch.rad2deg(torch.atan2(down, right))
    assert degrees.abs().max() < 11
    assert degrees.min() < -8
    assert degrees.max() > 8
    assert abs(degrees.mean()) < 1
    torch.testing.assert_close(
        torch.hypot(down, right), torch.full((400,), 10.0).double(), atol=0.5, rtol=0
    )


def test_rotation_agrees_with_scipy(monkeypatch):
    """At a known angle, inside the image."""
    from skood.classifiers import _augmentation

    monkeypatch.setattr(_augmentation, "_DEGREES", 0.0)
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((24, 24)), 2)
    x = torch.from_numpy(smooth).float()[None, None]
    torch.testing.assert_close(augmented(x, "rotate"), x)
    # All angles are 10 degrees.
    monkeypatch.setattr(_augmentation, "_DEGREES", 10.0)
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.ones(n))
    turned = augmented(x, "rotate")[0, 0].numpy()
    expected = [ndimage.rotate(smooth, sign * 10, reshape=False, order=1) for sign in (-1, 1)]
    errors = [np.abs(turned - image)[5:-5, 5:-5].max() for image in expected]
    assert min(errors) < 1e-3


def test_resized_crop_enlarges_a_part_inside_the_image():
    """Of a picture whose values are coordinates, the output shows which part was enlarged."""
    size = 32
    axis = torch.arange(size) + 0.5
    x = torch.stack([axis[:, None].expand(size, size), axis.expand(size, size)])[None]
    changed = augmented(x.repeat(500, 1, 1, 1), "resized_crop")[:, :, 1:-1, 1:-1].double()
    # One step of the output is a step of this length in the input.
    height = (changed[:, 0, -1, 0] - changed[:, 0, 0, 0]) / (size - 3)
    width = (changed[:, 1, 0, -1] - changed[:, 1, 0, 0]) / (size - 3)
    area = height * width
    assert area.min() >= 0.95 - 1e-4
    assert area.max() <= 1 + 1e-4
    assert area.min() < 0.953
    assert (height - width).abs().max() > 0.03
    for axis, part in ((0, height), (1, width)):
        first = changed[:, axis, 0, 0] - 1.5 * part
        assert first.min() >= -0.01
        assert (first + size * part).max() <= size + 0.01
        assert first.std() > 0.1


@pytest.mark.parametrize(
    "given", ["mirror", ("flip", "mirror"), ("flip", "alternating_flip")], ids=str
)
def test_unknown_names_raise(given, images, labels):
    with pytest.raises(ValueError, match=r"augmentation|The 'augmentation' parameter"):
        ConvNet((4,), max_steps=1, augmentation=given).fit(images, labels)
