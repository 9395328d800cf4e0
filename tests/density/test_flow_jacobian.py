"""The layer-by-layer derivative of an image flow's inverse against forward-mode autograd."""

import pytest
import torch
from torch.func import jacfwd, vmap

from skood.density._flow_jacobian import InverseDerivative

SHAPES = [(1, 8, 8), (3, 4, 4), (1, 5, 7), (1, 6, 5), (2, 1, 6), (5, 1, 1), (2, 1, 1)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_coupling = pytest.mark.parametrize("coupling", ["spline", "affine"])
PUBLISHED = {"mask": "alternating", "ends_mixed": True, "n_filters": (3, 8)}


def latents(network, n=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, network.n_values, generator=generator, dtype=torch.float64)


def by_autograd(network, z):
    return vmap(jacfwd(lambda z: network.inverse(z[None])[0].flatten()))(z)


@each_coupling
@each_shape
def test_jacobian(image_flow_network, shape, coupling):
    network = image_flow_network(shape, coupling=coupling)
    z = latents(network)
    derivative = InverseDerivative(network, z)
    jacobian = derivative.jacobian()
    torch.testing.assert_close(derivative.x, network.inverse(z), atol=1e-12, rtol=0)
    torch.testing.assert_close(jacobian, by_autograd(network, z), atol=1e-8, rtol=1e-8)
    # The inverse of the Jacobian of the forward map, whose log-determinant is known.
    _, log_det = network(derivative.x)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, -log_det)


@each_coupling
@each_shape
def test_push(image_flow_network, shape, coupling):
    network = image_flow_network(shape, coupling=coupling)
    z = latents(network)
    derivative = InverseDerivative(network, z)
    tangents = latents(network, n=6)[3:]
    expected = (derivative.jacobian() @ tangents[:, :, None])[:, :, 0]
    torch.testing.assert_close(derivative.push(tangents), expected, atol=1e-9, rtol=1e-9)


def test_gradient_of_push_is_a_product_with_the_transpose(image_flow_network):
    network = image_flow_network((1, 6, 6))
    derivative = InverseDerivative(network, latents(network))
    tangents = latents(network).requires_grad_()
    values = latents(network, n=6)[3:]
    (product,) = torch.autograd.grad(derivative.push(tangents), tangents, values)
    expected = (derivative.jacobian().mT @ values[:, :, None])[:, :, 0]
    torch.testing.assert_close(product, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 5, 7), (5, 1, 1)], ids=str)
def test_published_layers(image_flow_network, shape):
    network = image_flow_network(shape, **PUBLISHED)
    z = latents(network)
    derivative = InverseDerivative(network, z)
    jacobian = derivative.jacobian()
    torch.testing.assert_close(jacobian, by_autograd(network, z), atol=1e-8, rtol=1e-8)
    tangents = latents(network, n=6)[3:]
    expected = (jacobian @ tangents[:, :, None])[:, :, 0]
    torch.testing.assert_close(derivative.push(tangents), expected, atol=1e-9, rtol=1e-9)
    _, log_det = network(derivative.x)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, -log_det)


@pytest.mark.parametrize(
    ("shape", "n_blocks"),
    [
        # 7 x 7 pixels of which a conditioner sees 5 x 5 around each; so do tangents share.
        ((1, 14, 14), 1),
        # 7 x 4: shared along one side alone.
        ((1, 14, 8), 1),
        # 1 x 12: the period of 5 does not divide it.
        ((2, 1, 24), 1),
        # Two blocks see 9 of 11.
        ((1, 1, 22), 2),
        # No block sees a pixel alone.
        ((1, 8, 8), 0),
    ],
    ids=str,
)
def test_conditioners_that_do_not_see_all_pixels(image_flow_network, shape, n_blocks):
    network = image_flow_network(shape, n_blocks=n_blocks, n_filters=(3, 3))
    z = latents(network, n=2)
    jacobian = InverseDerivative(network, z).jacobian()
    torch.testing.assert_close(jacobian, by_autograd(network, z), atol=1e-8, rtol=1e-8)


def test_latents_beyond_the_splines(image_flow_network):
    network = image_flow_network((1, 4, 4), bound=0.5)
    z = 10 * latents(network)
    jacobian = InverseDerivative(network, z).jacobian()
    torch.testing.assert_close(jacobian, by_autograd(network, z), atol=1e-8, rtol=1e-8)


def test_in_float32(image_flow_network):
    network = image_flow_network((1, 8, 8))
    z = latents(network)
    expected = InverseDerivative(network, z).jacobian()
    jacobian = InverseDerivative(network.float(), z.float()).jacobian()
    assert jacobian.dtype == torch.float32
    torch.testing.assert_close(jacobian.double(), expected, atol=1e-3, rtol=1e-3)


def test_items_do_not_see_each_other(image_flow_network):
    network = image_flow_network((1, 6, 6))
    z = latents(network, n=4)
    jacobians = InverseDerivative(network, z).jacobian()
    for i in range(4):
        alone = InverseDerivative(network, z[i : i + 1]).jacobian()[0]
        torch.testing.assert_close(alone, jacobians[i], atol=1e-12, rtol=0)
