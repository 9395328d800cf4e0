"""Ctrl-C: what a fit keeps of its phases, what it says, and how it ends."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skood import (
    KNN,
    MLP,
    VMDLS,
    WAIC,
    Autoencoder,
    ConformalDetector,
    DeepEnsemble,
    LikelihoodRatio,
    LogLikelihood,
    TwoStep,
)
from skood._torch import run as run_module
from skood._torch.run import followed_by, n_interrupted, next_phase
from skood.density import NeuralSplineFlow

X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.arange(60) % 2


def tiny_flow():
    return NeuralSplineFlow(
        1, hidden_features=(4,), max_epochs=3, batch_size=20, validation_fraction=0, random_state=0
    )


def tiny_network():
    return MLP((4,), max_epochs=3, batch_size=20, random_state=0)


def press_ctrl_c(monkeypatch, cls, method, n=1, times=1):
    original, calls = getattr(cls, method), []

    def pressed(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, method, pressed)


@pytest.fixture
def press(monkeypatch):
    """Function that makes the n-th call of a method press Ctrl-C a number of times."""

    return partial(press_ctrl_c, monkeypatch)


def test_first_ctrl_c_names_the_next_phase(press):
    press(torch.optim.Adam, "step", 2)
    with pytest.warns(UserWarning) as caught:
        detector = LogLikelihood(tiny_flow(), threshold_fraction=0).fit(X)
    assert [str(warning.message) for warning in caught] == [
        "NeuralSplineFlow was interrupted after 2 of 9 steps; the model keeps what it had learned. "
        "Next: threshold of LogLikelihood; a second Ctrl-C within 3 seconds ends the fit"
    ]
    assert (detector.predict(X) == 1).mean() == pytest.approx(0.95)
    assert next_phase() is None


def test_nothing_follows_a_model_of_its_own(press):
    press(torch.optim.SGD, "step", 2)
    with pytest.warns(UserWarning, match="the model keeps what it had learned$"):
        network = tiny_network().fit(X, Y)
    assert network.predict(X).shape == (60,)


def test_second_ctrl_c_in_the_same_step_ends_the_fit_of_a_model(press):
    """The network is kept all the same."""
    press(torch.optim.SGD, "step", 2, times=2)
    network = tiny_network()
    message = "learned, and this second Ctrl-C ends the fit$"
    with pytest.warns(UserWarning, match=message), pytest.raises(KeyboardInterrupt):
        network.fit(X, Y)
    assert network.predict(X).shape == (60,)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_in_the_same_step_ends_the_fit_of_a_detector(press):
    """It ends when the density has reached the detector, and before the threshold."""
    press(torch.optim.Adam, "step", 2, times=2)
    detector = LogLikelihood(tiny_flow())
    with pytest.warns(UserWarning) as caught, pytest.raises(KeyboardInterrupt):
        detector.fit(X)
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2
    assert said[1] == (
        "LogLikelihood.fit was ended before the detector could score; it keeps what was trained: "
        "density_"
    )
    assert np.isfinite(detector.density_.score_samples(X)).all()
    # Nothing is left over for the next pass.
    assert np.isfinite(detector.score_samples(X)).all()


def test_second_ctrl_c_ends_a_pass_over_the_data(press):
    """Features of the training rows would be a long pass between training and threshold."""
    press(torch.optim.SGD, "step", 2, times=2)
    detector = KNN(tiny_network())
    with pytest.warns(UserWarning) as caught, pytest.raises(KeyboardInterrupt):
        detector.fit(X, Y)
    assert "it keeps what was trained: features_" in str(caught[-1].message)
    assert detector.features_.predict(X).shape == (60,)
    assert "bank_" not in vars(detector)


def test_ctrl_c_after_three_seconds_is_a_first_one_again(press, monkeypatch):
    monkeypatch.setattr(run_module, "_SECONDS_TO_END", 0.0)
    press(torch.optim.Adam, "step", 2)
    press(LogLikelihood, "_score_samples")
    with pytest.warns(UserWarning) as caught:
        LogLikelihood(tiny_flow()).fit(X)
    assert len(caught) == 2


def test_ctrl_c_while_scoring_for_the_threshold(press):
    press(LogLikelihood, "_score_samples")
    message = "It keeps its trained models and can score, but not predict"
    with pytest.warns(UserWarning, match=message):
        detector = LogLikelihood(tiny_flow()).fit(X)
    whole = LogLikelihood(tiny_flow()).fit(X)
    np.testing.assert_array_equal(detector.score_samples(X), whole.score_samples(X))
    for method in (detector.predict, detector.decision_function):
        with pytest.raises(NotFittedError, match="ConformalDetector"):
            method(X)
    others = np.random.default_rng(1).normal(size=(100, 3))
    safe = ConformalDetector(FrozenEstimator(detector), random_state=0).fit(others)
    np.testing.assert_array_equal(safe.score_samples(X), detector.score_samples(X))
    assert 0 < (safe.predict(others) == -1).mean() <= 0.05


def test_second_ctrl_c_while_scoring_for_the_threshold(press):
    press(torch.optim.Adam, "step", 2)
    press(LogLikelihood, "_score_samples")
    detector = LogLikelihood(tiny_flow())
    with pytest.warns(UserWarning) as caught, pytest.raises(KeyboardInterrupt):
        detector.fit(X)
    assert len(caught) == 2
    assert "can score, but not predict" in str(caught[1].message)
    assert np.isfinite(detector.score_samples(X)).all()


def test_a_detector_without_threshold_is_not_cached(press, tmp_path):
    calibrated = ConformalDetector(
        LogLikelihood(tiny_flow()), 0.2, memory=str(tmp_path), random_state=0
    )
    press(LogLikelihood, "_score_samples")
    with pytest.warns(UserWarning, match="can score, but not predict"):
        first = clone(calibrated).fit(X)
    assert "offset_" not in vars(first.detectors_[0])
    assert "offset_" in vars(clone(calibrated).fit(X).detectors_[0])


def test_an_ended_fit_keeps_nothing_of_an_earlier_fit(press):
    detector = KNN(tiny_network()).fit(X, Y)
    earlier = detector.features_
    press(torch.optim.SGD, "step", 2, times=2)
    with pytest.warns(UserWarning), pytest.raises(KeyboardInterrupt):
        detector.fit(X + 1, Y)
    assert detector.features_ is not earlier
    with pytest.raises((NotFittedError, AttributeError)):
        detector.score_samples(X)


def test_an_error_in_the_fit_clears_a_pending_end():
    with pytest.raises(ZeroDivisionError), followed_by("nothing"):
        run_module.end_fit()
        raise ZeroDivisionError
    run_module.raise_if_ended()


def test_other_threads_are_left_alone():
    """Python interrupts the main thread alone, and a fit in another one goes on."""
    fitted = []
    thread = threading.Thread(target=lambda: fitted.append(tiny_network().fit(X, Y)))
    before = n_interrupted()
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    thread.join()
    assert len(fitted[0].history_["loss"]) == 3
    assert n_interrupted() == before


NETWORK = MLP((4,), max_epochs=2, random_state=0)


@pytest.mark.parametrize(
    ("detector", "optimizer", "following", "kept"),
    [
        (
            LikelihoodRatio(tiny_flow(), [tiny_flow(), tiny_flow()], random_state=0),
            "Adam",
            "background model 1 of 2",
            "density_",
        ),
        (
            WAIC(tiny_flow().set_params(random_state=None), 2, random_state=0),
            "Adam",
            "member 2 of 2",
            None,
        ),
        (DeepEnsemble(NETWORK, 2, random_state=0), "SGD", "member 2 of 2", "estimators_"),
        (
            LogLikelihood(TwoStep(Autoencoder(1, max_epochs=2), tiny_flow(), random_state=0)),
            "Adam",
            "training of NeuralSplineFlow in the latents",
            None,
        ),
        (
            VMDLS(NETWORK, 2, reconstruction=Autoencoder(1, max_epochs=2), random_state=0),
            "SGD",
            "training of Autoencoder",
            "backbone_",
        ),
        (ConformalDetector(tiny_flow(), 0.2), "Adam", "calibration of ConformalDetector", None),
    ],
    ids=["LikelihoodRatio", "WAIC", "DeepEnsemble", "TwoStep", "VMDLS", "ConformalDetector"],
)
def test_the_next_phase_is_named_and_a_second_ctrl_c_prevents_it(
    press, detector, optimizer, following, kept
):
    with pytest.MonkeyPatch.context() as patched:
        press_ctrl_c(patched, getattr(torch.optim, optimizer), "step")
        with pytest.warns(UserWarning, match=f"Next: {following}; a second Ctrl-C"):
            clone(detector).fit(X, Y)
    run_module._ctrl_c.told_at = -np.inf
    press(getattr(torch.optim, optimizer), "step", times=2)
    detector = clone(detector)
    with pytest.warns(UserWarning) as caught, pytest.raises(KeyboardInterrupt):
        detector.fit(X, Y)
    (last,) = [str(w.message) for w in caught if "fit was ended" in str(w.message)]
    assert last == f"{type(detector).__name__}.fit was ended before the detector could score" + (
        "" if kept is None else f"; it keeps what was trained: {kept}"
    )


SCRIPT = """
    import sys
    import numpy as np
    import torch
    from skood import MLP, VAE, OODGen
    from skood._torch import run

    run._SECONDS_TO_END = float(sys.argv[1])

    def announced(cls):
        original, calls = cls.step, []

        def step(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 20:
                print(cls.__name__, flush=True)
            return original(self, *args, **kwargs)

        cls.step = step

    announced(torch.optim.Adam)
    announced(torch.optim.SGD)
    X = np.random.default_rng(0).normal(size=(200, 4)).astype("f4")
    y = np.arange(200) % 2
    settings = {"max_epochs": 10**6, "compile": False, "verbose": 0}
    vae = VAE(2, conditional=True, hidden_features=(8,), **settings)
    detector = OODGen(MLP((8,), **settings), vae, random_state=0)
    try:
        detector.fit(X, y)
    except KeyboardInterrupt:
        print("ended", *sorted(k for k in vars(detector) if k in ("sampler_", "classifier_")))
        print(detector.sampler_.vae_.transform(X, y).shape)
    else:
        print("fitted", detector.predict(X).shape)
"""


def run_and_interrupt(seconds):
    """Run the script, and send SIGINT in either training.

    Parameters
    ----------
    seconds : float
        In which a second Ctrl-C ends the fit; the script may be slow on a busy machine.

    Returns
    -------
    out : list of str
        Lines that it prints at the end.
    said : list of str
        Its warnings.
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stdout.readline() == "Adam\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "SGD\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    said = [line.split("UserWarning: ")[1] for line in err.splitlines() if "UserWarning" in line]
    return out.splitlines(), said


def test_two_presses_of_a_real_process_end_the_fit():
    out, said = run_and_interrupt(1000)
    assert out == ["ended classifier_ sampler_", "(200, 2)"]
    assert [text.split()[0] for text in said] == ["VAE", "MLP", "OODGen.fit"]


def test_a_press_for_each_phase_of_a_real_process():
    out, said = run_and_interrupt(0)
    assert out == ["fitted (200,)"]
    assert [text.split("Next: ")[1].split(";")[0] for text in said] == [
        "training of MLP",
        "threshold of OODGen",
    ]
