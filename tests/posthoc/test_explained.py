"""Explanations of post-hoc scores: they sum to the score, in values computed independently."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import skood
from skood import KNN, MSP, Energy, Mahalanobis, NNGuide, RelativeMahalanobis, ViM
from skood.explanation import ClassesExplanation, DistanceExplanation, NeighborsExplanation
from skood.explanation._explain import EXPLAINABLE

BY_CLASSES = [
    *(skood.MSP, skood.MaxLogit, skood.Energy, skood.Entropy, skood.GEN, skood.KLMatching),
    *(skood.FDBD, skood.GradNorm, skood.TemperatureScaling),
]
BY_DISTANCE = [skood.NCI, skood.SHE, skood.Residual, skood.ViM]


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X, np.array(["a", "b", "c"])[y]


@pytest.fixture(scope="module")
def network(iris):
    # Few steps, so that probabilities are not all 0 or 1.
    return FrozenEstimator(skood.MLP((8, 8), max_epochs=5, random_state=0).fit(*iris))


def of_items(explanation):
    return {name: getattr(explanation, name) for name in explanation._of_items}


@pytest.mark.parametrize("cls", [*BY_CLASSES, *BY_DISTANCE, NNGuide])
def test_contributions_sum_to_the_score(cls, network, iris):
    X, y = iris
    detector = cls(network, random_state=0).fit(X, y)
    explanation = detector.explain(X)
    np.testing.assert_array_equal(explanation.scores, detector.score_samples(X))
    parts = getattr(explanation, "feature_contributions", None)
    parts = explanation.contributions if parts is None else parts
    constants = getattr(explanation, "constants", 0)
    size = 1e-12 * (np.abs(parts).sum(1) + np.abs(constants))
    assert (np.abs(constants + parts.sum(1) - explanation.scores) <= size + 1e-15).all()


@pytest.mark.parametrize("cls", [*BY_CLASSES, *BY_DISTANCE, NNGuide, KNN, Mahalanobis])
def test_an_explanation_depends_on_its_row_alone(cls, network, iris):
    X, y = iris
    detector = cls(network, random_state=0).fit(X, y)
    together = detector.explain(X)
    for rows in (slice(1), slice(3, 5)):
        alone = detector.explain(X[rows])
        for name, values in of_items(together[rows]).items():
            if values is None or values.dtype.kind in "iU":
                np.testing.assert_array_equal(values, of_items(alone)[name])
            else:
                np.testing.assert_allclose(of_items(alone)[name], values, rtol=1e-9, atol=1e-11)


def test_every_detector_with_an_explanation_is_named_in_the_error():
    classes = {
        name: cls
        for name in dir(skood)
        if isinstance(cls := getattr(skood, name), type) and hasattr(cls, "_explains")
    }
    own = {
        name
        for name, cls in classes.items()
        if not cls.__module__.startswith("skood.calibration")
        and (cls._explains is True or hasattr(cls, "_pixels"))
    }
    assert own == set(EXPLAINABLE)
    assert list(EXPLAINABLE) == sorted(EXPLAINABLE)


def test_a_detector_without_an_explanation(iris):
    detector = skood.GMM().fit(iris[0])
    assert not hasattr(detector, "explain")
    with pytest.raises(AttributeError, match="no attribute 'explain'") as error:
        detector.explain(iris[0])
    assert "GMM has no explanation of its own. These detectors have one" in str(
        error.value.__cause__
    )


# --- nearest training rows


def nearest_distances(X, x, k, scale):
    """Distances of the k nearest rows by a loop over all rows."""
    if scale:
        X, x = X / np.linalg.norm(X, axis=1, keepdims=True), x / np.linalg.norm(x)
    return sorted(math.dist(row, x) for row in X)[:k]


@pytest.mark.parametrize("normalize", [False, True])
def test_nearest_rows(iris, normalize):
    X = iris[0]
    detector = KNN(n_neighbors=4, normalize=normalize).fit(X)
    found = detector.explain(X[:20] + 0.05)
    assert isinstance(found, NeighborsExplanation)
    for i, x in enumerate(X[:20] + 0.05):
        distances = nearest_distances(X, x, 4, scale=normalize)
        np.testing.assert_allclose(found.distances[i], distances, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(
            np.linalg.norm(
                detector._prepare(X[found.indices[i]]) - detector._prepare(x[None]), axis=1
            ),
            distances,
            rtol=1e-9,
        )
    np.testing.assert_array_equal(found.contributions[:, -1], found.scores)
    assert not found.contributions[:, :-1].any()


def test_of_equally_near_rows_the_first_are_named():
    X = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [5.0, 5.0]] * 40)
    found = KNN(n_neighbors=5).fit(X).explain([[0.0, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(found.indices[0], [0, 1, 2, 4, 5])
    np.testing.assert_array_equal(found.indices[1], [0, 4, 8, 12, 16])


@pytest.mark.parametrize("bank_fraction", [1.0, 0.3])
def test_indices_are_rows_of_x_when_rows_are_held_out_and_outliers_left_out(bank_fraction):
    """A training row is its own nearest neighbour, whatever `fit` holds out or leaves out."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(700, 3))
    y = np.where(rng.random(700) < 0.2, -1, 1)
    detector = KNN(
        StandardScaler(), n_neighbors=1, bank_fraction=bank_fraction, random_state=0
    ).fit(X, y)
    bank = detector.bank_indices_
    n_inliers = (y == 1).sum()
    assert 0.88 * bank_fraction * n_inliers < len(bank) < 0.92 * bank_fraction * n_inliers
    assert (y[bank] == 1).all()
    np.testing.assert_array_equal(detector.explain(X[bank]).indices[:, 0], bank)
    held_out = np.setdiff1d(np.flatnonzero(y == 1), bank)
    assert not np.isin(detector.explain(X[held_out]).indices, held_out).any()


