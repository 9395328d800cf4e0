"""Kernel PCA on features against scikit-learn's, and against the formulas."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA, KernelPCA as KernelPCAOfSklearn
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import normalize

from skood import KernelPCA


@pytest.fixture
def Z():
    rng = np.random.default_rng(0)
    return rng.normal(size=(80, 3)) @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(80, 6))


def test_cosine_kernel_against_the_gram_matrix(Z):
    """The squared error is the centred norm minus the squared projections, all from kernels."""
    detector = KernelPCA(kernel="cosine", explained_variance=0.85).fit(Z)
    n_components = detector.components_.shape[1]
    kernel_pca = KernelPCAOfSklearn(n_components, kernel="cosine").fit(Z)
    unit = normalize(Z)
    gram = unit @ unit.T
    centred_norm = 1 - 2 * gram.mean(1) + gram.mean()
    squared_error = centred_norm - np.square(kernel_pca.transform(Z)).sum(1)
    assert_allclose(detector.score_samples(Z), -np.sqrt(squared_error), rtol=1e-6)


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9, 0.99])
def test_number_of_components(Z, fraction):
    """The fewest that explain the fraction, as in the released code."""
    detector = KernelPCA(kernel="cosine", explained_variance=fraction).fit(Z)
    ratio = PCA().fit(normalize(Z)).explained_variance_ratio_
    n_components = detector.components_.shape[1]
    assert ratio[:n_components].sum() >= fraction
    assert ratio[: n_components - 1].sum() < fraction


def test_cosine_gaussian_kernel(Z):
    detector = KernelPCA(
        explained_variance=0.5, gamma=0.7, n_fourier_features=500, random_state=0
    ).fit(Z)
    mapped = np.sqrt(2 / 500) * np.cos(normalize(Z) @ detector.frequencies_ + detector.phases_)
    pca = PCA(detector.components_.shape[1]).fit(mapped)
    error = np.linalg.norm(mapped - pca.inverse_transform(pca.transform(mapped)), axis=1)
    assert_allclose(detector.score_samples(Z), -error, rtol=1e-6)


def test_fourier_features_approximate_the_kernel(Z):
    """Within five standard errors of a mean of M products, each of variance at most 1/2."""
    gamma, n_fourier_features = 0.7, 4000
    detector = KernelPCA(gamma=gamma, n_fourier_features=n_fourier_features, random_state=0).fit(Z)
    mapped = detector._map(Z)
    expected = rbf_kernel(normalize(Z), gamma=gamma)
    assert np.abs(mapped @ mapped.T - expected).max() < 5 / np.sqrt(n_fourier_features)


@pytest.mark.parametrize("n_rows", [79, 80, 81])
def test_few_and_many_rows(n_rows):
    """Fewer rows than mapped features, and more: two ways to the same directions."""
    Z = np.random.default_rng(1).normal(size=(n_rows, 5))
    detector = KernelPCA(n_fourier_features=80, random_state=0).fit(Z)
    pca = PCA(detector.components_.shape[1]).fit(detector._map(Z))
    error = np.linalg.norm(
        detector._map(Z) - pca.inverse_transform(pca.transform(detector._map(Z))), axis=1
    )
    assert_allclose(detector.score_samples(Z), -error, rtol=1e-6)


def test_length_does_not_matter(Z):
    detector = KernelPCA(n_fourier_features=100, random_state=0).fit(Z)
    assert_allclose(detector.score_samples(3 * Z), detector.score_samples(Z), rtol=1e-9)


def test_features_without_a_remaining_direction(Z):
    with pytest.raises(ValueError, match="n_features=2: their 2 mapped features leave no"):
        KernelPCA(kernel="cosine", explained_variance=0.999).fit(Z[:, :2])
