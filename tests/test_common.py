"""What every public estimator must keep."""

import inspect
import pickle
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import sklearn
import torch
from estimators import (
    ESTIMATORS,
    NOT_FOR_ROWS,
    tiny_flow,
    tiny_hierarchical_vae,
    tiny_image_flow,
    tiny_mlp,
    tiny_pixelcnn,
    tiny_vae,
)
from sklearn.base import BaseEstimator, clone, is_classifier, is_outlier_detector
from sklearn.neighbors import KernelDensity
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from sklearn.utils.fixes import parse_version

import skood
from skood import LogLikelihood
from skood._torch.estimator import NeuralEstimator
from skood._torch.training import TrainingSettings
from skood.classifiers import NeuralClassifier
from skood.density import NeuralDensity
from skood.density._base import NeuralModel

# Sixty rows hold out six, which a network may well get all right.
pytestmark = pytest.mark.filterwarnings("ignore:the classifier is:UserWarning")

# The threshold of these is read from rows that they held out.
HOLDS_OUT = skood.Gram, skood.TemperatureScaling
# Parameters that hold a model.
MODELS = "density", "latents", "classifier", "backbone", "features", "vae"
DETECTORS = [estimator for estimator in ESTIMATORS if is_outlier_detector(estimator)]
SCORERS = [estimator for estimator in ESTIMATORS if hasattr(estimator, "score_samples")]


def name_of(estimator):
    params = estimator.get_params(deep=False)
    inner = [params[name] for name in MODELS if name in params]
    return "-".join(type(part).__name__ for part in [estimator, *inner] if part is not None)


def needs_labels(estimator):
    return get_tags(estimator).target_tags.required


def expected_failed_checks(estimator):
    """A classifier cannot be trained without labels, and these checks give none."""
    if not (is_outlier_detector(estimator) and needs_labels(estimator)):
        return {}
    reason = "fits without y, which this method needs"
    return {"check_outliers_train": reason, "check_outliers_fit_predict": reason}


each_estimator = pytest.mark.parametrize("estimator", SCORERS, ids=name_of)
each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=name_of)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(60, 4))


def labels(X):
    """Two classes that can be told apart."""
    return (X[:, 0] > 0).astype(int)


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failed_checks)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [(LogLikelihood(KernelDensity()), 46), (skood.ODIN(tiny_mlp()), 44)],
    ids=["LogLikelihood", "ODIN"],
)
def test_scikit_learn_really_checks(estimator, expected):
    failures = expected_failed_checks(estimator)
    results = check_estimator(estimator, on_skip=None, expected_failed_checks=failures)
    passed = Counter(result["status"] for result in results)["passed"]
    # scikit-learn 1.6 has one check less for an outlier detector.
    assert passed >= expected - (parse_version(sklearn.__version__) < parse_version("1.8"))


# Four take images, the fifth rows that its network gets right, which hardly trained on noise it
# does not, two train on outliers, which they have no default for, one wraps a detector, and one
# takes a hundred steps for each score.
NO_DEFAULT_FOR_ROWS = {
    skood.ExternalDetector,
    skood.ImageFlow,
    skood.InputComplexity,
    skood.LikelihoodRegret,
    skood.PixelCNN,
    skood.RankFeat,
    skood.OpenMax,
    skood.EnergyRegularized,
    skood.OutlierExposure,
}
DEFAULTS = [
    cls()
    for cls in sorted({type(e) for e in ESTIMATORS} - NO_DEFAULT_FOR_ROWS, key=lambda c: c.__name__)
]


@pytest.fixture
def short_training(monkeypatch):
    """Two epochs at most, though the parameters say more."""
    plain = TrainingSettings.of
    monkeypatch.setattr(
        TrainingSettings, "of", lambda estimator: replace(plain(estimator), max_epochs=2)
    )


@pytest.mark.filterwarnings("ignore:n_neighbors=:UserWarning")
@parametrize_with_checks(DEFAULTS, expected_failed_checks=expected_failed_checks)
def test_scikit_learn_with_defaults(estimator, check, request):
    # A classifier is checked for its accuracy.
    if not is_classifier(estimator):
        request.getfixturevalue("short_training")
    check(estimator)


