"""The network of a VAE: whatever is halved is doubled to the same size."""

from itertools import product

import pytest
import torch

from skood.density._vae_network import VAENetwork


@pytest.mark.parametrize("n_filters", [(2,), (2, 3), (2, 3, 2, 3)])
def test_every_size_of_image_comes_back(n_filters):
    for height, width in product(range(1, 10), repeat=2):
        network = VAENetwork(
            (1, height, width),
            2,
            n_filters=n_filters,
            hidden_features=(4,),
            n_classes=0,
            initial_scale=None,
        )
        x = torch.rand(2, 1, height, width)
        mean, _ = network.encode(x, None)
        decoded = network.decode(mean, None)
        assert decoded.shape == x.shape
        # Every pixel has a gradient of its own in the last kernel's bias.
        decoded.sum().backward()
        assert network.deconvolutions[-1].bias.grad.item() == pytest.approx(2 * height * width)
