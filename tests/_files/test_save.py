"""What is loaded scores as what was saved."""

import inspect
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from estimators import ESTIMATORS, SyntheticOutliers, TinyMaps, tiny_flow, tiny_mlp
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

import skood
from skood.base import estimator, parameter

METHODS = "score_samples", "decision_function", "predict", "predict_proba", "transform", "encode"
OURS = [TinyMaps, SyntheticOutliers]
X = np.random.default_rng(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)


def name_of(estimator):
    inner = [p for p in estimator.get_params(deep=False).values() if isinstance(p, BaseEstimator)]
    return "-".join(type(part).__name__ for part in [estimator, *inner])


def there_and_back(estimator, tmp_path, **kwargs):
    path = tmp_path / "estimator.skood"
    skood.save(estimator, path)
    return skood.load(path, **kwargs)


def results(estimator, X):
    if isinstance(estimator, skood.BoundarySampler):
        off_manifold = estimator.sample_off_manifold(X, Y[: len(X)], random_state=0)
        return {"on": estimator.sample_on_manifold(9, random_state=0), "off": off_manifold}
    return {name: getattr(estimator, name)(X) for name in METHODS if hasattr(estimator, name)}


def assert_same_results(first, second, X):
    expected, found = results(first, X), results(second, X)
    assert expected.keys() == found.keys()
    assert expected
    for name, values in expected.items():
        assert values.dtype == found[name].dtype
        np.testing.assert_array_equal(values, found[name], strict=True)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=name_of)
def test_every_estimator(estimator, tmp_path):
    estimator = clone(estimator)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=0)
    first, second = tmp_path / "first.skood", tmp_path / "second.skood"
    skood.save(estimator, first)
    assert repr(skood.load(first, trusted=OURS)) == repr(estimator)
    with warnings.catch_warnings():
        # Of hardly trained networks.
        warnings.simplefilter("ignore", UserWarning)
        estimator.fit(X, Y)
    skood.save(estimator, first)
    loaded = skood.load(first, trusted=OURS)
    assert repr(loaded) == repr(estimator)
    assert loaded.get_params().keys() == estimator.get_params().keys()
    assert vars(loaded).keys() == vars(estimator).keys()
    assert_same_results(estimator, loaded, X[:33])
    assert getattr(loaded, "offset_", None) == getattr(estimator, "offset_", None)
    skood.save(loaded, second)
    assert first.read_bytes() == second.read_bytes()
    assert skood.inspect_file(first).is_fitted


@pytest.fixture(scope="module")
def mlp():
    return tiny_mlp(random_state=0).fit(X, Y)


def test_every_public_class_is_known(tmp_path):
    classes = [value for name in dir(skood) if inspect.isclass(value := getattr(skood, name))]
    estimators = {cls for cls in classes if issubclass(cls, BaseEstimator)}
    made = [
        skood.CSP(["cat", "dog"], "words.txt", adjectives=["red"]),
        skood.ConformalDetector(skood.KNN()),
        skood.DriftMonitor(skood.KNN()),
        skood.EnergyRegularized(skood.MLP(), skood.synthetic_outliers),
        skood.EnsembleDetector([("knn", skood.KNN())]),
        skood.ExternalDetector(skood.KNN()),
        skood.InlierFit(skood.KNN()),
        skood.MCM(["cat", "dog"]),
        skood.NegLabel(np.eye(3), np.eye(3)),
        skood.OutlierExposure(skood.MLP(), skood.synthetic_outliers),
        skood.TunedThreshold(skood.KNN()),
    ]
    # Their networks are described by data; see the tests of programs and of language models.
    handles = {skood.CausalLanguageModel, skood.FeatureExtractor, skood.PretrainedClassifier}
    others = estimators - handles - {type(given) for given in made}
    for given in [*made, *(cls() for cls in others)]:
        loaded = there_and_back(given, tmp_path)
        assert type(loaded) is type(given)
        assert loaded.get_params(deep=False).keys() == given.get_params(deep=False).keys()


def test_one_object_in_two_places_is_one_again(mlp, tmp_path):
    detector = skood.MSP(FrozenEstimator(mlp)).fit(X, Y)
    assert detector.classifier_ is detector.classifier.estimator
    loaded = there_and_back(detector, tmp_path)
    assert loaded.classifier_ is loaded.classifier.estimator
    members = [("a", skood.MSP(loaded.classifier)), ("b", skood.Energy(loaded.classifier))]
    (_, first), (_, second) = there_and_back(skood.EnsembleDetector(members), tmp_path).detectors
    assert first.classifier is second.classifier


