"""Networks as named tensors, and their reconstruction."""

import re

import numpy as np
import pytest
import torch
from _files import families
from torch import nn

from skood._files._codec import DamagedFile
from skood._files._networks import network_record, restored_network
from skood._torch.packing import tensors_of
from skood.base import estimator
from skood.classifiers import NeuralClassifier


def trainees():
    """Return the families whose estimator has a network of its own."""
    made = {**families.densities(), **families.classifiers()}
    return {name: pair for name, pair in made.items() if not name.startswith("two_step")}


def restored(estimator):
    return restored_network(estimator, network_record(estimator))


def same(module, other):
    """Whether two networks have the same names, bits, layouts and flags."""
    given, expected = tensors_of(module), tensors_of(other)
    return list(given) == list(expected) and all(
        torch.equal(given[name], tensor)
        and given[name].stride() == tensor.stride()
        and given[name].dtype == tensor.dtype
        and given[name].requires_grad == tensor.requires_grad
        and type(given[name]) is type(tensor)
        for name, tensor in expected.items()
    )


@pytest.fixture(scope="module")
def mlp():
    return families.fitted(families.mlp(), families.ROWS)


@pytest.mark.parametrize("name", trainees())
def test_restored_network_has_the_same_bits(name):
    model, X = trainees()[name]
    model = families.fitted(model, X)
    before = families.scores(model, X)
    state = torch.get_rng_state()
    module = restored(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(module, model.module_)
    assert not any(layer.training for layer in module.modules())
    assert all(tensor.data_ptr() % 64 == 0 for tensor in module.parameters())
    model.module_ = module
    np.testing.assert_array_equal(families.scores(model, X), before)


@pytest.mark.parametrize("name", families.large_classifiers())
def test_large_classifiers_can_be_built(name):
    model, X = families.large_classifiers()[name]
    model._open(X, reset=True)
    module = model._make_network(X.shape[1:], 3)
    assert same(restored(_with(model, module)), module)


def _with(model, module):
    model.module_ = module
    return model


@pytest.mark.parametrize("name", ["deep_svdd_of_images", "deep_svdd_soft"])
def test_a_network_that_its_objective_changed(name):
    detector, X = families.detectors()[name]
    backbone = families.fitted(detector, X).backbone_
    record = network_record(backbone)
    assert record["removed"] and "center" in record["added"]
    module = restored_network(backbone, record)
    assert same(module, backbone.module_)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert not any(layer.affine for layer in norms)


def test_frozen_parameters_stay_frozen(mlp):
    model = families.fitted(families.mlp(), families.ROWS)
    model.module_[1].weight.requires_grad_(False)
    assert network_record(model)["frozen"] == ["1.weight"]
    assert same(restored(model), model.module_)


def test_names_of_zuko_are_not_in_a_record():
    flow = families.fitted(*families.densities()["flow"])
    names = list(network_record(flow)["tensors"])
    assert names[:3] == [f"transforms.0.layers.0.{part}" for part in ("weight", "bias", "mask")]
    column = families.fitted(*families.densities()["flow_of_one_column"])
    assert next(iter(network_record(column)["tensors"])) == "transforms.0.widths"


def spoiled(record, **changes):
    tensors = {**record["tensors"], **changes}
    return {**record, "tensors": {k: v for k, v in tensors.items() if v is not None}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"1.bias": None}, r"'1.bias' is absent, expected torch.float32 of shape \(8,\)"),
        ({"1.bias": torch.zeros(9)}, r"'1.bias' is torch.float32 of shape \(9,\), expected"),
        ({"1.bias": torch.zeros(8).double()}, "'1.bias' is torch.float64"),
        ({"other": torch.zeros(8)}, "'other' is torch.float32 of shape .* expected absent"),
        ({"1.bias": 3}, "'tensors' of a network is not a dict of Tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_named(mlp, changes, message):
    with pytest.raises(DamagedFile, match=message):
        restored_network(mlp, spoiled(network_record(mlp), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_outputs": "3"}, "not an integer"),
        ({"n_outputs": None}, "outputs of a classifier's network is absent"),
        ({"n_outputs": 10**15}, "do not fit"),
        ({"removed": ["1.no"]}, "no parameter '1.no' to remove"),
        ({"removed": ["9.weight"]}, "no layer '9'"),
        ({"removed": ["1.bias"]}, "'1.bias' is torch.float32 of shape .* expected absent"),
        ({"added": ["no"]}, "additional buffers without values"),
        ({"frozen": "all"}, "'frozen' of a network is not a list"),
    ],
)
def test_damaged_records(mlp, changes, message):
    with pytest.raises(DamagedFile, match=message):
        restored_network(mlp, {**network_record(mlp), **changes})


def test_an_added_buffer_replaces_no_attribute(mlp):
    record = spoiled({**network_record(mlp), "added": ["forward"]}, forward=torch.zeros(1))
    with pytest.raises(KeyError, match="already exists"):
        restored_network(mlp, record)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mlp", {"hidden_features": (10**9, 10**9)}),
        ("flow", {"hidden_features": (10**7, 10**7)}),
        ("flow", {"n_transforms": 10**9}),
        ("flow_of_one_column", {"n_transforms": 10**9}),
        ("flow_of_one_column", {"n_bins": 10**12}),
        ("pixelcnn", {"n_hierarchies": 10**9}),
        ("pixelcnn", {"n_filters": 10**6}),
        ("pixelcnn", {"n_resnet": 10**9}),
        ("image_flow", {"n_transforms": (10**9, 1)}),
        ("diffusion", {"n_blocks": 10**9}),
        ("hierarchical_vae", {"n_latents": (10**7,) * 3}),
        ("densenet", {"depth": 4 + 6 * 10**9}),
        ("convnet", {"n_convolutions": 10**9}),
    ],
)
def test_a_network_larger_than_its_tensors_is_not_built(name, changes):
    model, X = trainees()[name]
    model = families.fitted(model, X)
    record = network_record(model)
    with pytest.raises((DamagedFile, RuntimeError)):
        restored_network(model.set_params(**changes), record)


