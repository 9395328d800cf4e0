"""Class means and scatter that are accumulated over chunks equal those of the whole set."""

import numpy as np
import pytest

from skood._moments import ClassMoments


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("pooled", [True, False])
def test_chunks_give_what_the_whole_set_gives(pooled, offset):
    """Also far from zero, where sums of squares would cancel."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(101, 3)) + offset
    class_indices = rng.integers(3, size=101)
    moments = ClassMoments(4, pooled=pooled)
    for start in range(0, 101, 7):
        rows = slice(start, start + 7)
        moments.add(features[rows], class_indices[rows])
    groups = [features[class_indices == k] for k in range(3)]
    np.testing.assert_array_equal(moments.counts, [*map(len, groups), 0])
    np.testing.assert_allclose(moments.means[:3], [group.mean(0) for group in groups], rtol=1e-12)
    scatter = np.stack([np.cov(group.T, bias=True) * len(group) for group in groups])
    expected = scatter.sum(0) if pooled else np.concatenate([scatter, np.zeros((1, 3, 3))])
    np.testing.assert_allclose(moments.scatter, expected, rtol=1e-8, atol=1e-8)
