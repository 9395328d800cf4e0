"""Networks whose output is the feature."""

import pickle
from types import SimpleNamespace

import joblib
import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skood
from skood.classifiers import FeatureExtractor

IMAGES = np.random.default_rng(0).integers(256, size=(40, 3, 9, 8), dtype=np.uint8)


class Encoder(nn.Module):
    def __init__(self, how=lambda maps: maps.mean((2, 3))):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.maps = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.how = how

    def forward(self, x):
        return self.how(self.maps(x))


def pooled(x):
    with torch.no_grad():
        return Encoder().maps(torch.as_tensor(x, dtype=torch.float32)).mean((2, 3)).numpy()


class As:
    """Functions that pickle."""

    def tuple(maps):
        return maps.mean((2, 3)), maps

    def image_embeds(maps):
        return SimpleNamespace(last_hidden_state=maps, image_embeds=maps.mean((2, 3)))

    def pooler_output(maps):
        return {"last_hidden_state": maps, "pooler_output": maps.mean((2, 3))}

    def pixels(maps):
        return maps.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("how", [As.tuple, As.image_embeds, As.pooler_output, As.pixels])
def test_what_is_taken(how):
    expected = pooled(IMAGES / 255)
    extractor = FeatureExtractor(Encoder(how))
    np.testing.assert_allclose(extractor.transform(IMAGES), expected, rtol=1e-5)
    np.testing.assert_allclose(extractor.fit(IMAGES).transform(IMAGES), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "output"),
    [
        (As.pooler_output, "pooler_output"),
        (As.image_embeds, lambda out: out.last_hidden_state.mean((2, 3))),
        (lambda maps: (maps, maps.mean((2, 3))), 1),
        (lambda maps: maps, lambda maps: maps.mean((2, 3))),
    ],
)
def test_output_says_otherwise(how, output):
    extractor = FeatureExtractor(Encoder(how), output)
    np.testing.assert_allclose(extractor.transform(IMAGES), pooled(IMAGES / 255), rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda maps: maps, r"shape \(8, 6, 7, 6\) for a batch of 8; expected one feature vector"),
        (lambda maps: maps.flatten(2).mT, r"\(8, 42, 6\) .*output=lambda out: out.last_hidden"),
        (lambda maps: {"last_hidden_state": maps}, "returns a dict with 'last_hidden_state'"),
        (lambda maps: None, "returns a NoneType"),
    ],
)
def test_what_is_no_vector(how, message):
    for use in (lambda e: FeatureExtractor(e).fit(IMAGES), lambda e: skood.KNN(e).fit(IMAGES)):
        with pytest.raises(ValueError, match=message):
            use(Encoder(how))


def test_normalisation():
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.4, 0.3]
    x = (IMAGES / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    extractor = FeatureExtractor(Encoder(), mean=mean, std=std)
    np.testing.assert_allclose(extractor.transform(IMAGES), pooled(x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        extractor.transform(np.moveaxis(IMAGES, 1, -1)), pooled(x), rtol=1e-4, atol=1e-6
    )
    flat = clone(extractor).set_params(image_shape=(3, 9, 8))
    np.testing.assert_allclose(
        flat.transform(IMAGES.reshape(40, -1)), pooled(x), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(ValueError, match="pixels from 0 to 1 are expected"):
        extractor.transform(IMAGES.astype(np.float32))


def test_is_a_transformer():
    extractor = FeatureExtractor(Encoder()).fit(IMAGES)
    names = [f"featureextractor{i}" for i in range(6)]
    assert extractor.get_feature_names_out().tolist() == names
    frame = clone(extractor).set_output(transform="pandas").fit_transform(IMAGES)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.columns.tolist() == names
    np.testing.assert_array_equal(frame.to_numpy(), extractor.transform(IMAGES))
    pipeline = make_pipeline(extractor, StandardScaler(), skood.KNN(n_neighbors=3)).fit(IMAGES)
    features = StandardScaler().fit_transform(extractor.transform(IMAGES))
    np.testing.assert_allclose(
        pipeline.score_samples(IMAGES),
        skood.KNN(n_neighbors=3).fit(features).score_samples(features),
        rtol=1e-6,
    )


def test_clone_pickle_and_hash():
    extractor = FeatureExtractor(Encoder(As.pooler_output), mean=0.5)
    again = clone(extractor)
    assert again.module is extractor.module
    restored = pickle.loads(pickle.dumps(extractor.fit(IMAGES)))
    np.testing.assert_array_equal(restored.transform(IMAGES), extractor.transform(IMAGES))
    assert joblib.hash(clone(restored)) == joblib.hash(again)


def test_detectors_share_its_pass():
    encoder, sizes = Encoder(), []
    encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    shared = skood.share_forward_pass(IMAGES)
    extractor = FeatureExtractor(encoder)
    for features in (extractor, FrozenEstimator(extractor)):
        skood.KNN(features, n_neighbors=3).fit(shared)
        skood.Mahalanobis(features).fit(shared)
    assert sizes == [8, 7, 32, 8]


def test_one_output_is_a_feature():
    """Only a classifier's one logit stands for two classes."""
    encoder = Encoder(lambda maps: maps.mean((1, 2, 3))[:, None])
    assert FeatureExtractor(encoder).transform(IMAGES).shape == (40, 1)
