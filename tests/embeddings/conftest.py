"""Tiny networks, preprocessing and items."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2


@pytest.fixture(scope="session")
def encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 5)).eval()


@pytest.fixture(scope="session")
def processor():
    return v2.Compose(
        [
            v2.Resize(20),
            v2.CenterCrop(16),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]),
        ]
    )


@pytest.fixture(scope="session")
def images():
    """Images of unequal sizes."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 40, (40, 2))
    shades = rng.integers(0, 200, 40)
    return [
        Image.fromarray(rng.integers(c, c + 50, (h, w, 3), dtype=np.uint8))
        for (h, w), c in zip(sizes, shades, strict=True)
    ]


@pytest.fixture(scope="session")
def alone():
    """Return features of the bare network, item by item."""

    def made(network, processor, images):
        with torch.no_grad():
            return np.concatenate(
                [network(processor(image.convert("RGB"))[None]).numpy() for image in images]
            )

    return made


@pytest.fixture
def folder(images, tmp_path):
    """Paths of image files, in folders of two classes."""
    paths = []
    for i, image in enumerate(images):
        path = tmp_path / "files" / "ab"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        paths.append(path)
    return paths