def test_every_public_estimator_is_listed_here():
    public = {getattr(skood, name) for name in skood.__all__ if not name.startswith("_")}
    estimators = {c for c in public if inspect.isclass(c) and issubclass(c, BaseEstimator)}
    assert estimators == {type(estimator) for estimator in ESTIMATORS} | NOT_FOR_ROWS


@pytest.mark.parametrize(
    "cls",
    sorted({type(e) for e in ESTIMATORS} | NOT_FOR_ROWS, key=lambda cls: cls.__name__),
    ids=lambda cls: cls.__name__,
)
def test_docstring_names_every_parameter(cls):
    documented = [cls.__doc__.split("Attributes\n")[0]]
    # The training parameters are described once for all networks that model the data.
    described = {NeuralClassifier: NeuralClassifier, NeuralModel: NeuralDensity}
    documented += [where.__doc__ for base, where in described.items() if issubclass(cls, base)]
    lines = [line for text in documented for line in text.splitlines() if " : " in line]
    for name, parameter in inspect.signature(cls).parameters.items():
        line = next((row for row in lines if name in row.split(":")[0].strip().split(", ")), "")
        if parameter.default is not parameter.empty:
            assert f"default={parameter.default!r}".replace("'", '"') in line, name


# Rows that fill all batches: 3 of 128 rows, 12 of 32 images, 2 chunks of 192 rows.
FULL_BATCHES = 384
# How far scores in batches of other sizes may differ, relative to the largest score.
ROUNDING = 2e-6
DIFFERENCE = "a difference of two numbers that are larger, and are rounded to their own size"
RANK = "a fraction of the 60 training rows, and a training row ties with itself"
MORE_ROUNDING = {
    skood.DeepSVDD: (1e-5, DIFFERENCE),
    skood.HierarchicalRatio: (1e-5, DIFFERENCE),
    skood.LikelihoodRatio: (2e-5, DIFFERENCE),
    skood.LikelihoodRegret: (1e-5, DIFFERENCE),
    skood.LocalIntrinsicDimension: (2 / 60, RANK),
    skood.LogitNorm: (1e-5, "logits are divided by a temperature of .04"),
}


@each_estimator
def test_scores_belong_to_the_row(estimator, X):
    """The same bits at any place in full batches, and with any number of threads."""
    fitted = fitted_to_five_columns(estimator, X)
    X = np.resize(five_columns(X), (FULL_BATCHES, 5))
    scores = fitted.score_samples(X)
    order = np.random.default_rng(1).permutation(len(X))
    np.testing.assert_array_equal(fitted.score_samples(X[order]), scores[order])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        np.testing.assert_array_equal(fitted.score_samples(X), scores)
    finally:
        torch.set_num_threads(threads)


@each_estimator
def test_scores_in_batches_of_other_sizes(estimator, X):
    """The same scores up to the order of float32 sums."""
    fitted = fitted_to_five_columns(estimator, X)
    X = five_columns(X)
    scores = fitted.score_samples(np.resize(X, (FULL_BATCHES, 5)))[: len(X)]
    tolerance, _ = MORE_ROUNDING.get(type(estimator), (ROUNDING, ""))
    for size in (1, 7, 33):
        parts = [fitted.score_samples(X[i : i + size]) for i in range(0, len(X), size)]
        atol = tolerance * np.abs(scores).max()
        np.testing.assert_allclose(np.concatenate(parts), scores, rtol=0, atol=atol)


def fitted_to_five_columns(estimator, X):
    fitted = clone(estimator).set_params(random_state=0) if takes_seed(estimator) else estimator
    return clone(fitted).fit(five_columns(X), labels(X))


def five_columns(X):
    """Rows of 5 float32 values start anywhere between two multiples of 16 bytes."""
    return np.column_stack([X, X[:, 0] ** 2])


def takes_seed(estimator):
    return "random_state" in estimator.get_params(deep=False)


def is_random(estimator):
    """Whether anything in it is drawn: the weights of a network."""
    params = estimator.get_params(deep=False)
    names = [name for name in MODELS if name in params]
    return not names or any(isinstance(params[name], NeuralEstimator) for name in names)