def test_parameters_set_after_fit_are_noticed():
    model = families.fitted(families.mlp(), families.ROWS)
    with pytest.raises(ValueError, match=re.escape("'1.weight' is torch.float32 of shape (8, 4)")):
        network_record(model.set_params(hidden_features=(9, 8)))


def test_a_network_put_in_place_of_the_trained_one_is_noticed():
    model = families.fitted(families.mlp(), families.ROWS)
    model.module_[2] = nn.Tanh()
    with pytest.raises(ValueError, match="layers are of other kinds"):
        network_record(model)


@estimator
class Attentive(NeuralClassifier):
    """A user's architecture, which draws and reads values while it is built."""

    def _build(self, item_shape, n_classes):
        layer = nn.utils.parametrizations.weight_norm(nn.Linear(item_shape[0], 4))
        if not torch.isfinite(torch.randn(3).sum()).item():
            raise ValueError
        return nn.Sequential(layer, nn.ReLU(), nn.Linear(4, n_classes))


def test_an_architecture_of_a_user():
    model = Attentive(max_epochs=2, random_state=0).fit(families.ROWS, families.LABELS)
    state = torch.get_rng_state()
    module = restored(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(module, model.module_)


@estimator
class Unregistered(NeuralClassifier):
    def _build(self, item_shape, n_classes):
        network = nn.Sequential(nn.Linear(item_shape[0], n_classes))
        network.projection = torch.randn(4)
        return network


def test_a_tensor_outside_of_parameters_and_buffers_is_refused():
    model = Unregistered(max_epochs=2, random_state=0).fit(families.ROWS, families.LABELS)
    with pytest.raises(ValueError, match="'projection', which is not a parameter or a buffer"):
        network_record(model)


def test_tied_parameters_stay_tied():
    @estimator
    class Tied(NeuralClassifier):
        def _build(self, item_shape, n_classes):
            first, second = nn.Linear(4, 4), nn.Linear(4, 4)
            second.weight = first.weight
            return nn.Sequential(first, nn.ReLU(), second, nn.Linear(4, n_classes))

    model = Tied(max_epochs=2, random_state=0).fit(families.ROWS, families.LABELS)
    module = restored(model)
    assert module[0].weight is module[2].weight
    assert same(module, model.module_)
