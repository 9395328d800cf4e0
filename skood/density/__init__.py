"""Densities: models of p(x) with ``fit``, ``score_samples`` (nats) and ``sample``."""

from skood.density._base import NeuralDensity
from skood.density._flow import NeuralSplineFlow
from skood.density._pixelcnn import PixelCNN
from skood.density._vae import VAE

__all__ = ["VAE", "NeuralDensity", "NeuralSplineFlow", "PixelCNN"]
