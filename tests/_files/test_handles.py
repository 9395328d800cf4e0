"""Detectors on a user's own network, as a program and as weights."""

import copy
import pickle
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood._files import _container
from skood._files._program import Program

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(60, 6)).astype(np.float32)
IMAGES = RNG.random((60, 3, 9, 9)).astype(np.float32)
LABELS = np.arange(60) % 4


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def perceptron(activation=nn.ReLU, **settings):
    return nn.Sequential(nn.Linear(6, 8, **settings), activation(), nn.Linear(8, 4, **settings))


def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Dropout(0.2), nn.Linear(8, 4)),
    )


class Outputs(nn.Module):
    """Returns a dict of two outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        z = self.body(x).tanh()
        return {"logits": self.head(z), "z": z}


def negative(returned):
    return -returned["logits"]


def embedding(returned):
    return returned["z"]


def there_and_back(estimator, path, modules=None, **settings):
    skood.save(estimator, path, modules="program" if modules is None else "weights")
    return skood.load(path, modules=modules, **settings)


@pytest.fixture(scope="module")
def image_network():
    return seeded(convolutional)


@pytest.mark.parametrize(
    "kind",
    [
        *(skood.Energy, skood.ODIN, skood.AdaSCALE, skood.KNN, skood.ViM, skood.Gram),
        *(skood.RankFeat, skood.NAC, skood.LayerMahalanobis, skood.MCDropout),
    ],
)
def test_same_bits(kind, image_network, tmp_path):
    detector = kind(image_network, random_state=0).fit(IMAGES, LABELS)
    loaded = there_and_back(detector, tmp_path / "file")
    name = "features" if hasattr(detector, "features") else "classifier"
    module = getattr(loaded, f"{name}_").module
    assert type(module) is Program
    # The parameter and the fitted model share one network.
    assert getattr(loaded, name).module is module
    for n in (1, 2, 33, 60):
        scores = loaded.score_samples(IMAGES[:n])
        np.testing.assert_array_equal(scores, detector.score_samples(IMAGES[:n]))
    np.testing.assert_array_equal(loaded.predict(IMAGES), detector.predict(IMAGES))


def test_behaves_as_a_handle(image_network, tmp_path):
    handle = skood.PretrainedClassifier(
        image_network, mean=[0.5] * 3, std=[0.2] * 3, classes=list("abcd")
    )
    detector = skood.ReAct(FrozenEstimator(handle)).fit(IMAGES)
    path = tmp_path / "file"
    loaded = there_and_back(detector, path)
    ours, theirs = loaded.classifier_, detector.classifier_
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    for method in ("predict", "predict_proba", "decision_function", "transform"):
        np.testing.assert_array_equal(
            getattr(ours, method)(IMAGES), getattr(theirs, method)(IMAGES)
        )
    for mine, other in zip(ours.network().head, theirs.network().head, strict=True):
        np.testing.assert_array_equal(mine, other)
    copies = [copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))]
    for again in copies:
        assert joblib.hash(again) == joblib.hash(loaded)
        np.testing.assert_array_equal(again.score_samples(IMAGES), detector.score_samples(IMAGES))
    assert "Program" in repr(loaded.classifier_)
    # A file of the loaded detector has the same content.
    skood.save(copies[1], tmp_path / "again")
    first, second = (_container.read(file) for file in (path, tmp_path / "again"))
    assert first.metadata["tree"] == second.metadata["tree"]
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array.data, second.arrays[name].data)
    refitted = clone(loaded).fit(IMAGES)
    np.testing.assert_array_equal(refitted.score_samples(IMAGES), detector.score_samples(IMAGES))
    half = copy.deepcopy(loaded)
    half.classifier_.module.half()
    expected = copy.deepcopy(detector)
    expected.classifier_.module.half()
    np.testing.assert_array_equal(
        half.score_samples(IMAGES[:8]), expected.score_samples(IMAGES[:8])
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"output": negative},
        {"output": "logits", "features_from": embedding},
        {"features_from": "body"},
        {"features_from": ("body", torch.relu)},
        {"multilabel": True},
    ],
    ids=["function", "functions", "layer", "function of a layer", "multilabel"],
)
def test_choices_of_output_and_features(settings, tmp_path):
    handle = skood.PretrainedClassifier(seeded(Outputs), **settings)
    detectors = [skood.Energy(handle)]
    if "output" not in settings or "features_from" in settings:
        detectors.append(skood.KNN(handle, n_neighbors=3))
    for detector in detectors:
        detector.fit(ROWS)
        # A function is part of the program; no code is needed for it.
        loaded = there_and_back(detector, tmp_path / "file")
        assert not skood.inspect_file(tmp_path / "file").needs
        np.testing.assert_array_equal(loaded.score_samples(ROWS), detector.score_samples(ROWS))


def test_extractor_and_ensemble(tmp_path):
    encoder = seeded(perceptron)[:2]
    detector = skood.Mahalanobis(skood.FeatureExtractor(encoder)).fit(ROWS, LABELS)
    loaded = there_and_back(detector, tmp_path / "file")
    np.testing.assert_array_equal(loaded.score_samples(ROWS), detector.score_samples(ROWS))
    networks = [seeded(perceptron), seeded(lambda: perceptron(nn.Tanh))]
    detector = skood.DeepEnsemble(networks).fit(ROWS, LABELS)
    loaded = there_and_back(detector, tmp_path / "file")
    np.testing.assert_array_equal(loaded.score_samples(ROWS), detector.score_samples(ROWS))


@pytest.mark.parametrize("n_fixed", [None, 8])
def test_exported_program(n_fixed, tmp_path):
    shapes = None if n_fixed else ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(
        seeded(perceptron), (torch.zeros(n_fixed or 3, 6),), dynamic_shapes=shapes
    )
    handle = skood.PretrainedClassifier(exported, batch_size=n_fixed)
    detector = skood.Energy(handle).fit(ROWS)
    loaded = there_and_back(detector, tmp_path / "file")
    for n in (1, 13, 60):
        np.testing.assert_array_equal(
            loaded.score_samples(ROWS[:n]), detector.score_samples(ROWS[:n])
        )


def test_weights(tmp_path):
    detector = skood.KNN(seeded(perceptron), n_neighbors=3).fit(ROWS)
    path = tmp_path / "file"
    skood.save(detector, path, modules="weights")
    with pytest.raises(ValueError, match=r"weights of a network alone; .*modules=.'Sequential'"):
        skood.load(path)
    given = perceptron()
    before = copy.deepcopy(given.state_dict())
    loaded = skood.load(path, modules={"Sequential": given})
    np.testing.assert_array_equal(loaded.score_samples(ROWS), detector.score_samples(ROWS))
    # The module that is given is not changed.
    assert all(torch.equal(given.state_dict()[name], value) for name, value in before.items())
    for wrong, message in {
        "a parameter more": (lambda: nn.Sequential(*perceptron(), nn.PReLU()), "1 parameters"),
        "another shape": (lambda: perceptron(bias=False), "another architecture"),
        "another dtype": (lambda: perceptron().half(), "float16, but the file .* torch.float32"),
        "another function": (lambda: perceptron(nn.Tanh), "computes other values"),
    }.values():
        with pytest.raises(ValueError, match=message):
            skood.load(path, modules={"Sequential": wrong()})
    assert "modules={'Sequential'" in str(skood.inspect_file(path))


def test_weights_of_two_networks_and_functions(tmp_path):
    networks = [seeded(perceptron), seeded(lambda: perceptron(nn.Tanh))]
    detector = skood.DeepEnsemble(networks).fit(ROWS, LABELS)
    modules = {"Sequential": perceptron(), "Sequential-2": perceptron(nn.Tanh)}
    loaded = there_and_back(detector, tmp_path / "file", modules=modules)
    np.testing.assert_array_equal(loaded.score_samples(ROWS), detector.score_samples(ROWS))
    handle = skood.PretrainedClassifier(seeded(Outputs), output=negative)
    detector = skood.Energy(handle).fit(ROWS)
    loaded = there_and_back(
        detector, tmp_path / "file", modules={"Outputs": Outputs()}, trusted=[negative]
    )
    np.testing.assert_array_equal(loaded.score_samples(ROWS), detector.score_samples(ROWS))


def test_refused_with_a_reason(tmp_path):
    path = tmp_path / "file"
    handle = skood.PretrainedClassifier(seeded(perceptron))
    with pytest.raises(ValueError, match=r"has not read data.*call fit before save.*weights"):
        skood.save(skood.Energy(handle), path)
    skood.save(skood.Energy(handle), path, modules="weights")
    loaded = skood.load(path, modules={"Sequential": perceptron()}).fit(ROWS)
    expected = skood.Energy(handle).fit(ROWS).score_samples(ROWS)
    np.testing.assert_array_equal(loaded.score_samples(ROWS), expected)
    with warnings.catch_warnings():
        # Dynamic quantisation is deprecated.
        warnings.simplefilter("ignore")
        small = torch.ao.quantization.quantize_dynamic(seeded(perceptron), {nn.Linear})
        detector = skood.Energy(small).fit(ROWS)
    for modules in ("program", "weights"):
        with pytest.raises(ValueError, match="quantised layers, whose packed weights"):
            skood.save(detector, path, modules=modules)
    for kind, message in {Branching: "values of tensors", HalfAndHalf: "autocast|differ"}.items():
        detector = skood.Energy(seeded(kind)).fit(ROWS)
        with pytest.raises(ValueError, match=rf"Energy.classifier.*{kind.__name__}.*{message}"):
            skood.save(detector, path)
        loaded = there_and_back(detector, path, modules={kind.__name__: kind()})
        np.testing.assert_array_equal(loaded.score_samples(ROWS), detector.score_samples(ROWS))


class Branching(nn.Sequential):
    """Takes another branch for some values."""

    def __init__(self):
        super().__init__(nn.Linear(6, 4))

    def forward(self, x):
        return super().forward(x if x.sum() > 1e9 else 2 * x)


class HalfAndHalf(Branching):
    """Computes in two precisions."""

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self[0](x).float()


def test_a_loaded_file_has_no_code(image_network, tmp_path):
    """The description of a network has names, numbers and operators alone."""
    path = Path(tmp_path, "file")
    skood.save(skood.MSP(image_network).fit(IMAGES), path)
    content = path.read_bytes()
    for trace in (b"def ", b"lambda", b"import", b"torch.fx", b"cbuiltins", b"__main__"):
        assert trace not in content
