"""Our figures with published figures."""

import numpy as np
import pytest

import skood
from skood import evaluate
from skood.datasets import load_published


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 3))
    sets = {"cifar100": X[:30] + 1, "mnist": X[:30] + 3}
    detectors = {
        "neighbours": skood.ConformalDetector(skood.KNN(n_neighbors=3), random_state=0),
        "distance": skood.Mahalanobis(),
    }
    return evaluate(
        detectors,
        X[80:],
        sets,
        X_train=X[:80],
        metrics=["auroc", "fpr95"],
        groups={"near": ["cifar100"], "far": ["mnist"]},
        confidence=0.95,
        n_resamples=20,
        random_state=0,
    )


def test_methods_of_the_same_class(table):
    both = table.with_published("openood_v1.5", id_set="cifar10", network="three columns")
    assert [(row["ood_set"], row["method"], row["from"]) for row in both[:4]] == [
        ("near", "neighbours", "this table"),
        ("near", "distance", "this table"),
        ("near", "MDS", "OpenOOD v1.5 leaderboard, 2024-07-14"),
        ("near", "KNN", "OpenOOD v1.5 leaderboard, 2024-07-14"),
    ]
    assert [row["ood_set"] for row in both] == ["near"] * 4 + ["far"] * 4
    ours, theirs = both[0], both[3]
    assert ours["network"] == "three columns"
    assert ours["auroc"] == next(row["auroc"] for row in table if row["ood_set"] == "near")
    assert "auroc_low" in ours and "fpr95" not in ours
    assert (theirs["network"], theirs["accuracy"]) == ("ResNet18", 0.9506)
    assert (theirs["auroc"], theirs["auroc_std"]) == (0.9064, 0.002)
    assert "0.906 ± 0.002" in str(both)


def test_choice_of_methods_and_sets(table):
    both = table.with_published(
        "liang_2018",
        id_set="CIFAR-10",
        methods=["ODIN"],
        sets={"cifar100": "TinyImageNet crop"},
    )
    assert [row["method"] for row in both] == ["neighbours", "distance", "ODIN"]
    # ID is the positive class of this FPR95, as here.
    assert (both[2]["auroc"], both[2]["fpr95"]) == (0.991, 0.043)
    everything = table.with_published("openood_v1.5", id_set="CIFAR-100", methods="all")
    near = [row for row in everything if row["ood_set"] == "near"]
    assert len(near) == 2 + 46


def test_the_positive_class_must_be_the_same(table):
    rows = [dict(row, positive="ood") for row in load_published("liang_2018")]
    rows = [row for row in rows if row["metric"] == "fpr95" and row["id_set"] == "CIFAR-10"]
    with pytest.raises(ValueError, match="no metric is in both tables"):
        table.with_published(rows, methods="all", sets={"mnist": "iSUN"})


def test_full_spectrum_figures_stand_alone():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    table = evaluate(
        [skood.KNN(n_neighbors=3).fit(X)],
        X,
        {"near": X + 2},
        shifted_id={"blurred": X / 2},
    )
    both = table.with_published("openood_v1.5", id_set="ImageNet-200")
    assert [sorted({"auroc", "auroc_full_spectrum"} & set(row)) for row in both] == [
        ["auroc", "auroc_full_spectrum"],
        ["auroc"],
        ["auroc_full_spectrum"],
    ]
    assert [row["accuracy"] for row in both] == [None, 0.8637, 0.4392]


def test_errors(table):
    with pytest.raises(ValueError, match=r"id_set=None; expected one of \['CIFAR-10', 'CIFAR-100"):
        table.with_published("openood_v1.5")
    with pytest.raises(ValueError, match=r"methods of the classes \['KNN', 'Mahalanobis'\]"):
        table.with_published("liang_2018", id_set="CIFAR-10")
    with pytest.raises(ValueError, match="no set is in both tables"):
        table.with_published("liang_2018", id_set="CIFAR-10", methods="all")
    with pytest.raises(ValueError, match="no published table 'openood'"):
        table.with_published("openood")
