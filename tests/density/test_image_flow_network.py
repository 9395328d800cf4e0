"""The network of ImageFlow as an invertible map, and its log-determinant."""

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from skood.density._flow_layers import Coupling, Mixing, squeeze, unsqueeze
from skood.density._image_flow_network import ImageFlowNetwork

# Shapes, and the shapes of the latents of their scales: odd sides, no side that can be halved, one
# pixel, and rows.
SHAPES = {
    (1, 8, 8): [(4, 4, 2), (1, 1, 32)],
    (3, 4, 4): [(2, 2, 6), (1, 1, 24)],
    (1, 5, 7): [(1, 1, 35)],
    (1, 6, 5): [(3, 5, 1), (1, 1, 15)],
    (2, 1, 6): [(1, 3, 2), (1, 1, 6)],
    (1, 2, 2): [(1, 1, 4)],
    (5, 1, 1): [(1, 1, 5)],
    (2, 1, 1): [(1, 1, 2)],
}
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_coupling = pytest.mark.parametrize("coupling", ["spline", "affine"])
# Settings of a network of two scales, except for the coupling.
UNTRAINED = {
    "mask": "half",
    "n_bins": 4,
    "bound": 3.0,
    "n_filters": (4, 4),
    "n_blocks": 1,
    "dropout": 0.0,
    "ends_mixed": False,
}


def images(shape, n=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *shape, generator=generator, dtype=torch.float64)


def log_det_by_autograd(function, x):
    """Log-determinants of the Jacobians at each of x."""
    jacobians = vmap(jacrev(lambda item: function(item[None])[0]))(x)
    return torch.linalg.slogdet(jacobians.reshape(len(x), x[0].numel(), -1)).logabsdet


@each_shape
def test_latents_of_each_scale(image_flow_network, shape):
    network = image_flow_network(shape)
    assert network.latent_shapes == SHAPES[shape]
    assert network(images(shape))[0].shape == (3, network.n_values)


