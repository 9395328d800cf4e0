"""What every public estimator must keep."""

import inspect
import pickle
import random
from collections import Counter

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import BaseEstimator, clone, is_outlier_detector
from sklearn.neighbors import KernelDensity
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from sklearn.utils.fixes import parse_version

import skood
from skood import LikelihoodRatio, LogLikelihood, NeuralSplineFlow, PixelCNN


def tiny_flow(**kwargs):
    return NeuralSplineFlow(n_transforms=1, n_bins=4, hidden_features=(8,), max_epochs=3, **kwargs)


def tiny_pixelcnn(**kwargs):
    settings = {"n_levels": 16, "value_range": "minmax", "image_shape": "row", "max_epochs": 3}
    return PixelCNN(n_filters=4, n_resnet=1, **{**settings, **kwargs})


ESTIMATORS = [
    tiny_flow(),
    tiny_pixelcnn(),
    LogLikelihood(tiny_flow()),
    LogLikelihood(KernelDensity()),
    LikelihoodRatio(tiny_flow()),
    LikelihoodRatio(tiny_pixelcnn()),
    LikelihoodRatio(KernelDensity()),
    LikelihoodRatio(tiny_flow(), mutation_rate=[0.1, 0.3]),
]
DETECTORS = [estimator for estimator in ESTIMATORS if is_outlier_detector(estimator)]


def name_of(estimator):
    inner = getattr(estimator, "density", None)
    return type(estimator).__name__ + (f"-{type(inner).__name__}" if inner is not None else "")


each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=name_of)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(60, 4))


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn(estimator, check):
    check(estimator)


def test_scikit_learn_really_checks():
    results = check_estimator(LogLikelihood(KernelDensity()), on_skip=None)
    passed = Counter(result["status"] for result in results)["passed"]
    # scikit-learn 1.6 has 45 checks for an outlier detector.
    assert passed >= (46 if parse_version(sklearn.__version__) >= parse_version("1.8") else 45)


def test_every_public_estimator_is_listed_here():
    public = {getattr(skood, name) for name in skood.__all__ if not name.startswith("_")}
    estimators = {c for c in public if inspect.isclass(c) and issubclass(c, BaseEstimator)}
    assert estimators == {type(estimator) for estimator in ESTIMATORS}


@pytest.mark.parametrize("cls", {type(e) for e in ESTIMATORS}, ids=lambda cls: cls.__name__)
def test_docstring_names_every_parameter(cls):
    section = cls.__doc__.split("Attributes\n")[0]
    for name, parameter in inspect.signature(cls).parameters.items():
        line = next((row for row in section.splitlines() if row.split(":")[0].strip() == name), "")
        assert f"default={parameter.default!r}".replace("'", '"') in line, name


@each_estimator
def test_scores_belong_to_the_row(estimator, X):
    """The same score in any batch and order, and with any number of threads."""
    fitted = clone(estimator).set_params(random_state=0) if takes_seed(estimator) else estimator
    fitted = clone(fitted).fit(X)
    X = np.concatenate([X] * 3)
    scores = fitted.score_samples(X)
    order = np.random.default_rng(1).permutation(len(X))
    np.testing.assert_allclose(fitted.score_samples(X[order]), scores[order], rtol=1e-6)
    for size in (1, 7, 33):
        parts = [fitted.score_samples(X[i : i + size]) for i in range(0, len(X), size)]
        np.testing.assert_allclose(np.concatenate(parts), scores, rtol=1e-6)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        np.testing.assert_allclose(fitted.score_samples(X), scores, rtol=1e-6)
    finally:
        torch.set_num_threads(threads)


def takes_seed(estimator):
    return "random_state" in estimator.get_params(deep=False)


@each_estimator
def test_random_state_decides(estimator, X):
    def scores(seed):
        return clone(estimator).set_params(random_state=seed).fit(X).score_samples(X)

    np.testing.assert_array_equal(scores(0), scores(0))
    if not isinstance(getattr(estimator, "density", None), KernelDensity):
        assert not np.allclose(scores(0), scores(1))


