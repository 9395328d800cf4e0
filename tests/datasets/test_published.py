"""Published figures: their form, some values, and that the package contains the files."""

import math

import pytest

import skood
from skood.datasets import load_published

NAMES = load_published()


def test_names():
    assert NAMES == sorted(NAMES)
    with pytest.raises(ValueError, match="no published table 'openood'; expected one of kamkari"):
        load_published("openood")


@pytest.mark.parametrize("name", NAMES)
def test_form(name):
    rows = load_published(name)
    keys = set()
    for row in rows:
        assert 0 <= row["value"] <= 1
        assert row["std"] is None or 0 < row["std"] < 0.2
        assert row["accuracy"] is None or 0.1 < row["accuracy"] < 1
        assert row["positive"] in ("id", "ood", "either", None)
        assert row["skood_class"] is None or hasattr(skood, row["skood_class"])
        assert all(row[key] for key in ("method", "id_set", "ood_set", "metric", "network"))
        assert row["source"] and row["address"].startswith("https://") and row["date"]
        if row["metric"].startswith("auroc"):
            assert row["positive"] == "either"
        keys.add(
            tuple(row[k] for k in ("method", "id_set", "ood_set", "metric", "network", "note"))
        )
    assert len(keys) == len(rows)
    assert len(str(rows).splitlines()) == len(rows) + 1


@pytest.mark.parametrize(
    ("name", "wanted", "values"),
    [
        ("openood_v1.5", {"skood_class": "ViM", "id_set": "CIFAR-10"}, [0.8868, 0.9348]),
        (
            "openood_v1.5",
            {"method": "SCALE", "id_set": "ImageNet-1K", "network": "ResNet50"},
            [0.8136, 0.9653, 0.6467, 0.8885],
        ),
        (
            "liang_2018",
            {"method": "ODIN", "ood_set": "TinyImageNet crop", "id_set": "CIFAR-10"},
            [0.043, 0.047, 0.991, 0.991, 0.991],
        ),
        ("ren_2019", {"method": "LLR(mu, lambda)", "ood_set": "MNIST"}, [0.994, 0.993, 0.001]),
        ("kamkari_2024", {"method": "log p(x)", "ood_set": "SVHN"}, [0.064, 0.045]),
        (
            "vernekar_2019",
            {"method": "OODGen", "id_set": "Fashion-MNIST", "ood_set": "MNIST"},
            [0.9874, 0.0409, 0.0155],
        ),
    ],
)
def test_values(name, wanted, values):
    rows = [r for r in load_published(name) if all(r[k] == v for k, v in wanted.items())]
    assert [row["value"] for row in rows] == values


def test_units():
    """Percent became fractions without rounding."""
    (row,) = (
        r
        for r in load_published("openood_v1.5")
        if (r["method"], r["id_set"], r["ood_set"]) == ("KNN", "CIFAR-100", "near")
    )
    assert (row["value"], row["std"], row["accuracy"]) == (0.8018, 0.0015, 0.7725)
    assert math.isclose(100 * row["value"], 80.18)
