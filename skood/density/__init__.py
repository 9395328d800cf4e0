"""Models of the data: densities with ``fit``, ``score_samples`` and ``sample``; an autoencoder."""

from skood.density._autoencoder import Autoencoder
from skood.density._causal_language_model import CausalLanguageModel
from skood.density._diffusion import Diffusion
from skood.density._flow import NeuralSplineFlow
from skood.density._hierarchical_vae import HierarchicalVAE
from skood.density._image_flow import ImageFlow
from skood.density._invertible import InvertibleDensity
from skood.density._neural_density import NeuralDensity
from skood.density._pixelcnn import PixelCNN
from skood.density._sequence import SequenceDensity
from skood.density._two_step import TwoStep
from skood.density._vae import VAE

__all__ = [
    "VAE",
    "Autoencoder",
    "CausalLanguageModel",
    "Diffusion",
    "HierarchicalVAE",
    "ImageFlow",
    "InvertibleDensity",
    "NeuralDensity",
    "NeuralSplineFlow",
    "PixelCNN",
    "SequenceDensity",
    "TwoStep",
]
