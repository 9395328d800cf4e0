"""Dropout in eval mode, with one mask for all rows."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from skood._torch.dropout import Subnetwork
from skood._torch.seeding import numpy_rng


def kept(shape, p, number):
    return torch.from_numpy(numpy_rng(7, 3, number).random(shape) >= p)


@pytest.fixture
def x():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(5, 6, 4, 4)))


def test_every_dropout_has_a_mask_that_rows_share(x):
    with Subnetwork(7, 3) as subnetwork:
        first = F.dropout(x, 0.3, training=False)
        second = nn.Dropout(0.6).eval()(x)
    np.testing.assert_allclose(first, x * kept((6, 4, 4), 0.3, 0) / 0.7, rtol=1e-14)
    np.testing.assert_allclose(second, x * kept((6, 4, 4), 0.6, 1) / 0.4, rtol=1e-14)
    assert subnetwork.shapes == [(5, 6, 4, 4), (5, 6, 4, 4)]
    assert subnetwork.output is second
    # A different batch, then a different seed.
    with subnetwork:
        assert torch.equal(F.dropout(x[:2], 0.3), first[:2])
    with Subnetwork(7, 4):
        assert not torch.equal(F.dropout(x, 0.3), first)


@pytest.mark.parametrize(
    ("layer", "n_dims"), [(nn.Dropout1d, 3), (nn.Dropout2d, 4), (nn.Dropout3d, 5)]
)
def test_whole_channels(layer, n_dims):
    x = torch.ones((5, 40, 3, 3, 3)[:n_dims])
    with Subnetwork(7, 3):
        dropped = layer(0.3).eval()(x)
    mask = kept((40, *[1] * (n_dims - 2)), 0.3, 0)
    assert 0 < mask.sum() < 40
    np.testing.assert_allclose(dropped, x * mask / 0.7, rtol=1e-6)


@pytest.mark.parametrize("function", [F.alpha_dropout, F.feature_alpha_dropout])
@pytest.mark.parametrize("value", [1.0, -0.5])
def test_alpha_dropout_gives_the_values_of_torch(function, value):
    x = torch.full((3, 60, 2), value, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = function(x, 0.3, training=True).unique()
    with Subnetwork(7, 3):
        values = function(x, 0.3)
    assert len(expected) == 2
    mask = kept((60, 1 if function is F.feature_alpha_dropout else 2), 0.3, 0)
    # Dropped values become the smaller one.
    expected = torch.where(mask, expected[1], expected[0]).expand(3, 60, 2)
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_in_place(x):
    layer = nn.Dropout(0.5, inplace=True).eval()
    with Subnetwork(7, 3):
        expected = F.dropout(x, 0.5)
    with Subnetwork(7, 3):
        assert layer(x) is x
    assert torch.equal(x, expected)


def test_rates_of_zero_and_one(x):
    with Subnetwork(7, 3) as subnetwork:
        assert torch.equal(F.dropout(x, 0.0), x)
        assert not subnetwork.shapes
        assert not F.dropout(x, 1.0).any()


def test_the_rate_is_the_fraction_dropped():
    with Subnetwork(7, 3):
        dropped = F.dropout(torch.ones(1, 100_000), 0.2)
    # Five standard errors.
    assert float((dropped == 0).double().mean()) == pytest.approx(0.2, abs=5 * 0.4 / 100_000**0.5)
    assert float(dropped.mean()) == pytest.approx(1, abs=5 * 0.5 / 100_000**0.5)


def test_all_else_stays_in_eval_mode(x):
    module = nn.Sequential(nn.BatchNorm2d(6), StochasticDepth(0.5, "row"), nn.RReLU()).double()
    module.eval()
    expected = module(x)
    before = torch.get_rng_state()
    with Subnetwork(7, 3) as subnetwork:
        assert torch.equal(module(x), expected)
        F.dropout(x, 0.5)
    assert len(subnetwork.shapes) == 1
    assert torch.equal(torch.get_rng_state(), before)
    assert module[0].num_batches_tracked == 0
    # Outside the block, dropout is unchanged.
    assert torch.equal(nn.Dropout(0.5).eval()(x), x)
