"""Models of others inside detectors: what they get, and how often."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import skood
from skood import share_forward_pass
from skood._models import as_input, rows_through

IMAGES = np.random.default_rng(0).integers(256, size=(40, 3, 8, 6), dtype=np.uint8)


class Service(TransformerMixin, BaseEstimator):
    """An embedding that costs money for every item, and notes what it is given."""

    def __init__(self, seen):
        self.seen = seen

    def __deepcopy__(self, memo):
        return self

    def __sklearn_clone__(self):
        return self

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        self.seen.append(X.shape)
        return np.asarray(X, np.float32).reshape(len(X), -1)[:, ::10]


@pytest.fixture
def service():
    return Service([])


class TestTransformer:
    def test_gets_items_as_they_came_and_each_once(self, service):
        detector = skood.KNN(service, n_neighbors=3).fit(IMAGES)
        assert service.seen == [(40, 3, 8, 6)]
        detector.score_samples(IMAGES[:1])
        assert service.seen[1:] == [(1, 3, 8, 6)]

    def test_in_a_pipeline_in_a_calibrated_detector(self, service):
        pipeline = make_pipeline(service, skood.KNN(n_neighbors=3))
        detector = skood.TunedThreshold(pipeline, random_state=0)
        y = np.where(np.arange(40) < 8, -1, 0)
        detector.fit(IMAGES, y)
        assert all(shape[1:] == (3, 8, 6) for shape in service.seen)
        # Each item is transformed to fit the pipeline or to calibrate it.
        assert sum(shape[0] for shape in service.seen) == 40

    def test_gets_each_once_for_probabilities_and_logits(self, service):
        y = np.arange(40) % 2
        pipeline = make_pipeline(service, LogisticRegression()).fit(IMAGES / 255, y)
        service.seen.clear()
        for classifier in (pipeline, FrozenEstimator(pipeline)):
            detector = skood.MSP(FrozenEstimator(classifier)).fit(IMAGES / 255)
            proba = pipeline.predict_proba(IMAGES / 255)
            service.seen.clear()
            scores = detector.score_samples(IMAGES / 255)
            assert service.seen == [(40, 3, 8, 6)]
            np.testing.assert_allclose(scores, proba.max(1), rtol=1e-6)
            energy = skood.Energy(FrozenEstimator(classifier)).fit(IMAGES / 255)
            z = pipeline.decision_function(IMAGES / 255)
            np.testing.assert_allclose(energy.score_samples(IMAGES / 255), np.logaddexp(0, z))

    @pytest.mark.parametrize("n", [1, 192, 193, 500])
    def test_gets_no_more_than_it_is_asked_for(self, service, n):
        X = np.random.default_rng(0).random((n, 4, 3))
        rows_through(service, "transform", share_forward_pass(X))
        assert [shape[0] for shape in service.seen] == [192] * (n // 192) + [n % 192] * (
            n % 192 > 0
        )
        assert {shape[1:] for shape in service.seen} == {(4, 3)}

    @pytest.mark.parametrize("axis", [-1, 1])
    def test_gets_the_axes_in_the_order_of_fit(self, service, axis):
        X = np.moveaxis(IMAGES, 1, axis)
        detector = skood.KNN(service, n_neighbors=3).fit(X)
        scores = detector.score_samples(IMAGES)
        np.testing.assert_array_equal(detector.score_samples(np.moveaxis(IMAGES, 1, -1)), scores)
        tensor = torch.tensor(np.ascontiguousarray(np.moveaxis(IMAGES, 1, -1)))
        np.testing.assert_array_equal(detector.score_samples(tensor), scores)
        assert {shape[1:] for shape in service.seen} == {X.shape[1:]}

    def test_gets_items_of_any_shape(self, service):
        for X in (IMAGES[:, 0], np.zeros((20, 2, 3, 4, 5)), np.zeros((20, 9))):
            service.seen.clear()
            skood.Mahalanobis(service).fit(X)
            assert service.seen == [X.shape]


@pytest.mark.parametrize(
    "model",
    [
        PCA(),
        make_pipeline(StandardScaler(), PCA()),
        FrozenEstimator(PCA()),
        make_pipeline("passthrough", StandardScaler()),
        KernelDensity(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_estimators_of_scikit_learn_get_flat_rows(model):
    assert as_input(model, share_forward_pass(IMAGES)).shape == (40, 144)


def test_functions_and_pipelines_that_begin_with_them_get_items():
    data = share_forward_pass(np.moveaxis(IMAGES, 1, -1))
    for model in (
        FunctionTransformer(np.sqrt),
        make_pipeline(FunctionTransformer(), PCA()),
        make_pipeline(make_pipeline(FunctionTransformer())),
    ):
        assert as_input(model, data).shape == (40, 8, 6, 3)
    own = make_pipeline(skood.FeatureExtractor(None))
    assert as_input(own, data) is data
