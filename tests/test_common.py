"""What every public estimator must keep."""

import inspect
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import sklearn
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
from sklearn.utils.estimator_checks import (
    check_estimator,
    estimator_checks_generator,
    parametrize_with_checks,
)
from sklearn.utils.fixes import parse_version

import skood
from skood import LogLikelihood
from skood._torch.training import TrainingSettings
from skood.testing import parametrize_with_checks as parametrize_with_contract

# Sixty rows hold out six, which a network may well get all right, and hardly any seed is a bad one.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the classifier is:UserWarning"),
    pytest.mark.filterwarnings("ignore:the training loss of LogitNorm:UserWarning"),
]

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


# Of several instances of a class the first meets all of scikit-learn's checks.
FIRST = [e for i, e in enumerate(ESTIMATORS) if type(e) not in map(type, ESTIMATORS[:i])]
FURTHER = [e for e in ESTIMATORS if not any(e is first for first in FIRST)]


@parametrize_with_checks(FIRST, expected_failed_checks=expected_failed_checks)
def test_scikit_learn(estimator, check):
    check(estimator)


def some_checks(estimators, names):
    """Yield the checks with these names, without their repetition on memory-mapped data."""
    for given in estimators:
        for estimator, check in estimator_checks_generator(given):
            name = getattr(check, "func", check).__name__
            is_repeated = getattr(check, "keywords", {}).get("readonly_memmap", False)
            if name in names and name not in expected_failed_checks(given) and not is_repeated:
                yield pytest.param(estimator, check, id=f"{name_of(given)}-{name}")


# Checks that another model inside may fail; `test_contract` has batches, pickles and repeated fits.
ON_ANOTHER_MODEL = {
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_outliers_train",
    "check_readonly_memmap_input",
}


@pytest.mark.parametrize(("estimator", "check"), some_checks(FURTHER, ON_ANOTHER_MODEL))
def test_scikit_learn_with_another_model(estimator, check):
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
# takes a hundred steps for each score. Three need the names of classes.
NO_DEFAULT_FOR_ROWS = {
    skood.CSP,
    skood.ExternalDetector,
    skood.ImageFlow,
    skood.InputComplexity,
    skood.LikelihoodRegret,
    skood.MCM,
    skood.NegLabel,
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


# Scikit-learn's checks whose outcome may depend on the default parameters: of data that are few,
# narrow or of another dtype, and of what is learned. The others run on the small estimators alone.
ON_DEFAULTS = {
    "check_classifiers_train",
    "check_estimators_dtypes",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_outliers_fit_predict",
    "check_outliers_train",
    "check_parameters_default_constructible",
    "check_supervised_y_2d",
}


@pytest.mark.filterwarnings("ignore:n_neighbors=:UserWarning")
@pytest.mark.parametrize(("estimator", "check"), some_checks(DEFAULTS, ON_DEFAULTS))
def test_scikit_learn_with_defaults(estimator, check, request):
    # A classifier is checked for its accuracy.
    if not is_classifier(estimator):
        request.getfixturevalue("short_training")
    check(estimator)


def test_every_public_estimator_is_listed_here():
    public = {getattr(skood, name) for name in skood.__all__ if not name.startswith("_")}
    estimators = {c for c in public if inspect.isclass(c) and issubclass(c, BaseEstimator)}
    assert estimators == {type(estimator) for estimator in ESTIMATORS} | NOT_FOR_ROWS


# How far scores in batches of other sizes may differ, relative to the largest score.
ROUNDING = 2e-6
DIFFERENCE = "a difference of two numbers that are larger, and are rounded to their own size"
MORE_ROUNDING = {
    skood.DeepSVDD: (1e-5, DIFFERENCE),
    skood.HierarchicalRatio: (1e-5, DIFFERENCE),
    skood.LikelihoodRatio: (2e-5, DIFFERENCE),
    skood.LikelihoodRegret: (1e-5, DIFFERENCE),
    skood.LogitNorm: (1e-5, "logits are divided by a temperature of .04"),
}


def rounding(estimator):
    return MORE_ROUNDING.get(type(estimator), (ROUNDING, ""))[0]


def learns_from_outliers(estimator):
    """Detectors for which known outliers are more than rows to leave out."""
    if isinstance(getattr(estimator, "mutation_rate", None), list):
        return {"check_known_outliers_are_not_learned": "chooses its background by them"}
    if isinstance(estimator, skood.DeepSAD):
        return {"check_known_outliers_are_not_learned": "trains on them"}
    return {}


@parametrize_with_contract(
    SCORERS, rounding=rounding, expected_failed_checks=learns_from_outliers, name=name_of
)
def test_contract(check):
    check()


@pytest.mark.parametrize(
    "estimator",
    [tiny_flow(), tiny_image_flow(), tiny_pixelcnn(), tiny_vae(), tiny_hierarchical_vae()],
    ids=name_of,
)
def test_sampling_nothing_is_an_error(estimator, X):
    with pytest.raises(ValueError, match="n_samples=0; expected at least 1"):
        clone(estimator).fit(X).sample(0)


@each_detector
def test_threshold_rejects_contamination(detector, X):
    if isinstance(detector, HOLDS_OUT):
        pytest.skip("reads the threshold from rows that it held out")
    detector = clone(detector).set_params(random_state=0, contamination=0.2).fit(X, labels(X))
    # Just below, so that a row on the threshold is accepted in any batch.
    scores = detector.score_samples(X)
    np.testing.assert_allclose(detector.offset_, np.percentile(scores, 20), rtol=1e-6)
    assert np.mean(detector.predict(X) == -1) == pytest.approx(0.2)