def test_three_scales(image_flow_network):
    """As published: 28 x 28, 14 x 14 and 7 x 7 pixels, the last of which become one."""
    network = image_flow_network((1, 28, 28), (1, 1, 1))
    assert network.latent_shapes == [(14, 14, 2), (7, 7, 4), (1, 1, 196)]
    assert [len(layers) for layers in network.scales] == [3, 3, 2]
    network = image_flow_network((3, 32, 32), (1, 1, 1))
    assert network.latent_shapes == [(16, 16, 6), (8, 8, 12), (1, 1, 1536 // 2)]


@each_coupling
@each_shape
def test_log_determinant_is_that_of_autograd(image_flow_network, shape, coupling):
    network = image_flow_network(shape, coupling=coupling)
    x = images(shape)
    _, log_det = network(x)
    assert log_det.dtype == torch.float64
    expected = log_det_by_autograd(lambda x: network(x)[0], x)
    torch.testing.assert_close(log_det, expected, atol=1e-8, rtol=0)
    assert log_det.std() > 1e-3


@each_coupling
@each_shape
def test_inverse_both_ways(image_flow_network, shape, coupling):
    network = image_flow_network(shape, (3, 3), coupling=coupling)
    x = images(shape)
    torch.testing.assert_close(network.inverse(network(x)[0]), x, atol=1e-8, rtol=0)
    z = images((network.n_values,))
    torch.testing.assert_close(network(network.inverse(z))[0], z, atol=1e-8, rtol=0)


@each_shape
def test_inverse_in_float32(image_flow_network, shape):
    network = image_flow_network(shape).float()
    x = images(shape).float()
    z, log_det = network(x)
    assert (z.dtype, log_det.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(network.inverse(z), x, atol=1e-3, rtol=0)


@each_coupling
def test_items_do_not_see_each_other(image_flow_network, coupling):
    network = image_flow_network((1, 8, 6), coupling=coupling)
    x = images((1, 8, 6), n=5)
    z, log_det = network(x)
    for i in range(5):
        alone = network(x[i : i + 1])
        torch.testing.assert_close(alone[0][0], z[i], atol=1e-12, rtol=0)
        torch.testing.assert_close(alone[1][0], log_det[i], atol=1e-10, rtol=0)
    torch.testing.assert_close(network(x.flip(0))[0].flip(0), z, atol=1e-12, rtol=0)


@each_coupling
def test_every_latent_of_the_last_scale_sees_every_pixel(image_flow_network, coupling):
    """Of an early scale a latent sees only what is near, so what is whole comes last."""
    network = image_flow_network((1, 4, 4), (2, 3), coupling=coupling)
    jacobian = jacrev(lambda x: network(x[None])[0][0])(images((1, 4, 4))[0]).view(16, 16)
    assert (jacobian[8:].abs() > 1e-12).all()


def test_untrained_network_is_linear_and_keeps_volume_by_its_scales():
    """Splines start as the identity and convolutions as rotations."""
    torch.manual_seed(0)
    network = ImageFlowNetwork((1, 4, 4), (2, 2), coupling="spline", **UNTRAINED).double()
    x = images((1, 4, 4))
    z, log_det = network(x)
    torch.testing.assert_close(log_det, torch.zeros_like(log_det), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.norm(dim=1), x.flatten(1).norm(dim=1), atol=1e-5, rtol=0)
    network = ImageFlowNetwork((1, 4, 4), (2, 2), coupling="affine", **UNTRAINED).double()
    # Two transforms of 16 values, and two of 8, scale half of them.
    scale = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64)) + 1e-3
    expected = (16 + 8) * scale.log()
    torch.testing.assert_close(network(x)[1], expected.expand(3), atol=1e-5, rtol=0)


def test_actnorm_is_set_by_the_first_batch(image_flow_network):
    """Every input of a coupling is then of mean 0 and variance 1, channel by channel."""
    network = image_flow_network((1, 8, 8), (2, 2))
    x = 5 + 3 * images((1, 8, 8), n=200)
    seen = []
    for layer in network.modules():
        if isinstance(layer, Mixing):
            layer.register_forward_hook(lambda layer, _, output: seen.append((layer, output)))
    with torch.no_grad():
        network(x, initializes=True)
    assert len(seen) == 5
    for layer, output in seen:
        normalised = output
        if layer.mixes:
            lower, upper = layer._triangles()
            normalised = output @ torch.linalg.inv(layer.permutation @ lower @ upper).T
        std, mean = torch.std_mean(normalised.flatten(0, 2), 0, correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-9, rtol=0)
        torch.testing.assert_close(std, torch.ones_like(std), atol=1e-9, rtol=0)


@pytest.mark.parametrize("value", [0.0, -2.9, 2.9])
def test_actnorm_of_constant_images(value):
    """Rounding errors are not scaled up, in one layer after another."""
    torch.manual_seed(0)
    network = ImageFlowNetwork((1, 8, 8), (6, 6), coupling="spline", **UNTRAINED)
    x = torch.full((20, 1, 8, 8), value)
    with torch.no_grad():
        network(x, initializes=True)
        z, log_det = network(x)
        z_apart, _ = network(x + 0.1)
    torch.testing.assert_close(z, torch.zeros_like(z), atol=1e-4, rtol=0)
    assert log_det.abs().max() < 0.01
    # Rotated, and of the same length.
    torch.testing.assert_close(z_apart.norm(dim=1), torch.full((20,), 0.8), atol=1e-3, rtol=0)


def test_bfloat16_is_for_conditioners_alone(image_flow_network):
    """The noise of dequantised black pixels is finer than bfloat16 at their logits."""
    network = image_flow_network((1, 8, 8), (1, 1)).float()
    with torch.no_grad():
        for layers in network.scales:
            layers[1].conditioner[-1].weight.zero_()
        x = -2.94 + 0.01 * images((1, 8, 8)).float()
        z, log_det = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            z_autocast, log_det_autocast = network(x)
    assert z_autocast.dtype == torch.float32
    # Biases are rounded, and with them what all images share.
    spread, spread_autocast = z - z.mean(0), z_autocast - z_autocast.mean(0)
    torch.testing.assert_close(spread_autocast, spread, atol=2e-3, rtol=0.02)
    torch.testing.assert_close(log_det_autocast, log_det, atol=0.2, rtol=0)


@each_coupling
@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 1, 1)], ids=str)
def test_training_moves_every_parameter(image_flow_network, shape, coupling):
    network = image_flow_network(shape, coupling=coupling).train()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    z, log_det = network(images(shape, n=30))
    (0.5 * z.square().sum(1) - log_det).mean().backward()
    optimizer.step()
    for name, weight in network.named_parameters():
        moved = weight != before[name]
        if name.endswith(("lower", "upper")):
            # The other triangle is not used.
            n = len(weight)
            used = torch.ones(n, n).tril(-1) if name.endswith("lower") else torch.ones(n, n).triu(1)
            assert torch.equal(moved, used.bool()), name
        else:
            assert moved.any(), name


