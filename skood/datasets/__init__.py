"""Data to test detectors on, and published figures."""

from skood.datasets._genomes import gc_content, make_genomes
from skood.datasets._genomics import load_genomics
from skood.datasets._image_sets import load_image_set
from skood.datasets._manifolds import make_linear_embedding, make_sphere
from skood.datasets._model_samples import model_samples
from skood.datasets._noise import gaussian_noise, sphere_noise, uniform_noise
from skood.datasets._published import load_published
from skood.datasets._synthetic import synthetic_outliers

__all__ = [
    "gaussian_noise",
    "gc_content",
    "load_genomics",
    "load_image_set",
    "load_published",
    "make_genomes",
    "make_linear_embedding",
    "make_sphere",
    "model_samples",
    "sphere_noise",
    "synthetic_outliers",
    "uniform_noise",
]
