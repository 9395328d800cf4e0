"""Weights, scores and metrics of pytorch-ood, whose scores are higher for outliers."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import skood
from skood import PretrainedClassifier, metrics

pytest.importorskip("pytorch_ood", minversion="0.4")

from pytorch_ood import detector as theirs
from pytorch_ood.metrics import OODMetrics
from pytorch_ood.metrics.functional import oscr_score
from pytorch_ood.model import ResNet18, ResNet50, WideResNet
from pytorch_ood.model.registry import get_model_info

RAW = {"mean": None, "std": None}
N_TRAIN = 400


NETWORKS = {
    "wrn-40-2": lambda: WideResNet(10),
    "resnet-18": lambda: ResNet18(5),
    "resnet-50": lambda: ResNet50(5),
}


@pytest.mark.parametrize("architecture", NETWORKS)
def test_weights(build, images, architecture):
    module = build(NETWORKS[architecture])
    classifier = PretrainedClassifier.from_checkpoint(module.state_dict(), architecture, **RAW)
    X = images(n=2)
    with torch.no_grad():
        module.double()
        x = torch.from_numpy(X).double()
        logits, features = module(x).numpy(), module.features(x).numpy()
    classifier.module.double()
    np.testing.assert_allclose(classifier.decision_function(X), logits, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(classifier.transform(X), features, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def rows(build):
    """A network whose features are the positive rows themselves, rows and labels."""
    rng = np.random.default_rng(0)
    y = np.arange(N_TRAIN + 200) % 5
    mixing = np.eye(8) + 0.3 * rng.normal(size=(8, 8))
    X = 2 * rng.random((5, 8))[y] + 0.5 * rng.normal(size=(len(y), 8)) @ mixing
    X[N_TRAIN:] += rng.normal(size=(200, 8)) * rng.random((200, 1))
    X = np.maximum(X, 0.01).astype(np.float32)
    module = build(lambda: nn.Sequential(nn.ReLU(), nn.Linear(8, 5)))
    head = module[1]
    means = np.stack([X[:N_TRAIN][y[:N_TRAIN] == k].mean(0) for k in range(5)])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(2 * means + 0.1 * rng.normal(size=(5, 8))))
        head.bias.copy_(torch.from_numpy(-(means**2).sum(1)))
    return module, X, y


@pytest.fixture(scope="module")
def of_images(build, images):
    """A network of pytorch-ood, pixels and labels."""
    module = build(lambda: WideResNet(5, depth=10, widen_factor=1))
    return module, 1 / (1 + np.exp(-images(n=40))), np.arange(40) % 5


def scores_on_rows(name, make, rows):
    """Return the scores of their detector on the last rows, from logits or features."""
    module, X, y = rows
    head = module[1]
    with torch.no_grad():
        z = torch.from_numpy(X)
        logits = head(z)
        train, labels = slice(N_TRAIN), torch.from_numpy(y)[:N_TRAIN]
        new = slice(N_TRAIN, None)
        if name in ("ASH", "SCALE"):
            detector = make(None, lambda maps: head(maps.flatten(1)))
            return detector.predict_feature_maps(z[new, :, None, None])
        if name in ("ReAct", "VRA"):
            detector = make(lambda x: x, head).fit_feature_maps(z[train], labels)
            return detector.predict_feature_maps(z[new])
        if hasattr(getattr(theirs, name), "predict_logits"):
            return make(None).fit_logits(logits[train], labels).predict_logits(logits[new])
        settings = {
            "ViM": {"w": head.weight, "b": head.bias},
            "DICE": {"w": head.weight, "b": head.bias},
        }
        given = {"head": head} if name not in ("KNN", "Mahalanobis", "RMD", "GMM") else {}
        detector = make(None, **settings.get(name, given))
        return detector.fit_features(z[train], labels).predict_features(z[new])


def test_detectors(translations, check_translation, evaluated, rows, of_images):
    for expression, ours, relation in translations("Detectors of pytorch-ood"):
        name, arguments = expression.split("(", 1)
        settings = eval(f"dict({arguments}")
        make = partial(getattr(theirs, name), **settings)
        detector = evaluated(ours, skood)
        takes = "features" if "features" in detector.get_params() else "classifier"
        if name in ("RankFeat", "GradNorm", "ODIN"):
            module, X, y = of_images
            mean, std = [0.5] * 3, settings.get("norm_std", [1.0] * 3)
            detector.set_params(**{takes: PretrainedClassifier(module, mean=mean, std=std)})
            x = (torch.from_numpy(X) - 0.5) / torch.tensor(std).reshape(-1, 1, 1)
            if name == "RankFeat":
                made = make(module.feature_maps, module.forward_feature_maps)
            else:
                made = make(module)
            expected = made.predict(x).detach()
            got = detector.fit(X, y).score_samples(X)
        else:
            module, X, y = rows
            expected = scores_on_rows(name, make, rows)
            detector.set_params(**{takes: module})
            got = detector.fit(X[:N_TRAIN], y[:N_TRAIN]).score_samples(X[N_TRAIN:])
        try:
            check_translation(expected, got, relation)
        except AssertionError as error:
            raise AssertionError(f"{expression} is not {ours}: {relation}") from error


def test_maps_before_the_pooling_give_other_scores(of_images):
    module, X, y = of_images
    with torch.no_grad():
        maps = module.feature_maps(torch.from_numpy(X))
    for theirs_, ours in (
        (theirs.ASH, skood.ASH(module)),
        (theirs.SCALE, skood.SCALE(module, percentile=65.0)),
    ):
        before = theirs_(None, module.forward_feature_maps).predict_feature_maps(maps)
        after = ours.fit(X, y).score_samples(X)
        assert np.abs(-before.detach().numpy() - after).max() > 1e-3 * np.abs(after).max()


def test_metrics():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, -1], [150, 150, 200])
    scores = np.where(y < 0, rng.normal(-1, 1, 500), rng.normal(1, 2, 500)).round(2)
    predicted = np.where(rng.random(500) < 0.9, y, 1 - y).clip(min=0)
    outlier_scores, labels = torch.from_numpy(-scores), torch.from_numpy(y)
    found = OODMetrics().update(outlier_scores, labels).compute()
    np.testing.assert_allclose(metrics.auroc(y, scores), found["AUROC"])
    swapped = np.where(y < 0, 1, -1)
    np.testing.assert_allclose(metrics.fpr_at_tpr(swapped, -scores), found["FPR95TPR"])
    assert abs(metrics.fpr_at_tpr(y, scores) - found["FPR95TPR"]) > 0.05
    # A sum over steps instead of trapezoids.
    np.testing.assert_allclose(metrics.aupr_in(y, scores), found["AUPR-IN"], atol=0.01)
    np.testing.assert_allclose(metrics.aupr_out(y, scores), found["AUPR-OUT"], atol=0.01)
    theirs_ = oscr_score(outlier_scores, torch.from_numpy(predicted), labels)
    np.testing.assert_allclose(metrics.oscr(y, predicted, scores), theirs_, atol=1e-6)


def test_published_normalisation():
    """The table of docs/user_guide/migrating.rst."""
    expected = {
        "wrn-40-2/cifar10/oe": ([125.3 / 255, 123.0 / 255, 113.9 / 255], [63.0 / 255, 62.1 / 255]),
        "wrn-40-2/cifar100/energy/s1": ([125.3 / 255, 123.0 / 255], [63.0 / 255, 62.1 / 255]),
        "wrn-40-2/cifar10/logitnorm/s0": ([0.4913, 0.4823, 0.4467], [0.247, 0.2435, 0.2616]),
        "wrn-40-2/cifar100/logitnorm/s0": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
        "wrn-40-2/imagenet32/crossentropy": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    }
    for key, (mean, std) in expected.items():
        found = get_model_info(key).preprocessing
        np.testing.assert_allclose(found.mean[: len(mean)], mean)
        np.testing.assert_allclose(found.std[: len(std)], std)
