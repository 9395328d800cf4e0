"""Every post-hoc detector on a network of timm, and on two of transformers."""

import traceback
from inspect import isabstract, signature
from pathlib import Path

import numpy as np
import pytest
import torch

import skood
from skood import posthoc

timm = pytest.importorskip("timm")
hf = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "num_labels": 3}


def vit():
    config = hf.ViTConfig(image_size=32, patch_size=8, hidden_dropout_prob=0.1, **SIZES)
    return hf.ViTForImageClassification(config)


def bert():
    return hf.BertForSequenceClassification(hf.BertConfig(vocab_size=50, pad_token_id=0, **SIZES))


NETWORKS = {
    "resnet": lambda: timm.create_model("test_resnet", num_classes=3),
    "vit": vit,
    "bert": bert,
}

# What a network or its data cannot serve, and what is said.
_NO_GRADIENT = r"gradient by the input, but X holds dicts of fields"
_SEVERAL = r"already trained.*a list of classifiers"
REFUSED = {
    ("resnet", "MCDropout"): r"needs a network with dropout.*DeepEnsemble",
    ("resnet", "DeepEnsemble"): _SEVERAL,
    ("vit", "DeepEnsemble"): _SEVERAL,
    ("bert", "DeepEnsemble"): _SEVERAL,
    ("bert", "ODIN"): _NO_GRADIENT,
    ("bert", "IODIN"): _NO_GRADIENT,
    ("bert", "AdaSCALE"): _NO_GRADIENT,
    ("bert", "RankFeat"): r"map \(C, \.\.\.\).*convolutional network",
}


@pytest.fixture(scope="module")
def trained(build, images, tokens, run):
    """Networks, items and labels, of which every class has some that are predicted."""

    def of(net, x):
        return net(**x).logits if isinstance(x, dict) else getattr(out := net(x), "logits", out)

    made = {}
    for name, make in NETWORKS.items():
        # Pixels from 0 to 1, in which a perturbation is counted.
        module = build(make)
        X = tokens(n=60) if name == "bert" else 1 / (1 + np.exp(-images(n=60)))
        head = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)][-1]
        with torch.no_grad():
            head.bias -= torch.tensor(run(module, X, of).mean(0))
        logits = run(module, X, of)
        y = logits.argmax(1)
        assert np.bincount(y, minlength=3).min() >= 8
        # Some are wrong, as a temperature wants.
        y[::10] = (y[::10] + 1) % 3
        made[name] = module, X, y
    return made


# Detectors on class names read the vectors of a pair of towers, not a classifier.
METHODS = [
    name
    for name in posthoc.__all__
    if hasattr(getattr(posthoc, name), "score_samples")
    and not isabstract(getattr(posthoc, name))
    and not issubclass(getattr(posthoc, name), posthoc.ConceptDetector)
]


def some_of(X, rows):
    return {name: values[rows] for name, values in X.items()} if isinstance(X, dict) else X[rows]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_or_says_what_to_do(trained, name, method):
    module, X, y = trained[name]
    make = getattr(posthoc, method)
    small = {"n_neighbors": 5} if "n_neighbors" in signature(make).parameters else {}
    if method == "MCDropout":
        small = {"n_samples": 4}
    detector = make(module, random_state=0, **small)
    if (name, method) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, method]) as raised:
            detector.fit(X, y)
        last = traceback.extract_tb(raised.value.__traceback__)[-1].filename
        assert Path(skood.__file__).parent in Path(last).parents
        # It is read by people.
        assert len(str(raised.value)) < 600
        return
    detector.fit(X, y)
    scores = detector.score_samples(X)
    assert scores.shape == (60,)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 3
    assert set(detector.predict(X)) <= {-1, 1}
    alone = detector.score_samples(some_of(X, slice(7, 8)))
    np.testing.assert_allclose(alone, scores[7:8], rtol=1e-3, atol=1e-4 * np.abs(scores).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_several_networks_together(trained, build, name):
    module, X, _ = trained[name]
    other = build(NETWORKS[name])
    detector = skood.DeepEnsemble([module, other], random_state=0).fit(X)
    assert np.isfinite(detector.score_samples(X)).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_one_pass_for_several_detectors(trained, name):
    module, X, y = trained[name]
    shared, passes = skood.share_forward_pass(X), []
    hook = module.register_forward_hook(lambda *_: passes.append(1))
    skood.MSP(module).fit(shared).score_samples(shared)
    n_passes = len(passes)
    for detector in (skood.Energy(module), skood.KNN(module), skood.ViM(module)):
        detector.fit(shared, y).score_samples(shared)
    hook.remove()
    assert len(passes) == n_passes


@pytest.mark.parametrize("name", NETWORKS)
def test_calibrated(trained, name):
    module, X, y = trained[name]
    first, second = some_of(X, slice(30)), some_of(X, slice(30, None))
    detector = skood.ConformalDetector(skood.KNN(module, n_neighbors=5), random_state=0)
    detector.fit(first, y[:30], X_calibration=second)
    assert np.isfinite(detector.score_samples(X)).all()
    assert set(detector.predict(X)) <= {-1, 1}
