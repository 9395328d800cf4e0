"""The script that measures VMDLS: its schedules, and results of several seeds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from skood._torch.settings import TrainingSettings

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def run(auroc, **methods):
    return {
        "seconds": 2.0,
        "methods": {
            name: {"auroc": auroc + shift, "quantiles": [auroc, 1.0], "history": {"loss": [1.0]}}
            for name, shift in methods.items()
        },
    }


def test_seeds_accumulate(tmp_path):
    from _seeds import added

    path, about = tmp_path / "results.json", {"id": "mnist"}

    def add(seed, new):
        path.write_text(json.dumps(added(path, about, seed, new)))
        return json.loads(path.read_text())

    add(1, run(0.5, a=0))
    add(0, run(0.7, a=0))
    result = add(0, run(0.9, b=0.05))
    assert list(result["runs"]) == ["0", "1"] and set(result["runs"]["0"]["methods"]) == {"a", "b"}
    a, b = result["methods"]["a"], result["methods"]["b"]
    assert (a["n_seeds"], b["n_seeds"]) == (2, 1)
    assert a["auroc"] == pytest.approx(0.6) and b["auroc"] == pytest.approx(0.95)
    assert a["quantiles"] == pytest.approx([0.6, 1.0]) and "history" not in a
    # The same method of the same seed replaces the former result.
    assert add(1, run(0.3, a=0))["methods"]["a"]["auroc"] == pytest.approx(0.5)


def test_results_of_other_settings_are_not_mixed(tmp_path):
    from _seeds import added

    path = tmp_path / "results.json"
    path.write_text(json.dumps(added(path, {"id": "mnist", "preset": "a"}, 0, run(0.5, a=0))))
    with pytest.raises(ValueError, match="results of another preset; move the file away"):
        added(path, {"id": "mnist", "preset": "b"}, 1, run(0.5, a=0))


def test_spread():
    from _seeds import spread

    assert spread([0.5], 2) == "0.50"
    assert spread([0.5, 0.7], 3) == "0.600 (0.141)"


def test_published_schedules():
    """StepLR of 100 epochs, in 500 epochs."""
    from _vmdls_presets import PRESETS

    preset = PRESETS["mnist", "paper"]
    for learning_rate, parameters in (
        (1e-4, preset.backbone.get_params()),
        (1e-3, preset.tuned_backbone),
    ):
        assert parameters["learning_rate"] == learning_rate
        settings = TrainingSettings(
            max_epochs=500,
            max_steps=None,
            batch_size=1,
            learning_rate=learning_rate,
            lr_schedule=parameters["lr_schedule"],
            clip_norm=None,
            patience=None,
            precision="fp32",
            compile=False,
        )
        # Ten steps an epoch.
        factors = [
            settings.lr_factor(10 * epoch + step, 5000) for epoch in range(500) for step in (0, 9)
        ]
        np.testing.assert_allclose(factors, 0.1 ** (np.arange(1000) // 200))


@pytest.mark.parametrize("preset", ["quick", "short", "paper", "smoke"])
def test_parameters_of_the_presets_exist(preset):
    from _vmdls_presets import PRESETS

    from skood import VMDLS, Airbench, Autoencoder

    for base in ("mnist", "cifar10"):
        if (base, preset) in PRESETS:
            found = PRESETS[base, preset]
            Airbench(**found.trained_backbone).set_params(**found.tuned_backbone)
            VMDLS(**found.vmdls), VMDLS(**found.tuned_vmdls), Autoencoder(**found.autoencoder)