def test_indices_of_nnguide_and_its_products(iris, network):
    X, y = iris
    detector = NNGuide(network, n_neighbors=3, bank_fraction=0.5, random_state=1).fit(X, y)
    outputs = network.estimator.network().outputs(skood.share_forward_pass(X))
    z = outputs.features.astype(float)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    energy = logsumexp(outputs.logits.astype(float), axis=1)
    found = detector.explain(X[:5])
    bank = detector.bank_indices_
    for i in range(5):
        products = energy[bank] * (z[bank] @ z[i])
        order = np.argsort(-products)[:3]
        np.testing.assert_array_equal(found.indices[i], bank[order])
        np.testing.assert_allclose(
            found.contributions[i], energy[i] * products[order] / 3, rtol=1e-6
        )
        np.testing.assert_allclose(
            found.distances[i], np.linalg.norm(z[bank[order]] - z[i], axis=1), atol=1e-6
        )


def test_indices_after_a_fit_to_saved_outputs():
    rng = np.random.default_rng(0)
    features, y = rng.normal(size=(60, 4)), np.where(np.arange(60) % 3, 1, -1)
    detector = KNN(n_neighbors=1).fit_outputs(features=features, y=y)
    found = detector.explain_outputs(features=features[y == 1])
    np.testing.assert_array_equal(found.indices[:, 0], np.flatnonzero(y == 1))
    with pytest.raises(NotFittedError, match="fit_outputs on saved"):
        detector.explain(features)


def test_a_cached_and_a_pickled_detector_name_the_same_rows(tmp_path, iris):
    X, y = iris
    X, y = np.tile(X, (4, 1)) + np.random.default_rng(0).normal(0, 0.1, (600, 4)), np.tile(y, 4)
    detector = NNGuide(
        skood.MLP((4,), max_epochs=2), n_neighbors=2, memory=str(tmp_path), random_state=0
    )
    first, second = (detector.fit(X, y).explain(X[:9]) for _ in range(2))
    copy = pickle.loads(pickle.dumps(detector)).explain(X[:9])
    assert len(detector.bank_indices_) < 600
    for other in (second, copy):
        np.testing.assert_array_equal(other.indices, first.indices)


