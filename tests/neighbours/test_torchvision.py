"""Networks of torchvision: auxiliary heads, and a convolution on maps as the head."""

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

import skood
from skood import PretrainedClassifier


def tiny_convnext():
    settings = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return models.ConvNeXt(settings, num_classes=5)


def tiny_swin():
    return models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [4, 4], num_classes=5)


def tiny_vit():
    return models.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=5)


def into(layer):
    """Return a function that gives the input of a layer in the network's own forward pass."""

    def function(net, x):
        seen = []
        hook = net.get_submodule(layer).register_forward_pre_hook(
            lambda _, args: seen.append(args[0])
        )
        net(x)
        hook.remove()
        return seen[-1]

    return function


NETWORKS = {
    "resnet18": (lambda: models.resnet18(num_classes=5), into("fc")),
    "mobilenet_v3": (
        lambda: models.mobilenet_v3_small(num_classes=5),
        into("classifier.3"),
    ),
    "shufflenet": (lambda: models.shufflenet_v2_x0_5(num_classes=5), into("fc")),
    "vit": (tiny_vit, into("heads.head")),
    "swin": (tiny_swin, into("head")),
    "convnext": (tiny_convnext, into("classifier.2")),
    "densenet": (
        lambda: models.DenseNet(8, (2, 2), 16, num_classes=5),
        lambda net, x: torch.relu(net.features(x)).mean((2, 3)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_classifier(build, images, run, check_classifier, name):
    make, features = NETWORKS[name]
    module, X = build(make), images()
    logits = run(module, X, lambda net, x: net(x))
    check_classifier(module, X, logits, run(module, X, features))


def test_squeezenet(build, images, run):
    """Logits are the mean of rectified maps, so that no layer is a linear head."""
    module, X = build(lambda: models.squeezenet1_1(num_classes=5)), images()
    logits = run(module, X, lambda net, x: net(x))
    fitted = skood.MSP(module).fit(X)
    size = np.abs(logits).max()
    np.testing.assert_allclose(fitted.classifier_.decision_function(X), logits, atol=1e-5 * size)
    said = r"candidates: 'classifier.1' Conv2d\(512 -> 5\).*features_from="
    for detector in (skood.ViM, skood.KNN):
        with pytest.raises(ValueError, match=said):
            detector(module).fit(X)
    named = PretrainedClassifier(module, features_from="features")
    features = run(module, X, lambda net, x: net.features(x).mean((2, 3)))
    size = np.abs(features).max()
    np.testing.assert_allclose(named.transform(X), features, atol=1e-5 * size)
    assert np.isfinite(skood.KNN(named, n_neighbors=5).fit(X).score_samples(X)).all()
    with pytest.raises(ValueError, match=r"reads the weights of the last layer.*'classifier.1'"):
        skood.ViM(named).fit(X)


def test_auxiliary_heads_do_not_score(build, images, run):
    """In training mode googlenet returns three outputs; a score is made in eval mode."""
    module = build(lambda: models.googlenet(num_classes=5, init_weights=False))
    X = images(64, n=12)
    module.train()
    assert len(module(torch.from_numpy(X[:2]))) == 3
    logits = run(module, X, lambda net, x: net(x))
    module.train()
    detector = skood.MSP(module).fit(X)
    np.testing.assert_allclose(
        detector.classifier_.decision_function(X), logits, atol=1e-5 * np.abs(logits).max()
    )
    assert module.training
    weight, bias = detector.classifier_.network().head
    made = detector.classifier_.transform(X).astype(np.float64) @ weight.T + bias
    np.testing.assert_allclose(made, logits, atol=1e-4 * np.abs(logits).max())


@pytest.mark.parametrize("training", [False, True])
def test_inception(build, images, run, training):
    module = build(
        lambda: models.inception_v3(num_classes=5, init_weights=False, transform_input=True)
    )
    X = images(75, n=6)
    logits = run(module, X, lambda net, x: net(x))
    module.train(training)
    classifier = PretrainedClassifier(module).fit(X)
    size = np.abs(logits).max()
    np.testing.assert_allclose(classifier.decision_function(X), logits, atol=1e-5 * size)
    weight, bias = classifier.network().head
    made = classifier.transform(X).astype(np.float64) @ weight.T + bias
    np.testing.assert_allclose(made, logits, atol=1e-4 * size)
    assert module.training == training


def test_encoder_without_its_head(build, images, run, check_encoder):
    def make():
        module = models.resnet18()
        module.fc = torch.nn.Identity()
        return module

    module, X = build(make), images(n=8)
    check_encoder(module, X, run(module, X, lambda net, x: net(x)))


def test_nodes_of_the_graph(build, images, run, check_encoder):
    """A feature extractor of torchvision returns a dict by the names of its nodes."""
    from torchvision.models.feature_extraction import create_feature_extractor

    def make():
        return create_feature_extractor(
            models.resnet18(), {"layer2.0.relu": "maps", "flatten": "z"}
        )

    module, X = build(make), images()
    with pytest.raises(ValueError, match=r"'maps', 'z'.*output="):
        skood.FeatureExtractor(module).fit(X)
    with pytest.raises(ValueError, match=r"'maps', 'z'.*output="):
        skood.MSP(module).fit(X)
    check_encoder(module, X, run(module, X, lambda net, x: net(x)["z"]), output="z")


def test_segmentation(build, images, run):
    module = build(
        lambda: models.segmentation.lraspp_mobilenet_v3_large(num_classes=5, weights_backbone=None)
    )
    X = images(n=8)
    with pytest.raises(ValueError, match=r"'out'.*output="):
        skood.MSP(module).fit(X)
    with pytest.raises(ValueError, match=r"32 x 32 pixels.*segmentation.*output="):
        skood.MSP(PretrainedClassifier(module, output="out")).fit(X)
    mean = PretrainedClassifier(module, output=lambda out: out["out"].mean((2, 3)))
    logits = run(module, X, lambda net, x: net(x)["out"].mean((2, 3)))
    np.testing.assert_allclose(
        skood.MSP(mean).fit(X).classifier_.decision_function(X),
        logits,
        atol=1e-5 * np.abs(logits).max(),
    )