@pytest.mark.parametrize(
    "detector",
    [skood.Mahalanobis(), skood.MSP(tiny_mlp()), skood.LogLikelihood(tiny_flow())],
    ids=name_of,
)
def test_caches_know_a_loaded_estimator(detector, tmp_path):
    """By its hash, which depends on the identity of tuples, too."""
    detector = clone(detector).set_params(random_state=0).fit(X, Y)
    assert joblib.hash(there_and_back(detector, tmp_path)) == joblib.hash(detector)


def test_a_shared_network_is_stored_once(mlp, tmp_path):
    skood.save(skood.MSP(FrozenEstimator(mlp)).fit(X, Y), tmp_path / "one")
    members = [(str(k), skood.MSP(FrozenEstimator(mlp)).fit(X, Y)) for k in range(5)]
    skood.save(skood.EnsembleDetector(members), tmp_path / "five")
    assert len(skood.inspect_file(tmp_path / "five").needs) == 0
    one, five = (skood.inspect_file(tmp_path / name).n_arrays for name in ("one", "five"))
    assert five < one + 10


class Outliers:
    """Not an estimator."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, X, random_state):
        return X + self.scale


def shifted(X, random_state):
    return X + 5


@estimator
class Distance(skood.base.BaseDetector):
    """Distance to the mean."""

    power: float = parameter(default=2.0)

    def _fit(self, inliers, y, outliers, seed):
        self.mean_ = inliers.rows().mean(0)

    def _score_samples(self, data):
        return -(np.abs(data.rows() - self.mean_) ** self.power).sum(1).astype(np.float64)


@pytest.mark.parametrize(
    ("make", "needs"),
    [
        (lambda: Distance(3.0).fit(X), [Distance]),
        (lambda: skood.ConformalDetector(Distance(), alpha=0.2).fit(X), [Distance]),
        (lambda: skood.OutlierExposure(tiny_mlp(), shifted), [shifted]),
        (lambda: skood.OutlierExposure(tiny_mlp(), Outliers(2)), [Outliers]),
    ],
    ids=["detector", "inner", "function", "object"],
)
def test_classes_and_functions_of_users_need_trust(make, needs, tmp_path):
    estimator = make()
    path = tmp_path / "own.skood"
    skood.save(estimator, path)
    names = [f"{__name__}.{thing.__qualname__}" for thing in needs]
    assert skood.inspect_file(path).needs == names
    with pytest.raises(ValueError, match=rf"it needs {names[0]}, .*trusted=\['{names[0]}'\]"):
        skood.load(path)
    for trusted in needs, names:
        loaded = skood.load(path, trusted=trusted)
        assert repr(loaded).partition(" at ")[0] == repr(estimator).partition(" at ")[0]
        if hasattr(estimator, "offset_"):
            assert_same_results(estimator, loaded, X)
    if needs == [Outliers]:
        assert loaded.outliers.scale == 2


@pytest.mark.parametrize("name", ["Distance", "nowhere.Distance", "skood.Distance", ""])
def test_trusted_names_that_name_nothing(name, tmp_path):
    skood.save(skood.KNN(), tmp_path / "knn.skood")
    with pytest.raises(ValueError, match=rf"trusted='{name}' names no class or function"):
        skood.load(tmp_path / "knn.skood", trusted=[name])


def test_folders_of_this_machine_are_left_out(tmp_path):
    detector = skood.LogLikelihood(
        tiny_flow(checkpoint_dir=tmp_path / "runs"), memory=joblib.Memory(tmp_path / "cache")
    )
    loaded = there_and_back(detector, tmp_path)
    assert loaded.memory is None
    assert loaded.density.checkpoint_dir is None
    assert skood.inspect_file(tmp_path / "estimator.skood").notes == [
        "NeuralSplineFlow(checkpoint_dir=...) is None after loading",
        "LogLikelihood(memory=...) is None after loading",
    ]
    # The original keeps them.
    assert detector.memory is not None


def test_device(mlp, tmp_path):
    detector = skood.KNN(FrozenEstimator(mlp)).fit(X)
    loaded = there_and_back(detector, tmp_path, device="cpu")
    assert loaded.features.estimator.device == "cpu"
    assert_same_results(detector, loaded, X)
    assert there_and_back(detector, tmp_path).features.estimator.device is None
    with pytest.raises(ValueError, match="device='nowhere' is not a torch device"):
        skood.load(tmp_path / "estimator.skood", device="nowhere")


def test_input_schema(tmp_path):
    path = tmp_path / "file.skood"
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8)).astype(np.uint8)
    vae = skood.VAE(2, n_filters=(3,), max_steps=1, random_state=0)
    skood.save(skood.LogLikelihood(vae).fit(images), path)
    card = skood.inspect_file(path)
    assert (card.class_name, card.is_fitted) == ("LogLikelihood", True)
    assert (card.n_features, card.item_shape) == (64, [1, 8, 8])
    assert (card.dtype, card.value_range) == ("uint8", [0.0, 255.0])
    assert (card.columns, card.classes) == (None, None)
    assert card.versions["torch"] == torch.__version__
    assert card.size == path.stat().st_size
    for line in (
        "class: LogLikelihood",
        "shape of an item: 1 x 8 x 8",
        "value range: 0.0 to 255.0",
        "columns: not known",
        "needs: nothing beyond skood",
        f"sha256: {card.sha256}",
    ):
        assert line in str(card).splitlines()
    table = pd.DataFrame(X, columns=["age", "height", "mass", "pulse"])
    detector = skood.MSP(tiny_mlp(random_state=0)).fit(table, np.array(["cat", "dog"])[Y])
    skood.save(detector, path)
    card = skood.inspect_file(path)
    assert card.columns == ["age", "height", "mass", "pulse"]
    assert card.classes == ["cat", "dog"]
    assert float(card.threshold) == detector.offset_
    assert "columns: age, height, mass, pulse" in str(card)
    skood.save(skood.KNN(), path)
    card = skood.inspect_file(path)
    assert (card.n_features, card.item_shape, card.threshold) == (None, None, None)
    assert str(card).startswith("class: KNN (not fitted)\nestimator: KNN()\n")


def test_a_frame_is_checked_after_loading(tmp_path):
    table = pd.DataFrame(X, columns=list("abcd"))
    loaded = there_and_back(skood.KNN().fit(table), tmp_path)
    assert loaded.feature_names_in_.tolist() == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        loaded.score_samples(table[list("dcba")])


def test_labels_of_any_kind(tmp_path):
    for labels in (np.array(["cat", "dog"])[Y], np.array(["cat", "dog"], object)[Y], Y - 0):
        detector = skood.MSP(tiny_mlp(random_state=0)).fit(X, labels)
        loaded = there_and_back(detector, tmp_path)
        assert loaded.classes_.dtype == detector.classes_.dtype
        assert loaded.predict_class(X).tolist() == detector.predict_class(X).tolist()


def test_a_loaded_estimator_can_be_fitted_and_cloned(tmp_path):
    detector = skood.LogLikelihood(tiny_flow(random_state=0)).fit(X)
    loaded = there_and_back(detector, tmp_path)
    assert_same_results(detector, clone(loaded).fit(X), X)
    assert_same_results(detector, loaded.fit(X), X)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.skood"
    skood.save(skood.KNN(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"OutlierExposure\.outliers is .*<lambda>"):
        skood.save(skood.OutlierExposure(tiny_mlp(), lambda X, random_state: X), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        skood.save(skood.KNN(), tmp_path / "nowhere" / "file.skood")


@pytest.mark.parametrize("value", [3, skood.KNN, None, np.ones(3)])
def test_only_estimators_are_saved(value, tmp_path):
    with pytest.raises(TypeError, match="save takes an estimator, but got"):
        skood.save(value, tmp_path / "file")


def test_parameters_that_are_not_taken_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"KNN has a parameter that it does not take: .*n_neigh"):
        skood.save(skood.KNN(n_neighbors=-1), tmp_path / "file")
    with pytest.raises(ValueError, match='modules=\'pickle\'; expected "program" or "weights"'):
        skood.save(skood.KNN(), tmp_path / "file", modules="pickle")


def test_attributes_that_replace_methods_are_not_saved(tmp_path):
    detector = skood.KNN()
    detector.score_samples = None
    with pytest.raises(ValueError, match=r"KNN cannot be stored: 'score_samples' is not an attr"):
        skood.save(detector, tmp_path / "file")


def test_card_of_a_pipeline(tmp_path):
    """The first step states the columns and the last one the threshold."""
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=["a", "b", "c"])
    pipeline = make_pipeline(PCA(2), skood.KNN()).fit(X)
    skood.save(pipeline, tmp_path / "pipeline")
    card = skood.inspect_file(tmp_path / "pipeline")
    assert (card.n_features, card.columns, card.item_shape) == (3, ["a", "b", "c"], None)
    assert float(card.threshold) == pipeline[-1].offset_
