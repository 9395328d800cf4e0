"""Networks of timm: classifiers, encoders with ``num_classes=0``, heads that are convolutions."""

import pickle

import joblib
import numpy as np
import pytest
import torch

import skood
from skood import FeatureExtractor, PretrainedClassifier

timm = pytest.importorskip("timm")

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 24)}
RESNETV2 = {"layers": (1, 1), "channels": (16, 32), "stem_chs": 8}

NETWORKS = {
    "resnet": ("test_resnet", {}),
    "vit": ("vit_tiny_patch16_224", VIT),
    "vit, mean of tokens": ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg"}),
    "siglip, pooled by attention": ("vit_base_patch16_siglip_224", VIT),
    "dinov2": ("vit_small_patch14_dinov2", VIT),
    "beit": ("beit_base_patch16_224", VIT),
    "cait": ("cait_xxs24_224", VIT),
    "convnext": ("convnext_atto", CONVNEXT),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "efficientnet": ("test_efficientnet", {}),
    "mobilenetv3, a convolution after pooling": ("mobilenetv3_small_050", {}),
    "nfnet": ("test_nfnet", {}),
    "byobnet": ("test_byobnet", {}),
    "resnetv2, a convolution as head": ("resnetv2_50", RESNETV2),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def make(name, n_classes):
    architecture, settings = NETWORKS[name]
    return timm.create_model(architecture, num_classes=n_classes, **settings)


def own_features(module, x):
    return module.forward_head(module.forward_features(x), pre_logits=True)


@every_network
def test_classifier(build, images, run, check_classifier, name):
    module, X = build(lambda: make(name, 5)), images()
    logits = run(module, X, lambda net, x: net(x))
    check_classifier(module, X, logits, run(module, X, own_features))


@every_network
def test_encoder(build, images, run, check_encoder, name):
    module, X = build(lambda: make(name, 0)), images()
    check_encoder(module, X, run(module, X, lambda net, x: net(x)))


def test_a_head_that_is_taken_off(build, images, run, check_encoder):
    module, X = build(lambda: make("vit", 5)), images()
    features = run(module, X, own_features)
    module.reset_classifier(0)
    check_encoder(module, X, features)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("resnet", torch.float16, 2e-2), ("vit", torch.bfloat16, 5e-2)],
)
def test_half_precision(
    build, images, run, check_classifier, check_encoder, name, dtype, tolerance
):
    module, X = build(lambda: make(name, 5)).to(dtype), images()
    logits = run(module, X, lambda net, x: net(x.to(dtype)))
    features = run(module, X, lambda net, x: own_features(net, x.to(dtype)))
    check_classifier(module, X, logits, features, tolerance)
    assert PretrainedClassifier(module).transform(X).dtype == np.float32
    encoder = build(lambda: make(name, 0)).to(dtype)
    embedding = run(encoder, X, lambda net, x: net(x.to(dtype)))
    check_encoder(encoder, X, embedding, tolerance)


def test_two_heads_whose_mean_is_the_output(build, images, run):
    """Of a distilled DeiT, no layer makes the logits."""
    module = build(
        lambda: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, **VIT)
    )
    X = images()
    logits = run(module, X, lambda net, x: net(x))
    for detector in (skood.MSP, skood.Energy):
        fitted = detector(module).fit(X)
        np.testing.assert_allclose(
            fitted.classifier_.decision_function(X), logits, atol=1e-5, rtol=1e-5
        )
    with pytest.raises(ValueError, match=r"candidates: .*'head_dist' Linear\(24 -> 5\).*differs"):
        skood.ViM(module).fit(X)
    with pytest.raises(ValueError, match=r"candidates: .*features_from="):
        skood.KNN(module).fit(X)
    with pytest.raises(ValueError, match=r"shape \(.*, 18, 24\).*choose or pool"):
        skood.KNN(PretrainedClassifier(module, features_from="norm")).fit(X)


def test_maps_instead_of_a_vector(build, images, run, check_encoder):
    module = build(lambda: timm.create_model("test_resnet", num_classes=0, global_pool=""))
    X = images(64, n=8)
    with pytest.raises(ValueError, match=r"expected .*\(batch, .*output="):
        skood.KNN(module).fit(X)
    with pytest.raises(ValueError, match=r"one feature vector for each item.*output="):
        FeatureExtractor(module).fit(X)
    pooled = run(module, X, lambda net, x: net(x).mean((2, 3)))
    check_encoder(module, X, pooled, output=lambda out: out.mean((2, 3)))


