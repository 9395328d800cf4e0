"""People who come from PyOD or pytorch-ood: the same scores, and then a guarantee."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import skood
from skood import ConformalDetector, Energy, ExternalDetector, PretrainedClassifier, evaluate


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(800, 4)), rng.normal(size=(300, 4)), rng.normal(8, 1, size=(50, 4))


def test_detector_of_pyod_in_a_calibrated_detector(rows, most_false_alarms):
    pytest.importorskip("pyod")
    from pyod.models.iforest import IForest

    # The stranger has:
    train, test, strange = rows
    theirs = IForest(random_state=0)

    # With skood:
    detector = ConformalDetector(ExternalDetector(theirs), alpha=0.05, random_state=0).fit(train)
    p_values = detector.p_values(strange)

    # It is true that:
    assert (p_values <= 0.05).all()
    assert (detector.predict(test) == -1).sum() <= most_false_alarms(300, 240, 0.05)


def test_detector_of_pyod_that_is_fitted(rows):
    pytest.importorskip("pyod")
    from pyod.models.knn import KNN
    from sklearn.frozen import FrozenEstimator

    # The stranger has:
    train, test, strange = rows
    theirs = KNN(n_neighbors=5).fit(train)

    # With skood:
    wrapped = ExternalDetector(FrozenEstimator(theirs)).fit(train)
    ours = skood.KNN(n_neighbors=5).fit(train)
    table = evaluate({"PyOD": wrapped, "skood": ours}, test, {"far": strange})

    # It is true that:
    scores = -theirs.decision_function(test)
    assert np.array_equal(wrapped.score_samples(test), scores)
    assert np.allclose(ours.score_samples(test), scores, rtol=1e-9)
    assert [row["auroc"] for row in table] == [1, 1]


def test_network_and_loader_of_a_pytorch_ood_user():
    pytest.importorskip("pytorch_ood", minversion="0.4")
    from pytorch_ood.detector import KNN, EnergyBased
    from pytorch_ood.model import WideResNet

    # The stranger has:
    torch.manual_seed(0)
    network = WideResNet(5, depth=10, widen_factor=1).eval()
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(100, 3, 32, 32), dtype=np.uint8)
    normalised = (torch.from_numpy(pixels) / 255 - 0.5) / 0.25
    train = DataLoader(TensorDataset(normalised[:60], torch.arange(60) % 5), batch_size=20)
    new = DataLoader(TensorDataset(normalised[60:], torch.full((40,), -1)), batch_size=20)

    # With skood:
    ours = {"Energy": Energy(network), "KNN": skood.KNN(network, n_neighbors=5)}
    ours = {name: detector.fit(train) for name, detector in ours.items()}
    scores = {name: detector.score_samples(new) for name, detector in ours.items()}

    # It is true that:
    theirs = {"Energy": EnergyBased(network), "KNN": KNN(network.features, k=5).fit(train)}
    for name, detector in theirs.items():
        with torch.no_grad():
            expected = -torch.cat([detector(x) for x, _ in new])
        assert np.ptp(scores[name]) > 0
        assert np.allclose(scores[name], expected, rtol=1e-4, atol=1e-6)
    # Pixels as they are, if the network's normalisation is given.
    raw = PretrainedClassifier(network, mean=0.5, std=0.25)
    again = Energy(raw).fit(pixels[:60]).score_samples(pixels[60:])
    assert np.allclose(again, scores["Energy"], rtol=1e-5)
