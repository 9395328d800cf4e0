"""Postprocessors of OpenOOD, as docs/user_guide/migrating.rst lists them.

OpenOOD is no package of PyPI: the variable OPENOOD names the folder of a checkout.
"""

import importlib
import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import skood

yaml = pytest.importorskip("yaml")
pytest.importorskip("tqdm")
CHECKOUT = os.environ.get("OPENOOD")
if CHECKOUT is None:
    pytest.skip("OPENOOD names no checkout", allow_module_level=True)

CLASSES = {
    "msp": "base_postprocessor.BasePostprocessor",
    "ebo": "ebo_postprocessor.EBOPostprocessor",
    "mls": "maxlogit_postprocessor.MaxLogitPostprocessor",
    "klm": "kl_matching_postprocessor.KLMatchingPostprocessor",
    "gen": "gen_postprocessor.GENPostprocessor",
    "odin": "odin_postprocessor.ODINPostprocessor",
    "mds": "mds_postprocessor.MDSPostprocessor",
    "rmds": "rmds_postprocessor.RMDSPostprocessor",
    "knn": "knn_postprocessor.KNNPostprocessor",
    "vim": "vim_postprocessor.VIMPostprocessor",
    "residual": "residual_postprocessor.ResidualPostprocessor",
    "react": "react_postprocessor.ReactPostprocessor",
    "dice": "dice_postprocessor.DICEPostprocessor",
    "ash": "ash_postprocessor.ASHPostprocessor",
    "scale": "scale_postprocessor.ScalePostprocessor",
    "she": "she_postprocessor.SHEPostprocessor",
    "nnguide": "nnguide_postprocessor.NNGuidePostprocessor",
    "fdbd": "fdbd_postprocessor.fDBDPostprocessor",
    "nci": "nci_postprocessor.NCIPostprocessor",
    "gradnorm": "gradnorm_postprocessor.GradNormPostprocessor",
    "vra": "vra_postprocessor.VRAPostprocessor",
}
# Settings that do not fit eight features, or depend on the order of the rows.
CHANGED = {"vim": {"dim": 4}, "residual": {"dim": 4}, "nnguide": {"alpha": 1.0}}
N_TRAIN, N_CLASSES = 400, 5


class Index:
    """The search of faiss among few rows."""

    def __init__(self, n_features, products=False):
        self.products = products

    def add(self, bank):
        self.bank = bank.astype(np.float64)

    def search(self, rows, k):
        if self.products:
            return -np.sort(-(rows @ self.bank.T), axis=1)[:, :k], None
        return np.sort(((rows[:, None] - self.bank) ** 2).sum(2), axis=1)[:, :k], None


class Network(nn.Module):
    """What OpenOOD asks of a network; its features are the positive rows themselves."""

    def __init__(self):
        super().__init__()
        self.relu, self.fc = nn.ReLU(), nn.Linear(8, N_CLASSES)

    def forward(self, x, return_feature=False, return_feature_list=False):
        features = self.relu(x)
        logits = self.fc(features)
        return (logits, features) if return_feature else logits

    def forward_threshold(self, x, threshold):
        return self.fc(self.relu(x).clip(max=threshold))

    def get_fc(self):
        return self.fc.weight.detach().numpy(), self.fc.bias.detach().numpy()

    def get_fc_layer(self):
        return self.fc


@pytest.fixture
def openood(monkeypatch):
    """Return a function that imports modules of OpenOOD, without its packages, on the CPU."""
    folder = f"{CHECKOUT}/openood"
    for part in ("", ".postprocessors", ".networks", ".preprocessors", ".utils"):
        package = ModuleType(f"openood{part}")
        package.__path__ = [folder + part.replace(".", "/")]
        monkeypatch.setitem(sys.modules, package.__name__, package)
    comm = ModuleType("openood.utils.comm")
    comm.is_main_process = lambda: False
    monkeypatch.setitem(sys.modules, "openood.utils.comm", comm)
    sys.modules["openood.utils"].comm = comm
    faiss = ModuleType("faiss")
    faiss.IndexFlatL2 = Index
    faiss.IndexFlatIP = lambda n_features: Index(n_features, products=True)
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor)
    return lambda name: importlib.import_module(f"openood.{name}")


@pytest.fixture
def rows(build):
    rng = np.random.default_rng(0)
    y = np.arange(N_TRAIN + 200) % N_CLASSES
    X = 2 * rng.random((N_CLASSES, 8))[y] + 0.4 * rng.normal(size=(len(y), 8))
    X[N_TRAIN:] += rng.normal(size=(200, 8)) * rng.random((200, 1))
    X = np.maximum(X, 0.01).astype(np.float32)
    network = build(Network)
    means = np.stack([X[:N_TRAIN][y[:N_TRAIN] == k].mean(0) for k in range(N_CLASSES)])
    with torch.no_grad():
        network.fc.weight.copy_(torch.from_numpy(2 * means + 0.1 * rng.normal(size=(5, 8))))
        network.fc.bias.copy_(torch.from_numpy(-(means**2).sum(1)))
    return network, X, y


def postprocessor(openood, name):
    with open(f"{CHECKOUT}/configs/postprocessors/{name}.yml") as file:
        settings = yaml.safe_load(file)["postprocessor"].get("postprocessor_args") or {}
    args = SimpleNamespace(**settings | CHANGED.get(name, {}))
    config = SimpleNamespace(
        postprocessor=SimpleNamespace(
            postprocessor_args=args, postprocessor_sweep=None, APS_mode=False
        ),
        dataset=SimpleNamespace(name="cifar10", num_classes=N_CLASSES),
    )
    module, cls = CLASSES[name].split(".")
    made = getattr(openood(f"postprocessors.{module}"), cls)(config)
    if hasattr(made, "num_classes"):
        made.num_classes = N_CLASSES
    return made


def test_postprocessors(openood, translations, check_translation, evaluated, rows):
    network, X, y = rows
    items = [{"data": x, "label": label} for x, label in zip(torch.from_numpy(X), y, strict=True)]
    loaders = dict.fromkeys(("train", "val", "test"), DataLoader(items[:N_TRAIN], batch_size=100))
    table = translations("Postprocessors of OpenOOD")
    assert {name for name, _, _ in table} == set(CLASSES)
    for name, ours, relation in table:
        theirs, used = postprocessor(openood, name), network
        if name in ("ash", "scale"):
            wrapper = openood(f"networks.{name}_net")
            used = getattr(wrapper, {"ash": "ASHNet", "scale": "ScaleNet"}[name])(network)
        theirs.setup(used, loaders, None)
        _, conf = theirs.postprocess(used, torch.from_numpy(X[N_TRAIN:]))
        detector = evaluated(ours, skood)
        takes = "features" if "features" in detector.get_params() else "classifier"
        detector.set_params(**{takes: network})
        if name in ("vim", "residual"):
            detector.set_params(n_components=4)
        scores = detector.fit(X[:N_TRAIN], y[:N_TRAIN]).score_samples(X[N_TRAIN:])
        try:
            check_translation(-conf.detach().numpy().ravel(), scores, relation)
        except AssertionError as error:
            raise AssertionError(f"{name} is not {ours}: {relation}") from error
