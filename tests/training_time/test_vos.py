"""VOS: queues of features, virtual outliers, and the loss that tells them from the data."""

from collections import deque

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from scipy.stats import chi2, kstest
from sklearn.metrics import roc_auc_score

from skood import MLP, VOS, ConvNet, Energy


def tiny(**params):
    network = MLP((6,), max_epochs=5, batch_size=32, learning_rate=0.01, precision="fp32")
    return VOS(**{"classifier": network, "n_candidates": 200, "random_state": 0, **params})


def filled(objective):
    """Objective that has seen an epoch, and makes virtual outliers."""
    with torch.no_grad():
        for _ in range(2):
            for start in range(0, 150, 30):
                rows = np.arange(start, start + 30)
                objective.loss(*objective.prepare(objective.read(rows), None))
    objective.start_epoch(objective.first_epoch, resumed=False)
    assert objective.synthesizes
    return objective


@pytest.fixture
def objective(iris, objective_of):
    return filled(objective_of(tiny(), *iris)[0])


def whitened(objective, points):
    """Distances of points from their means, along the axes of the covariance, and the means."""
    mean, factor = (part.numpy() for part in objective.gaussians())
    of_class = np.arange(len(points)) // (len(points) // len(mean))
    return np.linalg.solve(factor, (points - mean[of_class]).T).T


@pytest.mark.parametrize("n_queue", [2, 5, 1000])
def test_queues_hold_the_latest_features(iris, objective_of, n_queue):
    """Also where a batch has more rows of a class than its queue, and where a class is rare."""
    X, y = iris
    rows = np.r_[0:50, 50:57, 100:150]
    objective, *_ = objective_of(tiny(n_queue=n_queue), X[rows], y[rows])
    lengths = np.minimum([50, 7, 50], n_queue)
    np.testing.assert_array_equal(objective.n_queued, lengths)
    expected = [deque(maxlen=int(length)) for length in lengths]
    rng = np.random.default_rng(0)
    for size in (1, 30, 12, 60, 3, 80):
        class_index = rng.integers(0, 3, size)
        features = rng.normal(size=(size, 6)).astype(np.float32)
        objective.enqueue(torch.from_numpy(features), torch.from_numpy(class_index))
        for row, k in zip(features, class_index, strict=True):
            expected[k].append(tuple(row))
        for queue, length, known in zip(objective.queues, lengths, expected, strict=True):
            held = {tuple(row) for row in queue[:length].tolist()}
            assert held - {(0.0,) * 6} == {tuple(map(float, row)) for row in known}


