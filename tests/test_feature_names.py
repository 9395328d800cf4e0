"""Names of what estimators transform to: frames, pipelines and the global configuration."""

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from estimators import ESTIMATORS
from sklearn.base import OneToOneFeatureMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

import skood

# Sixty rows hold out six, which a network may well get all right.
pytestmark = pytest.mark.filterwarnings("ignore:the classifier is:UserWarning")

TRANSFORMERS = [estimator for estimator in ESTIMATORS if hasattr(estimator, "transform")]


def seeded(estimator):
    estimator = clone(estimator)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=0)
    return estimator


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(60, 4))


@pytest.fixture(scope="module")
def y(X):
    return np.where(X[:, 0] > 0, "a", "b")


@pytest.fixture(scope="module")
def network(X, y):
    return skood.MLP((8, 3), max_epochs=3, random_state=0).fit(X, y)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()


@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=lambda e: type(e).__name__)
def test_every_transformer_names_what_it_makes(estimator, X, y):
    with pytest.raises(NotFittedError):
        clone(estimator).get_feature_names_out()
    fitted = seeded(estimator).fit(X, y)
    expected = fitted.transform(X)
    prefix = type(estimator).__name__.lower()
    if isinstance(estimator, OneToOneFeatureMixin):
        prefix = "x"
    names = [f"{prefix}{i}" for i in range(expected.shape[1])]
    assert list(fitted.get_feature_names_out()) == names
    frame = pd.DataFrame(X, index=np.arange(60) + 100)
    made = clone(fitted).fit(frame.to_numpy(), y).set_output(transform="pandas").transform(X)
    assert list(made.columns) == names
    np.testing.assert_array_equal(made.to_numpy(), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_frames_by_default(estimator, X, y):
    """Nothing inside takes an array for granted."""
    if isinstance(estimator, skood.posthoc.ConceptDetector):
        # Its classes are named, and not those of y.
        y = None
    plain = seeded(estimator).fit(X, y)
    with sklearn.config_context(transform_output="pandas"):
        fitted = seeded(estimator).fit(X, y)
        for method in ("score_samples", "transform", "predict_class"):
            if hasattr(plain, method):
                np.testing.assert_array_equal(
                    np.asarray(getattr(fitted, method)(X)), np.asarray(getattr(plain, method)(X))
                )


def test_through_a_pipeline_with_a_frozen_network(network, X, y):
    frozen = FrozenEstimator(network)
    expected = StandardScaler().fit_transform(network.transform(X))
    names = [f"mlp{i}" for i in range(3)]
    for output in ("pandas", "polars"):
        if output == "polars":
            pytest.importorskip("polars")
        pipeline = make_pipeline(frozen, StandardScaler()).set_output(transform=output).fit(X, y)
        made = pipeline.transform(X)
        assert list(made.columns) == list(pipeline.get_feature_names_out()) == names
        # Scikit-learn scales frames in float64.
        np.testing.assert_allclose(made.to_numpy(), expected, atol=1e-6)
    network.set_output(transform="default")


def test_index_of_a_frame(X, y):
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(60) + 100)
    mlp = skood.MLP((3,), max_epochs=1, random_state=0).set_output(transform="pandas")
    assert list(mlp.fit(frame, y).transform(frame).index) == list(frame.index)


def test_beside_other_columns(X, y):
    frame = pd.DataFrame(X, columns=list("abcd")).assign(kind=y)
    autoencoder = skood.Autoencoder(2, hidden_features=(4,), max_epochs=1, random_state=0)
    columns = make_column_transformer(
        (autoencoder, list("abcd")), (OneHotEncoder(sparse_output=False), ["kind"])
    ).set_output(transform="pandas")
    names = ["autoencoder__autoencoder0", "autoencoder__autoencoder1"]
    names += ["onehotencoder__kind_a", "onehotencoder__kind_b"]
    assert list(columns.fit_transform(frame).columns) == names
    union = make_union(autoencoder, PCA(1)).set_output(transform="pandas")
    assert list(union.fit_transform(X).columns) == [*names[:2], "pca__pca0"]


def test_modules_of_users(module, X):
    expected = module[:2](torch.tensor(X, dtype=torch.float32)).detach().numpy()
    for handle in (skood.PretrainedClassifier(module), skood.FeatureExtractor(module[:2])):
        pipeline = make_pipeline(handle, StandardScaler()).set_output(transform="pandas")
        made = pipeline.fit(X).transform(X)
        assert list(made.columns) == [f"{type(handle).__name__.lower()}{i}" for i in range(5)]
        np.testing.assert_allclose(made, StandardScaler().fit_transform(expected), atol=1e-5)


def test_a_transformer_that_makes_frames(X):
    scaler = StandardScaler().set_output(transform="pandas")
    expected = skood.KNN(StandardScaler(), n_neighbors=3).fit(X).score_samples(X)
    for transformer in (scaler, FrozenEstimator(StandardScaler().fit(X)), scaler.fit(X)):
        detector = skood.KNN(transformer, n_neighbors=3).fit(X)
        np.testing.assert_array_equal(detector.score_samples(X), expected)


def test_a_transformer_that_makes_sparse_rows(y):
    texts = [f"{label} word{i % 7} word{i % 3}" for i, label in enumerate(y)]
    dense = TfidfVectorizer().fit_transform(texts).toarray()
    expected = skood.KNN(n_neighbors=3).fit(dense).score_samples(dense)
    detector = skood.KNN(TfidfVectorizer(), n_neighbors=3, normalize=False).fit(texts)
    np.testing.assert_allclose(detector.score_samples(texts), expected, atol=1e-6)
    kinds = pd.DataFrame({"kind": y})
    encoded = skood.Mahalanobis(OneHotEncoder(), normalize=False).fit(kinds)
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(kinds)
    np.testing.assert_allclose(
        encoded.score_samples(kinds), skood.Mahalanobis().fit(one_hot).score_samples(one_hot)
    )
