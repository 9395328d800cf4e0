"""Training in two processes of a torch process group, against training in one."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import process_group
import pytest
import torch
from torch import nn

from skood import MSP
from skood._torch.device import resolve_device
from skood._torch.distributed import Processes
from skood._torch.objective import Objective, declared
from skood.classifiers._objective import ClassifierObjective
from skood.training_time import TrainingDetector

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Run the script by torchrun, and return what each process found."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(process_group.__file__)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    finished = subprocess.run(
        [*launcher, "--nproc-per-node=2", str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=script.parents[1],
    )
    assert finished.returncode == 0, finished.stderr
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


def assert_equal(one, other, **tolerance):
    """Compare the histories and weights of two fits."""
    for values, others in zip(one, other, strict=True):
        assert list(values) == list(others)
        for name in values:
            np.testing.assert_allclose(values[name], others[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("name", process_group.EXACT)
def test_losses_and_weights_of_one_process(ranks, name):
    first, second = (rank["results"][name] for rank in ranks)
    assert_equal(first, second, rtol=0, atol=0)
    assert_equal(first, process_group.result(process_group.EXACT[name]()), rtol=2e-5, atol=2e-5)


def test_training_ends_early_in_both_processes(ranks):
    history, _ = ranks[1]["results"]["early stopping"]
    assert len(history["loss"]) < 9


def test_both_processes_have_the_seed_of_the_first(ranks):
    first, second = (rank["results"]["random seed"] for rank in ranks)
    assert_equal(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("name", process_group.NOISY)
def test_random_numbers_differ_but_processes_agree(ranks, name):
    first, second = (rank["results"][name] for rank in ranks)
    assert_equal(first, second, rtol=0, atol=0)
    alone, _ = process_group.result(process_group.NOISY[name]())
    assert first[0]["loss"] != alone["loss"]
    assert first[0]["validation_loss"][-1] == pytest.approx(alone["validation_loss"][-1], rel=0.1)


def test_threshold_and_divided_scores(ranks):
    detector = MSP(process_group.mlp(), random_state=0).fit(process_group.X, process_group.y)
    scores = detector.score_samples(process_group.X)
    np.testing.assert_array_equal(ranks[0]["scores"], ranks[1]["scores"])
    np.testing.assert_allclose(ranks[0]["scores"], scores, rtol=1e-4)
    assert ranks[0]["offset"] == ranks[1]["offset"] == pytest.approx(detector.offset_, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RegMixup", "mixes the rows"),
        ("VOS", "virtual outliers"),
        ("VMDLS", "compares the rows"),
        ("EnergyRegularized", "separate means"),
        ("soft boundary", "quantile"),
        ("batch normalisation", "'network.1' depends on all rows"),
        ("small batch", "1 row(s), fewer than processes"),
        ("other rows", "rank 0 and rank [1] differ"),
        ("other parameters", "rank 0 and rank [1] differ"),
        ("thread", "in the main thread"),
    ],
)
def test_what_cannot_be_divided_is_refused_in_all_processes(ranks, name, reason):
    for rank in ranks:
        assert reason in rank["refusals"][name]


def test_waiting_for_a_late_process_is_told(ranks):
    (warning,) = ranks[0]["late"]
    assert warning.startswith("MLP: rank 0 waits for the other processes")
    assert ranks[1]["late"] == []


def test_ctrl_c_in_one_process_ends_the_same_step_in_all(ranks):
    for rank in ranks:
        (warning,) = rank["interrupted"]["warnings"]
        assert warning.startswith("MLP was interrupted after 8 of 16 steps")


def test_resumes_from_the_checkpoint_of_the_first_process(ranks):
    for rank in ranks:
        interrupted = rank["interrupted"]
        assert_equal(interrupted["resumed"], interrupted["uninterrupted"], rtol=0, atol=0)
        assert len(interrupted["files"]) == 1


def test_torchrun_without_a_process_group_is_noted_once(ranks):
    for rank in ranks:
        (warning,) = rank["alone"]
        assert "init_process_group" in warning


def test_one_process_needs_no_group():
    processes = Processes(CPU)
    rows, losses = np.arange(5), {"loss": torch.ones(())}
    assert (processes.rank, processes.size, processes.own_stream) == (0, 1, ())
    assert processes.part(rows) is rows
    assert processes.means(losses) is losses
    assert processes.weighted(losses, rows) is losses


def test_an_override_must_declare_again_that_rows_are_independent():
    class Center(ClassifierObjective):
        def loss(self, *batch):
            raise NotImplementedError

    class Declared(Center):
        couples_rows = None

    class Renamed(Declared):
        compiles = False

    methods = ["read", "prepare", "loss", "after_step"]
    reasons = [
        declared(object.__new__(kind), "couples_rows", methods)
        for kind in (ClassifierObjective, Center, Declared, Renamed)
    ]
    assert reasons == [None, "Center overrides loss without declaring couples_rows = None"] + (
        [None] * 2
    )


def subclasses(kind):
    for child in kind.__subclasses__():
        if child.__module__.startswith("skood."):
            yield child
            yield from subclasses(child)


@pytest.mark.parametrize(
    ("base", "attribute", "methods"),
    [
        (Objective, "couples_rows", ["read", "prepare", "loss", "after_step"]),
        (TrainingDetector, "_couples_rows", ["_loss"]),
    ],
)
def test_all_methods_of_the_package_declare_whether_rows_are_independent(base, attribute, methods):
    kinds = {kind for kind in subclasses(base) if vars(kind).keys() & set(methods)}
    assert len(kinds) >= 2
    assert {kind for kind in kinds if attribute not in vars(kind)} == set()


def test_batch_normalisation_is_synchronised_and_put_back():
    processes = Processes(CPU)
    processes.size = 2
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    original, weight = network[1][0], network[1][0].weight
    with processes.synchronised(network):
        assert isinstance(network[1][0], nn.SyncBatchNorm)
        assert network[1][0].weight is weight
        network.eval()
    assert network[1][0] is original
    assert not original.training


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, None),
        ({"TORCHELASTIC_RUN_ID": "a", "LOCAL_RANK": "1"}, 1),
        ({"TORCHELASTIC_RUN_ID": "a", "LOCAL_RANK": "5"}, None),
        ({"LOCAL_RANK": "1"}, None),
    ],
)
def test_each_process_has_its_gpu(monkeypatch, environment, number):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_device(None) == torch.device("cuda", number)
    assert resolve_device("cpu") == CPU