@pytest.mark.parametrize("mixes", [False, True])
def test_mixing(mixes):
    torch.manual_seed(0)
    layer = Mixing(5, mixes=mixes).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.3 * torch.randn_like(weight)
    x = images((2, 3, 5), n=4)
    y = layer(x)
    torch.testing.assert_close(layer.inverse(y), x, atol=1e-10, rtol=0)
    jacobian = jacrev(layer)(x[0, 0, 0])
    torch.testing.assert_close(layer.log_det(), torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(layer.inverse_linear(x), x @ torch.linalg.inv(jacobian).T)


@pytest.mark.parametrize("n_channels", [5, 6])
@pytest.mark.parametrize("mask", ["half", "alternating"])
@pytest.mark.parametrize("is_flipped", [False, True])
def test_coupling_changes_one_half_by_the_other(is_flipped, mask, n_channels):
    torch.manual_seed(0)
    settings = {"n_bins": 4, "bound": 3.0, "n_filters": 8, "n_blocks": 1, "dropout": 0.0}
    layer = Coupling(
        n_channels, is_flipped=is_flipped, is_pixel=False, mask=mask, coupling="affine", **settings
    )
    torch.nn.init.normal_(layer.conditioner[-1].weight)
    x = images((4, 4, n_channels), n=2).float()
    y, log_derivative = layer(x)
    is_changed = (x != y).flatten(0, 2)
    channels = np.arange(n_channels)
    # The first half of 5 channels has 2. Without a flip, the second half is changed.
    in_first = channels % 2 == 1 if mask == "alternating" else channels < n_channels // 2
    np.testing.assert_array_equal(is_changed.all(0), in_first == is_flipped)
    np.testing.assert_array_equal(is_changed.any(0), in_first == is_flipped)
    assert log_derivative.shape[-1] == is_changed.all(0).sum()
    torch.testing.assert_close(layer.inverse(y), x, atol=1e-3, rtol=0)


@each_coupling
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (5, 1, 1)], ids=str)
def test_published_layers_have_an_inverse_and_a_log_determinant(
    image_flow_network, shape, coupling
):
    """Alternating channels, and a 1x1 convolution that ends the last scale, too."""
    network = image_flow_network(
        shape, coupling=coupling, mask="alternating", ends_mixed=True, n_filters=(4, 10)
    )
    x = images(shape)
    z, log_det = network(x)
    torch.testing.assert_close(network.inverse(z), x, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_det, log_det_by_autograd(lambda x: network(x)[0], x))


def test_filters_of_each_scale(image_flow_network):
    network = image_flow_network((1, 8, 8), (2, 3), n_filters=(4, 10))
    widths = [
        {layer.conditioner[0].weight.shape[0] for layer in layers if isinstance(layer, Coupling)}
        for layers in network.scales
    ]
    assert widths == [{4}, {10}]
    # A scale that is left out takes its number along.
    network = image_flow_network((1, 7, 7), (2, 3), n_filters=(4, 10))
    assert {layers[1].conditioner[0].weight.shape[0] for layers in network.scales} == {10}


@pytest.mark.parametrize("factors", [(2, 2), (1, 3), (4, 6)])
def test_squeeze(factors):
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
    squeezed = squeeze(x, factors)
    f, g = factors
    assert squeezed.shape == (2, 4 // f, 6 // g, f * g * 3)
    # Channels of a block: its rows, of each its columns, of each its channels.
    assert torch.equal(squeezed[0, 0, 0], x[0, :f, :g].flatten())
    assert torch.equal(unsqueeze(squeezed, factors), x)
