"""What detectors need and cite."""

import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture

import skood
from skood import cite, find_detectors
from skood._catalogue import NEEDS, entries

ENTRIES = {entry.name: entry for entry in entries()}


@pytest.mark.parametrize(
    ("name", "needs", "labels", "outliers", "year"),
    [
        ("MSP", "logits", False, False, 2017),
        ("OpenMax", "logits", True, False, 2016),
        ("KNN", "features", False, False, 2022),
        ("NNGuide", "features and logits", False, False, 2023),
        ("ViM", "head", False, False, 2022),
        ("ODIN", "network", False, False, 2018),
        ("MCM", "texts", False, False, 2022),
        ("LikelihoodRatio", "density", False, False, 2019),
        # A preprint, whose year is in its number.
        ("WAIC", "density", False, False, 2018),
        ("VMDLS", "data", True, False, 2022),
        ("OutlierExposure", "data", True, True, 2019),
        ("DeepSVDD", "data", False, False, 2018),
    ],
)
def test_an_entry_says_what_the_detector_needs(name, needs, labels, outliers, year):
    entry = ENTRIES[name]
    found = entry.needs, entry.labels, entry.outliers, entry.year
    assert found == (needs, labels, outliers, year)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: entry.name)
def test_every_entry_is_complete(entry):
    assert entry.needs in NEEDS
    assert entry.summary.endswith(".")
    assert entry.paper
    assert 2000 < entry.year < 2100
    assert getattr(skood, entry.name) is entry.cls


def test_detectors_are_found_by_what_they_need():
    found = find_detectors("logits", labels=False)
    names = [row["detector"] for row in found]
    assert {"MSP", "Energy"} <= set(names)
    assert not {"OpenMax", "KNN"} & set(names)
    years = [row["year"] for row in found]
    assert years == sorted(years)
    assert "detector" in str(found).splitlines()[0]
    assert {row["detector"] for row in find_detectors(outliers=True)} == {
        *("DeepSAD", "EnergyRegularized", "OutlierExposure")
    }
    assert len(find_detectors()) == len(ENTRIES)


def test_unknown_needs_are_an_error():
    with pytest.raises(ValueError, match="needs='gradients'; expected one of"):
        find_detectors("gradients")


def test_cite_lists_the_models_inside():
    detector = skood.ConformalDetector(skood.LikelihoodRatio(FrozenEstimator(skood.PixelCNN())))
    names = [line.split(":")[0] for line in cite(detector).splitlines()]
    assert list(dict.fromkeys(names)) == ["ConformalDetector", "LikelihoodRatio", "PixelCNN"]
    assert "LikelihoodRatio: J. Ren" in cite(detector)
    assert cite(skood.ODIN).startswith("ODIN: S. Liang")
    # scikit-learn's models have citations of their own.
    assert "GaussianMixture" not in cite(skood.LogLikelihood(GaussianMixture()))


def test_cite_refuses_what_is_no_estimator():
    with pytest.raises(TypeError, match="detector is of type str"):
        cite("KNN")
