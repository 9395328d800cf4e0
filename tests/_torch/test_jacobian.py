"""Jacobians by rows, in forward and in backward mode."""

import sys
import warnings

import pytest
import torch

from skood._torch.jacobian import _load_forward_mode, backward_jacobian, forward_jacobian


@pytest.mark.parametrize("jacobian", [forward_jacobian, backward_jacobian])
def test_jacobian_of_each_row(jacobian):
    """Of (x0 x1, sin x0, x2^2): the derivatives by hand."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.zeros(4, 3, 3, dtype=torch.float64)
    expected[:, 0, 0], expected[:, 0, 1] = x[:, 1], x[:, 0]
    expected[:, 1, 0], expected[:, 2, 2] = x[:, 0].cos(), 2 * x[:, 2]
    found = jacobian(lambda x: torch.stack((x[:, 0] * x[:, 1], x[:, 0].sin(), x[:, 2] ** 2), 1), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("is_first", [False, True])
def test_first_use_of_forward_mode_does_not_warn(monkeypatch, is_first):
    """Torch loads its forward mode once in a process, by functions that it deprecates."""
    z = torch.ones(2, 2)
    forward_jacobian(torch.sin, z)
    # Torch loads a module again that is gone; we take care of it at our first use alone.
    monkeypatch.delitem(sys.modules, "torch._decomp.decompositions_for_jvp")
    monkeypatch.delattr(torch._decomp, "decompositions_for_jvp")
    if is_first:
        _load_forward_mode.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forward_jacobian(torch.sin, z)
    assert any("torch.jit" in str(warning.message) for warning in caught) == (not is_first)