def test_gaussians(iris, objective_of):
    """Means of the classes, and one covariance around them, in which all rows weigh the same."""
    X, y = iris
    rows = np.r_[0:50, 50:57, 100:150]
    objective, *_ = objective_of(tiny(n_queue=20), X[rows], y[rows])
    features = np.random.default_rng(0).normal(size=(47, 6)) @ np.diag([1, 2, 3, 1, 1, 0.0])
    class_index = np.repeat([0, 1, 2], [20, 7, 20])
    objective.enqueue(torch.from_numpy(features).float(), torch.from_numpy(class_index))
    mean, factor = objective.gaussians()
    expected = np.array([features[class_index == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    centered = features - expected[class_index]
    covariance = centered.T @ centered / 47 + 1e-4 * np.eye(6)
    np.testing.assert_allclose(factor @ factor.T, covariance, atol=1e-5)
    assert mean.dtype == torch.float64


def test_features_that_are_not_finite_make_the_loss_so(objective):
    objective.queues[0, 0] = torch.inf
    assert objective.gaussians()[1].isnan().all()
    logits = torch.zeros(4, 3)
    assert objective.uncertainty(logits, objective.virtual_outliers()).isnan().any()


def test_virtual_outliers_are_the_farthest_of_many_draws(iris, objective_of):
    """Their Mahalanobis distances are distributed like the largest of n draws from a Gaussian."""
    detector = tiny(n_candidates=300, n_outliers_per_class=2)
    objective = filled(objective_of(detector, *iris)[0])
    torch.manual_seed(0)
    with torch.no_grad():
        draws = [objective.virtual_outliers().double().numpy() for _ in range(300)]
    steps = np.array([whitened(objective, draw) for draw in draws])
    squared = (steps**2).sum(2).reshape(300, 3, 2)
    brute = np.random.default_rng(0).chisquare(6, (5000, 300))
    brute = np.sort(brute, axis=1)[:, :-3:-1]
    for rank in (0, 1):
        assert kstest(squared[:, :, rank].ravel(), brute[:, rank]).pvalue > 1e-3
    # Half the largest of n draws are beyond the quantile 2^(-1/n); none is in the bulk.
    beyond = squared[:, :, 0] > chi2(6).ppf(0.5 ** (1 / 300))
    assert abs(beyond.mean() - 0.5) < 0.07
    assert squared.min() > chi2(6).ppf(0.95)
    # In every direction alike.
    directions = steps / np.linalg.norm(steps, axis=2, keepdims=True)
    directions = directions.reshape(-1, 6)
    assert np.abs(directions.mean(0)).max() < 0.05
    np.testing.assert_allclose(np.cov(directions.T), np.eye(6) / 6, atol=0.02)


def test_each_class_has_its_virtual_outliers(objective):
    torch.manual_seed(0)
    objective.detector.n_outliers_per_class = 4
    # With means that are far apart.
    objective.queues += 100 * torch.arange(3)[:, None, None]
    outliers = objective.virtual_outliers()
    assert outliers.shape == (12, 6)
    assert outliers.dtype == torch.float32
    nearest = cdist(outliers, objective.queues.mean(1)).argmin(1)
    np.testing.assert_array_equal(nearest, np.repeat([0, 1, 2], 4))


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_loss_by_hand(iris, objective_of, beta):
    objective = filled(objective_of(tiny(uncertainty_weight=beta), *iris)[0])
    with torch.no_grad():
        objective.class_weight.copy_(torch.tensor([0.3, -2.0, 1.5]))
    x, class_index = objective.prepare(objective.read(np.arange(20, 80, 2)), None)
    torch.manual_seed(0)
    losses = objective.loss(x, class_index)
    torch.manual_seed(0)
    outliers = objective.virtual_outliers()

    def double(tensor):
        return tensor.detach().double().numpy()

    head = objective.network[-1]
    of_outliers = double(outliers) @ double(head.weight).T + double(head.bias)
    logits = np.concatenate([double(objective.network(x)), of_outliers])
    right = np.exp(logits[np.arange(30), class_index]) / np.exp(logits[:30]).sum(1)
    np.testing.assert_allclose(losses["cross_entropy"].detach(), -np.log(right), rtol=1e-4)
    # The class of a negative weight hardly counts.
    negative_energy = np.log(0.3 * np.exp(logits[:, 0]) + 1.5 * np.exp(logits[:, 2]))
    weight, bias = (double(p) for p in objective.logistic_regression.parameters())
    two = negative_energy[:, None] * weight[:, 0] + bias
    is_inlier = (np.arange(33) < 30).astype(int)
    expected = beta * (logsumexp(two, axis=1) - two[np.arange(33), is_inlier])
    np.testing.assert_allclose(losses["uncertainty"].detach(), expected, rtol=1e-3, atol=1e-4)


def test_validation_is_cross_entropy(objective):
    batch = objective.prepare(objective.read(np.arange(30)), None)
    before = objective.queues.clone()
    losses = objective.eval().loss(*batch)
    assert list(losses) == ["cross_entropy"]
    assert torch.equal(objective.queues, before)


def test_bfloat16_is_for_the_network_alone(objective):
    batch = objective.prepare(objective.read(np.arange(0, 150, 5)), None)
    torch.manual_seed(0)
    exact = objective.loss(*batch)["uncertainty"]
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective.loss(*batch)["uncertainty"]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded[30:], exact[30:], rtol=0.01, atol=1e-4)


@pytest.mark.parametrize(
    ("params", "network", "expected"),
    [
        ({}, {}, [False, False, True, True, True]),
        ({"start_fraction": 0.8}, {}, [False] * 4 + [True]),
        # The queues are empty in the first epoch, which reads all the rows.
        ({"start_fraction": 0.0}, {"batch_size": 30}, [False, True, True, True, True]),
        ({}, {"max_steps": 15, "max_epochs": 90}, [False, False, True, True]),
    ],
)
def test_when_virtual_outliers_begin(iris, params, network, expected):
    detector = tiny(**params)
    detector.classifier.set_params(**network)
    uncertainty = detector.fit(*iris).history_["uncertainty"]
    assert [value > 0 for value in uncertainty] == expected


def test_is_not_compiled(iris, monkeypatch):
    """A hook in a compiled network may be that of an earlier call."""
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: pytest.fail("compiled"))
    tiny().set_params(classifier__compile=True).fit(*iris)


def test_history_and_score(iris):
    X, y = iris
    detector = tiny().set_params(classifier__validation_fraction=0.2).fit(X, y)
    history = detector.history_
    terms = ["cross_entropy", "uncertainty"]
    assert list(history) == ["loss", *terms, "validation_loss", "validation_cross_entropy"]
    np.testing.assert_allclose(history["loss"], sum(np.array(history[name]) for name in terms))
    logits = detector.classifier_.decision_function(X)
    np.testing.assert_allclose(detector.score_samples(X), np.log(np.exp(logits).sum(1)))


def test_resumed_where_queues_fill_in_the_midst_of_an_epoch(iris, resumed, tmp_path):
    """An epoch that began without virtual outliers goes on without them."""
    X, y = iris
    detector = tiny(n_queue=10, start_fraction=0.0, uncertainty_weight=5.0)
    whole = detector.set_params(classifier__random_state=0).fit(X, y)
    # Three of four batches of 32 rows have more than ten of each class.
    again = resumed(detector, X, y, 3, tmp_path)
    assert whole.history_["uncertainty"][0] == again.history_["uncertainty"][0] == 0
    np.testing.assert_allclose(again.score_samples(X), whole.score_samples(X), rtol=1e-5)


@pytest.mark.parametrize(
    "labels", [np.array(["a", "b", "c"]), np.array([5, 7, 90])], ids=["str", "int"]
)
def test_labels_of_any_kind(iris, labels):
    X, y = iris
    plain, named = tiny().fit(X, y), tiny().fit(X, labels[y])
    np.testing.assert_array_equal(named.classes_, labels)
    np.testing.assert_allclose(named.score_samples(X), plain.score_samples(X))


def test_images_and_a_class_of_one_row():
    rng = np.random.default_rng(0)
    X, y = rng.random((41, 8, 8)), np.r_[np.arange(40) % 2, 2]
    detector = tiny(classifier=ConvNet((4, 4), max_epochs=4, batch_size=8)).fit(X, y)
    assert detector.history_["uncertainty"][-1] > 0
    assert np.isfinite(detector.score_samples(X)).all()


def test_like_cross_entropy_before_virtual_outliers_begin(iris):
    X, y = iris
    plain = Energy(tiny().classifier, random_state=0).fit(X, y)
    message = r"made no virtual outliers in \d+ epochs.*start_fraction=0.99"
    with pytest.warns(UserWarning, match=message) as caught:
        ours = tiny(start_fraction=0.99).fit(X, y)
    assert len(caught) == 1
    np.testing.assert_allclose(ours.score_samples(X), plain.score_samples(X), rtol=1e-6)
    assert not np.allclose(tiny().fit(X, y).score_samples(X), plain.score_samples(X))


def test_outliers_are_found(kinds_of_digits):
    """Digits that the network has not seen, about as well as by the energy without the method."""
    ((X, y), _, _), ((X_test, y_test), (outliers, _), _) = kinds_of_digits
    network = MLP(max_epochs=30, batch_size=64, precision="fp32")
    data = np.concatenate([X_test, outliers])
    areas = []
    for detector in (VOS(network, random_state=0), Energy(network, random_state=0)):
        scores = detector.fit(X, y).score_samples(data)
        areas.append(roc_auc_score(np.arange(len(data)) < len(X_test), scores))
        assert (detector.classifier_.predict(X_test) == y_test).mean() > 0.96
    assert areas[0] > max(0.93, areas[1] - 0.02)


def test_errors(iris):
    X, y = iris
    for params, message in [
        ({"n_outliers_per_class": 201}, "n_outliers_per_class=201 of n_candidates=200; expected"),
        ({"n_queue": 1}, "The 'n_queue' parameter"),
        ({"start_fraction": 1.0}, "The 'start_fraction' parameter"),
        ({"uncertainty_weight": 0.0}, "The 'uncertainty_weight' parameter"),
    ]:
        with pytest.raises(ValueError, match=message):
            tiny(**params).fit(X, y)
    with pytest.raises(ValueError, match="requires y to be passed"):
        tiny().fit(X)
