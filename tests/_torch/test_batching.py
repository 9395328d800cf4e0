"""Scoring in batches: the precision of convolutions."""

import numpy as np
import pytest
import torch

from skood._checked_data import CheckedData
from skood._torch.batching import map_batches


@pytest.mark.parametrize("allowed", [True, False])
def test_convolutions_are_not_rounded_to_tensor_float_32(monkeypatch, allowed):
    """The user's setting is restored afterwards, also after an error."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    seen = []

    def score(items):
        seen.append(torch.backends.cudnn.allow_tf32)
        return torch.from_numpy(items[:, 0])

    data = CheckedData.of(np.arange(5.0)[:, None])
    np.testing.assert_array_equal(map_batches(score, data, 2), np.arange(5.0))
    assert seen == [False] * 3
    assert torch.backends.cudnn.allow_tf32 is allowed
    with pytest.raises(ZeroDivisionError):
        map_batches(lambda items: 1 / 0, data, 2)
    assert torch.backends.cudnn.allow_tf32 is allowed