@each_estimator
def test_global_random_state_is_neither_changed_nor_read(estimator, X):
    def scores(global_seed, random_state):
        np.random.seed(global_seed)  # noqa: NPY002
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()  # noqa: NPY002
        fitted = clone(estimator).set_params(random_state=random_state).fit(X)
        result = fitted.score_samples(X)
        if hasattr(fitted, "sample"):
            fitted.sample(2)
        after = np.random.get_state()[1], torch.get_rng_state(), random.getstate()  # noqa: NPY002
        np.testing.assert_array_equal(before[0], after[0])
        assert torch.equal(before[1], after[1])
        assert before[2] == after[2]
        return result

    np.testing.assert_array_equal(scores(1, 0), scores(2, 0))
    if not isinstance(getattr(estimator, "density", None), KernelDensity):
        assert not np.array_equal(scores(1, None), scores(1, None))


@each_estimator
def test_pickle_and_clone(estimator, X):
    fitted = clone(estimator).fit(X)
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(restored.score_samples(X), fitted.score_samples(X))
    assert repr(clone(fitted)) == repr(estimator)
    assert not hasattr(clone(fitted), "n_features_in_")


@pytest.mark.parametrize("estimator", [tiny_flow(), tiny_pixelcnn()], ids=name_of)
def test_sampling_nothing_is_an_error(estimator, X):
    with pytest.raises(ValueError, match="n_samples=0; expected at least 1"):
        clone(estimator).fit(X).sample(0)


@each_estimator
def test_input_is_not_modified(estimator, X):
    before = X.copy()
    clone(estimator).fit(X).score_samples(X)
    np.testing.assert_array_equal(X, before)


@each_estimator
def test_nothing_is_written_after_fit(estimator, X):
    fitted = clone(estimator).fit(X)
    before = set(vars(fitted))
    fitted.score_samples(X)
    assert set(vars(fitted)) == before


@each_estimator
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((9, 4), np.nan), "NaN"),
        (np.empty((0, 4)), "0 sample"),
        (np.zeros((1, 4)), "minimum of 2"),
        (np.zeros(4), "1D array"),
        (np.zeros((3, 1, 4, 4, 2)), r"shape \(3, 1, 4, 4, 2\)"),
    ],
    ids=["nan", "empty", "one-sample", "1d", "5d"],
)
def test_errors_of_fit(estimator, bad, message):
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(bad)


@each_estimator
def test_error_for_another_number_of_features(estimator, X):
    fitted = clone(estimator).fit(X)
    with pytest.raises(ValueError, match="3 features"):
        fitted.score_samples(X[:, :3])


@each_detector
def test_detector_contract(detector, X):
    detector = clone(detector).set_params(random_state=0, contamination=0.2).fit(X)
    scores = detector.score_samples(X)
    assert scores.dtype == np.float64
    assert scores.shape == (60,)
    np.testing.assert_allclose(detector.offset_, np.percentile(scores, 20))
    np.testing.assert_array_equal(detector.decision_function(X), scores - detector.offset_)
    np.testing.assert_array_equal(detector.predict(X), np.where(scores >= detector.offset_, 1, -1))
    assert np.mean(detector.predict(X) == -1) == pytest.approx(0.2)


@each_detector
def test_known_outliers_are_not_learned(detector, X):
    """Rows with y == -1 change no model; without a choice to make they change nothing."""
    detector = clone(detector).set_params(random_state=0)
    mixed = np.concatenate([X, X + 100])
    y = np.repeat([0, -1], len(X))
    np.testing.assert_allclose(
        clone(detector).fit(mixed, y).density_.score_samples(X),
        clone(detector).fit(X).density_.score_samples(X),
    )
    np.testing.assert_array_equal(
        clone(detector).fit_predict(mixed, y), clone(detector).fit(mixed, y).predict(mixed)
    )


@each_detector
def test_errors_of_y(detector, X):
    with pytest.raises(ValueError, match="59 labels, but X has 60"):
        clone(detector).fit(X, np.zeros(59))
    with pytest.raises(ValueError, match="1 of 60 labels in y are in-distribution"):
        clone(detector).fit(X, np.r_[0, -np.ones(59)])
