"""Members of an ensemble, trained by Ray's workers through joblib."""

import warnings

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris

from skood import MLP, DeepEnsemble

ray = pytest.importorskip("ray")


@pytest.fixture
def on_ray():
    from ray.util.joblib import register_ray

    register_ray()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        with joblib.parallel_config("ray", n_jobs=2):
            yield
        ray.shutdown()


def test_members_are_equal_to_those_of_one_process(on_ray):
    X, y = load_iris(return_X_y=True)
    ensemble = DeepEnsemble(MLP((8,), max_epochs=2), n_members=3, random_state=0)
    with joblib.parallel_config("sequential"):
        alone = ensemble.fit(X, y).score_samples(X)
    np.testing.assert_array_equal(ensemble.fit(X, y).score_samples(X), alone)
