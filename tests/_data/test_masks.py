"""Masked arrays: plain without masked values, and errors with them, wherever arrays are read."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import Dataset

from skood import KNN, MSP, ExternalDetector, PretrainedClassifier
from skood.metrics import auroc, ood_report

ROWS = np.random.default_rng(0).normal(size=(60, 4))


def masked(values, *places):
    mask = np.zeros(values.shape, dtype=bool)
    for place in places:
        mask[place] = True
    return np.ma.masked_array(values, mask)


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_nothing_is_masked():
    expected = KNN().fit(ROWS).score_samples(ROWS)
    for X in masked(ROWS), np.ma.masked_array(ROWS), [masked(row) for row in ROWS]:
        detector = KNN().fit(X)
        np.testing.assert_array_equal(detector.score_samples(X), expected)
    y = np.repeat([1, -1], 30)
    assert auroc(masked(y), masked(ROWS[:, 0])) == auroc(y, ROWS[:, 0])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (masked(ROWS, (3, 1), (5, 0)), r"^X is a masked array, and 2 of its 240 values are masked"),
        (masked(ROWS.astype(np.float32), (3, 1)), "^X is a masked array, and 1 of its 240"),
        (masked(ROWS.astype(int), (0, 0)), "^X is a masked array"),
        ([*ROWS[:20], masked(ROWS[0], 2)], "^item 20 of X is a masked array, and 1 of its 4"),
        (Items([*ROWS[:20], masked(ROWS[0], 2)]), "item 20 of the Dataset X .* is a masked array"),
    ],
    ids=["rows", "float32", "integers", "list", "Dataset"],
)
def test_masked_items(X, message):
    with pytest.raises(ValueError, match=message):
        KNN().fit(X)
    with pytest.raises(ValueError, match=message):
        KNN().fit(ROWS).score_samples(X)


@pytest.mark.parametrize(
    "make", [lambda: KNN(StandardScaler()), lambda: ExternalDetector(IsolationForest())]
)
def test_models_of_other_libraries(make):
    """They would read what is under the mask."""
    with pytest.raises(ValueError, match=r"^X is a masked array, and 2 of its 240"):
        make().fit(masked(ROWS, (3, 1), (5, 0)))


def test_masked_images():
    # As rasterio reads the pixels outside of a scene.
    network = PretrainedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(13 * 16, 3)))
    images = np.random.default_rng(0).random((20, 13, 4, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="X is a masked array, and 16 of its 4160 values"):
        MSP(network).fit(masked(images, (2, 5)))


def test_masked_fields():
    class Network(nn.Module):
        def forward(self, a, b):
            return torch.stack([a.sum(1), b.sum(1)], 1)

    fields = {"a": ROWS.astype(np.float32), "b": masked(ROWS.astype(np.float32), (1, 1))}
    with pytest.raises(ValueError, match="the field 'b' of X is a masked array"):
        MSP(PretrainedClassifier(Network())).fit(fields)


def test_masked_labels_outputs_and_scores():
    y = np.arange(60) % 3
    with pytest.raises(ValueError, match="y is a masked array, and 1 of its 60"):
        KNN().fit(ROWS, masked(y, 4))
    with pytest.raises(ValueError, match="logits is a masked array"):
        MSP().fit_outputs(logits=masked(ROWS, (0, 0)))
    is_id = np.repeat([1, -1], 30)
    with pytest.raises(ValueError, match="y_score is a masked array"):
        auroc(is_id, masked(ROWS[:, 0], 3))
    with pytest.raises(ValueError, match="y_true is a masked array"):
        ood_report(masked(is_id, 3), ROWS[:, 0])


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors(layout):
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=layout)
    with pytest.raises(ValueError, match=r"nested tensor.*to_padded_tensor"):
        KNN().fit(nested)


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_quantised_tensors():
    quantised = torch.quantize_per_tensor(torch.tensor(ROWS).float(), 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match=r"dtype torch.qint8; give X.dequantize\(\)"):
        KNN().fit(quantised)
