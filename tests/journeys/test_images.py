"""Images: files in folders, arrays of a timm network, 13 bands, 16 bits."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet18_Weights, resnet18

from skood import KNN, ConformalDetector, Energy, PretrainedClassifier, evaluate
from skood.embeddings import from_torchvision

GRASS, SKY, FIRE = (60, 160, 60), (120, 160, 220), (230, 90, 20)


def write_images(folder, n, colour, seed):
    """Write PNG files of different sizes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(n):
        height, width = rng.integers(40, 60, size=2)
        pixels = rng.normal(colour, 20, size=(height, width, 3)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")


def random_network(n_channels):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(n_channels, 16, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed, (name, n) in enumerate({"train": 15, "held_out": 15, "test": 5}.items()):
        write_images(folder / name / "grass", n, GRASS, 2 * seed)
        write_images(folder / name / "sky", n, SKY, 2 * seed + 1)
    write_images(folder / "strange" / "fire", 10, FIRE, 9)
    return folder


def test_folder_of_images_and_a_network_of_torchvision(root, most_false_alarms):
    # The stranger has:
    torch.manual_seed(0)
    network = resnet18(num_classes=2)
    transform = ResNet18_Weights.DEFAULT.transforms(crop_size=64, resize_size=64)
    train, held_out, test, strange = (
        ImageFolder(root / name, transform) for name in ("train", "held_out", "test", "strange")
    )

    # With skood:
    detector = ConformalDetector(KNN(network, n_neighbors=5), alpha=0.1)
    detector = detector.fit(train, X_calibration=held_out)
    p_values = detector.p_values(strange)

    # It is true that:
    assert (p_values == 1 / 31).all()
    assert (detector.predict(test) == -1).sum() <= most_false_alarms(10, 30, 0.1)
    table = evaluate({"KNN": detector}, test, {"fire": strange})
    assert table[0]["auroc"] == 1


def test_folder_of_images_as_it_is(root):
    # The stranger has:
    train, test, strange = (ImageFolder(root / name) for name in ("train", "test", "strange"))

    # With skood:
    detector = KNN(from_torchvision("resnet18", weights=None, device="cpu"), n_neighbors=5)
    detector = detector.fit(train)
    scores = detector.score_samples(strange)

    # It is true that:
    assert (scores < detector.offset_).all()
    assert scores.max() < detector.score_samples(test).min()


class Preprocessed(Dataset):
    """Images with labels, through a transform."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), index % 2


def colourful(n, colour, seed):
    """Return n uint8 images of one colour and noise, shape (n, 48, 48, 3)."""
    pixels = np.random.default_rng(seed).normal(colour, 20, size=(n, 48, 48, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def test_timm_network_with_uint8_images():
    timm = pytest.importorskip("timm")
    # The stranger has:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=2)
    train, strange = colourful(200, GRASS, 0), colourful(50, FIRE, 1)

    # With skood:
    network = PretrainedClassifier(
        network, mean=network.default_cfg["mean"], std=network.default_cfg["std"]
    )
    detector = KNN(network, n_neighbors=5).fit(train)
    decided = detector.predict(strange)

    # It is true that:
    assert (decided == -1).all()
    # Either order of the axes is the same image.
    scores = detector.score_samples(strange)
    assert np.array_equal(detector.score_samples(np.moveaxis(strange, -1, 1)), scores)


def test_timm_network_with_a_data_loader(most_false_alarms):
    timm = pytest.importorskip("timm")
    # The stranger has:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=2)
    settings = timm.data.resolve_model_data_config(network) | {"input_size": (3, 48, 48)}
    transform = timm.data.create_transform(**settings)
    train, held_out, test, strange = (
        DataLoader(Preprocessed(images, transform), batch_size=32, shuffle=seed == 0)
        for seed, images in enumerate(
            [
                colourful(100, SKY, 0),
                colourful(100, SKY, 1),
                colourful(60, SKY, 2),
                colourful(30, FIRE, 3),
            ]
        )
    )

    # With skood:
    detector = ConformalDetector(KNN(network, n_neighbors=5), alpha=0.05)
    detector = detector.fit(train, X_calibration=held_out)
    p_values = detector.p_values(strange)

    # It is true that:
    assert (p_values == 1 / 101).all()
    assert (detector.predict(test) == -1).sum() <= most_false_alarms(60, 100, 0.05)
    # The scores are in the order of the dataset, and equal to scores of the same items in an array.
    items = torch.stack([x for x, _ in strange.dataset])
    assert np.allclose(detector.score_samples(strange), detector.score_samples(items), rtol=1e-5)


def reflectance(n, level, seed):
    """Return n images of 13 bands as satellites deliver them, uint16 of shape (n, 16, 16, 13)."""
    rng = np.random.default_rng(seed)
    bands = level * np.linspace(0.5, 1.5, 13)
    return rng.normal(bands, 150, size=(n, 16, 16, 13)).clip(0, 65535).astype(np.uint16)


def test_thirteen_bands(most_false_alarms):
    # The stranger has:
    network = random_network(13)
    train, held_out = reflectance(200, 1200, 0), reflectance(100, 1200, 1)
    test, strange = reflectance(100, 1200, 2), reflectance(50, 2500, 3)

    # With skood:
    network = PretrainedClassifier(network, value_range=(0, 10_000), channels="last")
    detector = ConformalDetector(KNN(network)).fit(train, X_calibration=held_out)
    p_values = detector.p_values(strange)

    # It is true that:
    assert (p_values == 1 / 101).all()
    assert (detector.predict(test) == -1).sum() <= most_false_alarms(100, 100, 0.05)
    # The network reads reflectances from 0 to 1, bands first.
    floats = np.moveaxis(strange, -1, 1) / np.float32(10_000)
    scores = KNN(network.module).fit(np.moveaxis(train, -1, 1) / np.float32(10_000))
    assert np.allclose(scores.score_samples(floats), detector.score_samples(strange), rtol=1e-4)


def test_sixteen_bits():
    # The stranger has:
    rng = np.random.default_rng(0)
    train = rng.normal(20_000, 3_000, size=(200, 32, 32)).astype(np.uint16)
    new = rng.normal(40_000, 3_000, size=(50, 32, 32)).astype(np.uint16)
    network = random_network(1)

    # With skood:
    network = PretrainedClassifier(network, value_range=(0, 65_535))
    detector = Energy(network).fit(train)
    scores = detector.score_samples(new)

    # It is true that:
    logits = network.module(torch.from_numpy(new[:, None] / np.float32(65_535)))
    assert np.allclose(scores, logits.logsumexp(1).detach(), rtol=1e-5)