def test_a_detector_stored_without_indices_says_so(iris):
    detector = KNN(n_neighbors=2).fit(iris[0])
    del detector._training_rows
    with pytest.raises(AttributeError, match="did not keep the rows of its bank; fit it again"):
        detector.explain(iris[0])


# --- quadratic forms


def test_mahalanobis_by_a_loop(iris):
    X, y = iris
    detector = Mahalanobis(threshold_fraction=0).fit(X, y)
    found = detector.explain(X[::10])
    assert isinstance(found, DistanceExplanation)
    means = {label: X[y == label].mean(0) for label in "abc"}
    within = sum((X[y == k] - means[k]).T @ (X[y == k] - means[k]) for k in "abc") / len(X)
    precision = np.linalg.inv(within)
    for i, x in enumerate(X[::10]):
        squares = {k: (x - m) @ precision @ (x - m) for k, m in means.items()}
        label = min(squares, key=squares.get)
        assert found.classes[i] == label
        np.testing.assert_allclose(found.class_scores[i], [-squares[k] for k in "abc"], rtol=1e-8)
        delta = x - means[label]
        np.testing.assert_allclose(
            found.feature_contributions[i], -delta * (precision @ delta), rtol=1e-6, atol=1e-9
        )
        variances = np.array([v @ within @ v for v in found.directions.T])
        np.testing.assert_allclose(
            found.direction_contributions[i],
            -((found.directions.T @ delta) ** 2) / variances,
            rtol=1e-6,
            atol=1e-9,
        )
    np.testing.assert_allclose(found.directions.T @ found.directions, np.eye(4), atol=1e-9)


def test_contributions_are_shapley_values(iris):
    """Of the game whose absent players are at the class mean."""
    X = iris[0]
    detector = Mahalanobis().fit(X)
    x = X[17] + [0.3, -1.0, 0.2, 0.4]
    mean, precision = X.mean(0), np.linalg.inv(np.cov(X.T, bias=True))

    def value(present):
        delta = np.where(np.isin(np.arange(4), present), x - mean, 0)
        return -delta @ precision @ delta

    expected = np.zeros(4)
    for order in itertools.permutations(range(4)):
        for position, i in enumerate(order):
            expected[i] += value(order[: position + 1]) - value(order[:position])
    found = detector.explain(x[None]).feature_contributions[0]
    np.testing.assert_allclose(found, expected / 24, rtol=1e-8)


def test_a_removal_is_the_distance_of_the_other_columns(iris):
    """The marginal of a Gaussian has the covariance of the columns that remain."""
    X = iris[0]
    x = X[:5] + np.array([0.3, -1.0, 0.2, 0.4])
    found = Mahalanobis().fit(X).explain(x)
    for i in range(4):
        others = np.delete(np.arange(4), i)
        marginal = Mahalanobis().fit(X[:, others]).score_samples(x[:, others])
        np.testing.assert_allclose(found.feature_removals[:, i], marginal - found.scores, rtol=1e-7)


def test_a_column_that_others_determine_removes_nothing():
    X = np.random.default_rng(0).normal(size=(80, 3))
    X = np.column_stack([X, X[:, 0] - X[:, 1]])
    found = Mahalanobis().fit(X).explain(X[:5])
    assert not found.feature_removals[:, [0, 1, 3]].any()
    assert (found.feature_removals[:, 2] > 0).all()


def test_relative_mahalanobis(iris):
    X, y = iris
    detector = RelativeMahalanobis().fit(X, y)
    found = detector.explain(X)
    np.testing.assert_allclose(found.feature_contributions.sum(1), found.scores, rtol=1e-8)
    np.testing.assert_allclose(found.direction_contributions.sum(1), found.scores, rtol=1e-8)
    assert found.directions.shape == (4, 8)
    np.testing.assert_allclose(found.class_scores.max(1), found.scores, rtol=1e-8)
    centred = X - X.mean(0)
    background = centred * (centred @ np.linalg.inv(np.cov(X.T, bias=True)))
    plain = Mahalanobis().fit(X, y).explain(X).feature_contributions
    np.testing.assert_allclose(found.feature_contributions, plain + background, rtol=1e-6)


