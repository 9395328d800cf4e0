"""WAIC: the mean of an ensemble's log-densities minus their variance."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skood import WAIC, NeuralSplineFlow


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(120, 3))


def test_score(rows):
    parts = np.split(rows, 3)
    members = [FrozenEstimator(GaussianMixture(1, random_state=0).fit(part)) for part in parts]
    detector = WAIC(members).fit(rows)
    assert detector.densities_ == members
    scores = np.stack([member.score_samples(rows) for member in members])
    expected = scores.mean(0) - ((scores - scores.mean(0)) ** 2).mean(0)
    np.testing.assert_allclose(detector.score_samples(rows), expected)
    # Far away the members disagree: the score falls faster than any log-density.
    far = 10 * rows[:1]
    assert detector.score_samples(far) < min(m.score_samples(far) for m in members)


def test_members_differ_by_their_seeds(rows):
    flow = NeuralSplineFlow(1, 4, (8,), max_epochs=2)
    detector = WAIC(flow, 3, random_state=0).fit(rows)
    scores = [density.score_samples(rows) for density in detector.densities_]
    assert len({float(s.sum()) for s in scores}) == 3
    again = WAIC(flow, 3, random_state=0, n_jobs=2).fit(rows)
    np.testing.assert_allclose(again.score_samples(rows), detector.score_samples(rows), atol=1e-5)
    other = WAIC(flow, 3, random_state=1).fit(rows)
    assert (other.score_samples(rows) != detector.score_samples(rows)).all()


def test_bootstrap(rows):
    detector = WAIC(KernelDensity(), 4, bootstrap=True, random_state=0).fit(rows)
    trained_on = [np.asarray(density.tree_.data) for density in detector.densities_]
    for data in trained_on:
        assert len(data) == 120
        # A share of 1 - 1/e of the rows, some of them several times.
        assert 60 < len(np.unique(data, axis=0)) < 90
        assert (data[:, None] == rows).all(2).any(1).all()
    assert len({float(data.sum()) for data in trained_on}) == 4


def test_what_a_member_excludes(rows):
    tophat = [
        FrozenEstimator(KernelDensity(kernel="tophat", bandwidth=b).fit(rows)) for b in (1, 3)
    ]
    detector = WAIC(tophat).fit(rows)
    assert np.isneginf(detector.score_samples(rows[:1] + 50)).all()
    assert np.isfinite(detector.score_samples(rows)).all()


def test_members_that_agree_somewhere_are_taken(rows):
    """Two densities that differ on some rows alone, and a third that is one of these."""
    one, other = (KernelDensity(kernel="tophat", bandwidth=b).fit(rows) for b in (1, 3))
    detector = WAIC([FrozenEstimator(density) for density in (one, other, one)]).fit(rows)
    scores = np.stack([density.score_samples(rows) for density in (one, other, one)])
    np.testing.assert_allclose(detector.score_samples(rows), scores.mean(0) - scores.var(0))
    with pytest.raises(ValueError, match="all 2 members give"):
        WAIC([FrozenEstimator(one), FrozenEstimator(one)]).fit(rows)


@pytest.mark.parametrize(
    ("density", "message"),
    [
        ([KernelDensity()], "expected two densities at least"),
        ([KernelDensity(), 3], "each with fit and score_samples"),
        (FrozenEstimator(KernelDensity().fit(np.eye(3))), "would all be the same; give a list"),
        (KernelDensity(), "all 5 members give each of 120 training items the same log-density"),
        (GaussianMixture(2, random_state=0), "random_state=0, with which all 5 members would be"),
        (GaussianMixture(1), "same log-density.*bootstrap=True, or give a list"),
    ],
)
def test_errors(rows, density, message):
    with pytest.raises(ValueError, match=message):
        WAIC(density).fit(rows)