@each_estimator
def test_random_state_decides(estimator, X):
    def scores(seed):
        fitted = clone(estimator).set_params(random_state=seed).fit(X, labels(X))
        return fitted.score_samples(X)

    np.testing.assert_array_equal(scores(0), scores(0))
    if is_random(estimator):
        assert not np.allclose(scores(0), scores(1))


@each_estimator
def test_global_random_state_is_neither_changed_nor_read(estimator, X):
    def scores(global_seed, random_state):
        np.random.seed(global_seed)  # noqa: NPY002
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()  # noqa: NPY002
        fitted = clone(estimator).set_params(random_state=random_state).fit(X, labels(X))
        result = fitted.score_samples(X)
        if hasattr(fitted, "sample"):
            fitted.sample(2)
        after = np.random.get_state()[1], torch.get_rng_state(), random.getstate()  # noqa: NPY002
        np.testing.assert_array_equal(before[0], after[0])
        assert torch.equal(before[1], after[1])
        assert before[2] == after[2]
        return result

    np.testing.assert_array_equal(scores(1, 0), scores(2, 0))
    if is_random(estimator):
        assert not np.array_equal(scores(1, None), scores(1, None))


@each_estimator
def test_pickle_and_clone(estimator, X):
    fitted = clone(estimator).fit(X, labels(X))
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(restored.score_samples(X), fitted.score_samples(X))
    assert repr(clone(fitted)) == repr(estimator)
    assert not hasattr(clone(fitted), "n_features_in_")


@pytest.mark.parametrize(
    "estimator",
    [tiny_flow(), tiny_image_flow(), tiny_pixelcnn(), tiny_vae(), tiny_hierarchical_vae()],
    ids=name_of,
)
def test_sampling_nothing_is_an_error(estimator, X):
    with pytest.raises(ValueError, match="n_samples=0; expected at least 1"):
        clone(estimator).fit(X).sample(0)


@each_estimator
def test_input_is_not_modified(estimator, X):
    before = X.copy()
    clone(estimator).fit(X, labels(X)).score_samples(X)
    np.testing.assert_array_equal(X, before)


@each_estimator
def test_nothing_is_written_after_fit(estimator, X):
    fitted = clone(estimator).fit(X, labels(X))
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
        clone(estimator).fit(bad, np.arange(len(bad)) % 2)


@each_estimator
def test_error_for_another_number_of_features(estimator, X):
    fitted = clone(estimator).fit(X, labels(X))
    with pytest.raises(ValueError, match="3 features"):
        fitted.score_samples(X[:, :3])


@each_detector
def test_detector_contract(detector, X):
    detector = clone(detector).set_params(random_state=0, contamination=0.2).fit(X, labels(X))
    scores = detector.score_samples(X)
    assert scores.dtype == np.float64
    assert scores.shape == (60,)
    np.testing.assert_array_equal(detector.predict(X), np.where(scores >= detector.offset_, 1, -1))
    np.testing.assert_array_equal(detector.decision_function(X), scores - detector.offset_)
    if isinstance(detector, HOLDS_OUT):
        return
    # Just below, so that a row on the threshold is accepted in any batch.
    np.testing.assert_allclose(detector.offset_, np.percentile(scores, 20), rtol=1e-6)
    assert np.mean(detector.predict(X) == -1) == pytest.approx(0.2)


@each_detector
def test_known_outliers_are_not_learned(detector, X):
    """Rows with y == -1 change nothing, where there is no choice for them to make."""
    if isinstance(getattr(detector, "mutation_rate", None), list):
        pytest.skip("chooses its background by known outliers")
    if isinstance(detector, skood.DeepSAD):
        pytest.skip("trains on known outliers")
    detector = clone(detector).set_params(random_state=0)
    mixed = np.concatenate([X, X + 100])
    y = np.append(labels(X), np.full(len(X), -1))
    np.testing.assert_allclose(
        clone(detector).fit(mixed, y).score_samples(X),
        clone(detector).fit(X, labels(X)).score_samples(X),
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
    if needs_labels(detector):
        with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
            clone(detector).fit(X)
