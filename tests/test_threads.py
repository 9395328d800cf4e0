"""Several threads, and forked processes, get the results of a single one."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, NOT_FOR_ROWS, tiny_mlp
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood._torch.seeding import isolated_rng, released_rng
from skood._torch.threads import Turns

N_THREADS = 8
METHODS = "score_samples", "predict", "predict_proba", "transform", "score_statistics"
QUICK = {"max_epochs": 1, "batch_size": 16}


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
        )


ON_IMAGES = [
    skood.Airbench((4, 6, 6), **QUICK),
    skood.ConvNet((2,), **QUICK),
    skood.DenseNet(10, 2, **QUICK),
    skood.LeNet((3, 2), **QUICK),
    skood.MNISTConvNet(3, hidden_features=4, **QUICK),
    skood.ResNet(18, **QUICK),
    skood.ShallowConvNet((2, 3), hidden_features=4, **QUICK),
    skood.VGG(11, **QUICK),
    skood.WideResNet(10, 1, **QUICK),
]
OTHERS = [
    skood.ConformalDetector(skood.KNN(n_neighbors=2), alpha=0.2),
    skood.EnsembleDetector(
        [("near", skood.KNN(n_neighbors=2)), ("msp", skood.MSP(tiny_mlp()))], alpha=0.2
    ),
    skood.FeatureExtractor(network()),
    skood.InlierFit(skood.KNN(n_neighbors=2)),
    skood.PretrainedClassifier(network()),
    skood.TunedThreshold(skood.KNN(n_neighbors=2)),
    skood.Mahalanobis(network()),
    skood.ODIN(network()),
    skood.MCDropout(network(), n_samples=2),
    skood.GradNorm(network()),
]


def name_of(estimator):
    params = estimator.get_params(deep=False)
    inner = [params[name] for name in ("density", "classifier", "features") if name in params]
    return "-".join(type(part).__name__ for part in [estimator, *inner] if part is not None)


def rows():
    X = np.random.default_rng(0).normal(size=(60, 4))
    return np.column_stack([X, X[:, 0] ** 2]), (X[:, 0] > 0).astype(int)


def images():
    return np.random.default_rng(0).random((8, 1, 16, 16), np.float32), np.arange(8) % 2


def fit(estimator, X, y):
    estimator = clone(estimator)
    settings = {"random_state": 0, "contamination": 0.2}
    known = estimator.get_params(deep=False)
    return estimator.set_params(**{k: v for k, v in settings.items() if k in known}).fit(X, y)


def in_threads(function, n_threads=N_THREADS):
    """Call a function of the thread's number at the same time; return its results in order."""
    barrier = threading.Barrier(n_threads)

    def work(number):
        barrier.wait(60)
        return function(number)

    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(work, range(n_threads)))


def assert_the_same_in_threads(fitted, parts):
    methods = [name for name in METHODS if hasattr(fitted, name)]
    expected = [{name: getattr(fitted, name)(part) for name in methods} for part in parts]

    def results(number):
        part = parts[number % len(parts)]
        return {name: getattr(fitted, name)(part) for name in methods}

    for number, found in enumerate(in_threads(results)):
        for name, result in found.items():
            one = expected[number % len(parts)][name]
            np.testing.assert_array_equal(result, one, err_msg=name)


@pytest.mark.filterwarnings("ignore:the (classifier is|training loss):UserWarning")
@pytest.mark.parametrize("estimator", [*ESTIMATORS, *OTHERS], ids=name_of)
def test_scores_in_threads(estimator):
    X, y = rows()
    fitted = fit(estimator, X, y)
    if isinstance(estimator, skood.BoundarySampler):
        expected = fitted.sample_off_manifold(X, random_state=0)
        for sampled in in_threads(lambda _: fitted.sample_off_manifold(X, random_state=0)):
            np.testing.assert_array_equal(sampled, expected)
    else:
        assert_the_same_in_threads(fitted, [X[:7], X[7:8]])


@pytest.mark.filterwarnings("ignore:the classifier is:UserWarning")
@pytest.mark.parametrize("estimator", ON_IMAGES, ids=name_of)
def test_scores_of_images_in_threads(estimator):
    X, y = images()
    assert_the_same_in_threads(fit(estimator, X, y), [X[:3], X[3:4]])


def test_every_public_estimator_is_listed_here():
    listed = {type(estimator) for estimator in [*ON_IMAGES, *OTHERS]}
    # The rows of a stream have an order; texts are in tests/density/test_causal_language_model.py,
    # and sequences below.
    others = {skood.DriftMonitor, skood.CausalLanguageModel, skood.SequenceDensity}
    assert listed | others >= NOT_FOR_ROWS


@pytest.mark.parametrize("network", ["convolution", "lstm"])
def test_scores_of_sequences_in_threads(network):
    density = skood.SequenceDensity(network, hidden_features=4, n_layers=1, max_steps=2)
    words = ["ACGT", "CGTAC", "GT", "TACGTAC", "A", "CC"] * 4
    fitted = density.set_params(random_state=0).fit(words)
    assert_the_same_in_threads(fitted, [words[:7], words[7:8]])


