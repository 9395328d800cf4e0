"""Small autoencoders and VAEs, and a dataset, for several modules of tests."""

import numpy as np
import torch
from torch.utils.data import Dataset

from skood.density import VAE, Autoencoder

_SETTINGS = {
    "n_latent": 2,
    "n_filters": (3,),
    "hidden_features": (6,),
    "max_steps": 3,
    "learning_rate": 1e-2,
    "precision": "fp32",
    "random_state": 0,
}


def make_autoencoder(**kwargs):
    return Autoencoder(**{**_SETTINGS, "batch_size": 8, **kwargs})


def make_vae(**kwargs):
    return VAE(**{**_SETTINGS, "batch_size": 16, **kwargs})


def set_scale(vae, scale):
    """Give the likelihood of a VAE this scale, in the units of the network."""
    inverse_softplus = np.log(np.expm1(np.asarray(scale) - 1e-3))
    raw = torch.as_tensor(inverse_softplus / 10, dtype=torch.float32)
    with torch.no_grad():
        vae.module_.raw_scale.copy_(raw.reshape(-1, *[1] * (vae.module_.raw_scale.ndim - 1)))


class Items(Dataset):
    """A torch Dataset that counts its reads."""

    def __init__(self, items):
        self.items = items
        self.n_read = 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.n_read += 1
        return self.items[index]
