"""Frames of polars as X."""

import numpy as np
import pytest
from torch import nn

import skood

polars = pytest.importorskip("polars")


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)


@pytest.fixture
def frame(rows):
    return polars.DataFrame(rows, schema=["a", "b", "c", "d"])


def test_a_frame_is_its_rows(frame, rows):
    for detector in (skood.KNN(n_neighbors=5), skood.Mahalanobis(), skood.GMM()):
        expected = detector.fit(rows).score_samples(rows)
        detector.fit(frame)
        np.testing.assert_allclose(detector.score_samples(frame), expected, rtol=1e-6)
        assert list(detector.feature_names_in_) == frame.columns


def test_a_frame_into_a_network(build, frame, rows):
    network = build(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    for make in (skood.MSP, skood.Energy, skood.ViM):
        expected = make(network).fit(rows).score_samples(rows)
        np.testing.assert_allclose(
            make(network).fit(frame).score_samples(frame), expected, rtol=1e-5
        )


def test_columns_in_another_order(frame):
    other = frame.select(["d", "c", "b", "a"])
    detector = skood.Mahalanobis().fit(frame)
    with pytest.raises(ValueError, match="feature names"):
        detector.score_samples(other)


def test_what_is_no_number(frame):
    with pytest.raises(ValueError, match=r"column 'name'.*encode it in a Pipeline"):
        skood.KNN().fit(frame.with_columns(name=polars.lit("x")))
    with pytest.raises(ValueError, match=r"LazyFrame.*X.collect\(\)"):
        skood.KNN().fit(frame.lazy())