def test_maps_of_every_stage(build, images, run, check_encoder):
    module = build(lambda: timm.create_model("test_resnet", features_only=True))
    X = images(64, n=8)
    with pytest.raises(ValueError, match=r"expected .*\(batch, .*output="):
        skood.KNN(module).fit(X)
    with pytest.raises(ValueError, match=r"expected .*\(batch, .*output="):
        skood.MSP(module).fit(X)
    pooled = run(module, X, lambda net, x: net(x)[-1].mean((2, 3)))
    check_encoder(module, X, pooled, output=lambda out: out[-1].mean((2, 3)))


def test_image_of_another_size(build, images):
    module = build(lambda: make("vit", 5))
    with pytest.raises(ValueError, match=r"X has images of \(3, 40, 40\).*VisionTransformer"):
        skood.MSP(module).fit(images(40))


def test_normalisation_of_the_library(build, images, run):
    """The data configuration of timm goes into mean and std as it is."""
    module = build(lambda: make("resnet", 5))
    settings = timm.data.resolve_model_data_config(module)
    X = np.random.default_rng(0).integers(256, size=(20, 3, 32, 32), dtype=np.uint8)
    classifier = PretrainedClassifier(module, mean=settings["mean"], std=settings["std"])
    mean, std = (torch.tensor(settings[key])[:, None, None] for key in ("mean", "std"))
    logits = run(module, X, lambda net, x: net((x / 255 - mean) / std))
    np.testing.assert_allclose(classifier.decision_function(X), logits, atol=1e-4, rtol=1e-5)


def test_a_dataset_with_the_transform_of_the_library(build, run):
    Image = pytest.importorskip("PIL.Image")
    module = build(lambda: make("vit", 5))
    settings = timm.data.resolve_model_data_config(module)
    transform = timm.data.create_transform(**{**settings, "input_size": (3, 32, 32)})
    pixels = np.random.default_rng(0).integers(256, size=(12, 40, 40, 3), dtype=np.uint8)

    class Photos(torch.utils.data.Dataset):
        def __len__(self):
            return len(pixels)

        def __getitem__(self, index):
            return transform(Image.fromarray(pixels[index])), index % 5

    X = np.stack([Photos()[i][0].numpy() for i in range(len(pixels))])
    expected = run(module, X, lambda net, x: torch.softmax(net(x), 1)).max(1)
    detector = skood.MSP(module).fit(Photos())
    np.testing.assert_allclose(detector.score_samples(Photos()), expected, atol=1e-5)
    np.testing.assert_allclose(detector.score_samples(X), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_stored_and_cached(build, images, tmp_path, name):
    module, X = build(lambda: make(name, 5)), images()
    assert joblib.hash(PretrainedClassifier(module)) == joblib.hash(
        PretrainedClassifier(build(lambda: make(name, 5)))
    )
    detector = skood.ViM(module, n_components=4, memory=str(tmp_path)).fit(X)
    scores = detector.score_samples(X)
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_allclose(again.score_samples(X), scores, rtol=1e-6)
    fresh = skood.ViM(module, n_components=4, memory=str(tmp_path)).fit(X)
    np.testing.assert_allclose(fresh.score_samples(X), scores, rtol=1e-6)


def test_given_in_training_mode(build, images, run):
    module, X = build(lambda: make("resnet", 5)), images()
    logits = run(module, X, lambda net, x: net(x))
    module.train()
    detector = skood.Energy(module).fit(X)
    np.testing.assert_allclose(
        detector.classifier_.decision_function(X), logits, atol=1e-5 * np.abs(logits).max()
    )
    assert module.training
    module.eval()
    np.testing.assert_allclose(run(module, X, lambda net, x: net(x)), logits)


@pytest.mark.parametrize("rows", [slice(None), slice(0, 3)])
def test_arrays_and_tensors_of_any_layout(build, images, rows):
    module, X = build(lambda: make("convnext", 5)), images()[rows]
    detector = skood.MSP(module).fit(X)
    scores = detector.score_samples(X)
    tensor = torch.from_numpy(X)
    for other in (tensor, tensor.to(memory_format=torch.channels_last), np.moveaxis(X, 1, -1)):
        np.testing.assert_allclose(detector.score_samples(other), scores, atol=1e-6)