def test_training_mode_is_restored_after_the_last_thread():
    X, y = rows()
    module = network().train()
    module[1].eval()
    detectors = [skood.MSP(module).fit(X, y), skood.ReAct(module).fit(X, y)]
    expected = [detector.score_samples(X) for detector in detectors]

    def scores(number):
        return [detectors[number % 2].score_samples(X) for _ in range(4)]

    for number, found in enumerate(in_threads(scores)):
        for one in found:
            np.testing.assert_array_equal(one, expected[number % 2])
    assert [part.training for part in module] == [True, False, True, True, True]
    assert module.training


TRAINED = [
    tiny_mlp(dropout=0.3),
    skood.VAE(1, hidden_features=(8,), max_epochs=5),
    skood.VOS(tiny_mlp(dropout=0.3), n_candidates=20),
    skood.PixelCNN(4, 1, n_levels=16, value_range="minmax", image_shape="row", max_epochs=2),
]


def test_fits_in_threads_are_equal_to_fits_in_turn():
    X, y = rows()

    def scores(number):
        fitted = fit(TRAINED[number], X, y)
        return fitted.score_samples(X) if hasattr(fitted, "score_samples") else fitted.transform(X)

    expected = [scores(number) for number in range(len(TRAINED))]
    before = torch.get_rng_state()
    for found, one in zip(in_threads(scores, len(TRAINED)), expected, strict=True):
        np.testing.assert_array_equal(found, one)
    assert torch.equal(torch.get_rng_state(), before)


def test_scoring_does_not_wait_for_a_fit():
    X, y = rows()
    fitted = fit(skood.MSP(tiny_mlp()), X, y)
    expected = fitted.score_samples(X)
    scored = threading.Event()

    class Stops(skood.MLP):
        def _build(self, *args):
            assert scored.wait(30)
            return super()._build(*args)

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(fit, Stops((8,), max_epochs=1), X, y)
        np.testing.assert_array_equal(fitted.score_samples(X), expected)
        scored.set()
        training.result()


def test_global_generators_are_passed_on_between_steps():
    """Each thread draws as if it were alone, and the state from before them is left."""
    device = torch.device("cpu")

    def draws(number):
        drawn = []
        with isolated_rng(device, number):
            for _ in range(20):
                with isolated_rng(device, 5):
                    torch.rand(1)
                drawn.append(float(torch.rand(1)))
                with released_rng(device):
                    pass
        return drawn

    before = torch.get_rng_state()
    expected = [draws(number) for number in range(4)]
    assert in_threads(draws, 4) == expected
    assert torch.equal(torch.get_rng_state(), before)
    with released_rng(device):
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), before)


def test_turns_are_taken_in_order():
    turns, taken, waiting = Turns(), [], []

    def take(number):
        with turns, turns:
            taken.append(number)

    with turns:
        for number in range(4):
            waiting.append(threading.Thread(target=take, args=(number,)))
            waiting[-1].start()
            while len(turns._waiting) <= number:
                pass
        with turns.released():
            pass
        assert taken == [0, 1, 2, 3]
    for thread in waiting:
        thread.join()
    assert not turns.is_held and not turns.depth


def test_ctrl_c_while_waiting():
    """A thread that gives up does not get the lock; one that must have it back gets it."""
    turns = Turns()
    has_it, may_end = threading.Event(), threading.Event()

    def hold():
        with turns:
            has_it.set()
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
            threading.Timer(0.3, may_end.set).start()
            may_end.wait(10)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        has_it.wait(10)
        with pytest.raises(KeyboardInterrupt), turns:
            pass
        assert not turns._waiting
        holding.result()
        has_it.clear()
        may_end.clear()
        with turns:
            with pytest.raises(KeyboardInterrupt), turns.released():
                holding = pool.submit(hold)
                has_it.wait(10)
            assert turns.is_held and turns.depth == 1
        holding.result()
    assert not turns.is_held


FORKS = """
import multiprocessing, threading
import numpy as np, torch
import skood
from skood._torch.threads import computing
torch.set_num_threads(2)
X = np.random.default_rng(0).normal(size=(400, 32))
network = torch.nn.Sequential(torch.nn.Linear(32, 256), torch.nn.ReLU(), torch.nn.Linear(256, 2))
detector = skood.MSP(network).fit(X)
expected = detector.score_samples(X)

def train():
    return skood.MLP((8,), max_epochs=1, random_state=0).fit(X, np.arange(400) % 2).predict_proba(X)

probabilities = train()

def score(part):
    same = np.array_equal(detector.score_samples(X), expected)
    return torch.get_num_threads(), same and np.array_equal(train(), probabilities)

def hold():
    with computing:
        held.set()
        ended.wait(240)

# Another thread computes a batch while the process forks.
held, ended = threading.Event(), threading.Event()
threading.Thread(target=hold).start()
held.wait(60)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map_async(score, range(2)).get(240))
ended.set()
print(torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_forked_processes_score_and_train():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert run.stdout.splitlines() == ["[(1, True), (1, True)]", "2"], run.stderr


def test_frozen_network_shared_by_detectors_in_threads():
    X, y = rows()
    shared = FrozenEstimator(fit(tiny_mlp(), X, y))
    methods = skood.MSP, skood.Gram, skood.ReAct, skood.ODIN, skood.GradNorm, skood.NAC
    detectors = [fit(method(shared), X, y) for method in methods]
    expected = [detector.score_samples(X) for detector in detectors]
    found = in_threads(lambda k: [detectors[k].score_samples(X) for _ in range(3)], len(detectors))
    for scores, one in zip(found, expected, strict=True):
        for again in scores:
            np.testing.assert_array_equal(again, one)