def test_collinear_and_constant_columns():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    X = np.column_stack([X, X[:, 0] + X[:, 1], np.full(80, 3.0)])
    found = Mahalanobis().fit(X).explain(X)
    assert found.classes is found.class_scores is None
    assert found.directions.shape == (4, 2)
    np.testing.assert_allclose(found.feature_contributions.sum(1), found.scores, rtol=1e-8)
    same = Mahalanobis().fit(np.ones((9, 3))).explain(np.ones((1, 3)) * 2)
    assert same.scores == 0
    assert not same.feature_contributions.any()


def test_vim_by_a_loop(iris, network):
    X, y = iris
    detector = ViM(network).fit(X, y)
    found = detector.explain(X[:7])
    outputs = network.estimator.network().outputs(skood.share_forward_pass(X[:7]))
    z, f = outputs.features.astype(float), outputs.logits.astype(float)
    R, u = detector.residual_space_, detector.origin_
    for i in range(7):
        residual = R.T @ (z[i] - u)
        length = np.linalg.norm(residual)
        np.testing.assert_allclose(
            found.direction_contributions[i], -detector.alpha_ * residual**2 / length, rtol=1e-4
        )
        np.testing.assert_allclose(found.constants[i], logsumexp(f[i]), rtol=1e-6)
    whole = found.constants + found.direction_contributions.sum(1)
    np.testing.assert_allclose(whole, found.scores, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_units_of_the_columns_do_not_matter(iris, scale):
    X, y = iris
    scales = np.array([1.0, scale, 1.0, 1.0])
    plain = Mahalanobis().fit(X, y).explain(X[:9]).feature_contributions
    scaled = Mahalanobis().fit(X * scales, y).explain(X[:9] * scales).feature_contributions
    np.testing.assert_allclose(scaled, plain, rtol=1e-6, atol=1e-9)


# --- classes that compete


def test_classes_of_known_logits():
    logits = np.array([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0]])
    p = softmax(logits, axis=1)
    found = MSP().explain_outputs(logits)
    assert isinstance(found, ClassesExplanation)
    np.testing.assert_allclose(found.constants, 1)
    np.testing.assert_allclose(found.contributions[0], [0, -p[0, 1], -p[0, 2]], atol=1e-15)
    energy = Energy(temperature=2.0).explain_outputs(logits)
    shares = softmax(logits / 2, axis=1)
    expected = shares * (2 * logsumexp(logits / 2, axis=1))[:, None]
    np.testing.assert_allclose(energy.contributions, expected)
    # Gibbs: p_k f_k plus the temperature times the entropy term of the class.
    np.testing.assert_allclose(energy.contributions, shares * (logits - 2 * np.log(shares)))
    np.testing.assert_array_equal(found.classes, [0, 1, 2])
    np.testing.assert_allclose(found.probabilities, p)


def test_classes_of_a_multilabel_network():
    network = torch.nn.Linear(3, 2)
    X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for cls in (MSP, Energy, skood.MaxLogit):
        detector = cls(skood.PretrainedClassifier(network, multilabel=True)).fit(X)
        found = detector.explain(X)
        np.testing.assert_allclose(found.contributions.sum(1), found.scores, rtol=1e-9)
        np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-found.logits)), rtol=1e-6)


def test_labels_name_the_classes(iris):
    X, y = iris
    found = MSP(LogisticRegression(max_iter=500)).fit(X, y).explain(X[:1])
    assert found.classes.tolist() == ["a", "b", "c"]
    assert found.largest(n=1)[0][0] == "b"


def test_a_subclass_with_another_score_is_not_explained_wrongly(iris):
    class Doubled(Mahalanobis):
        def _score(self, outputs):
            return 2 * super()._score(outputs)

    with pytest.raises(TypeError, match="do not sum to the score of Doubled"):
        Doubled().fit(iris[0]).explain(iris[0])
