"""A Gaussian for each class: against other implementations, and where covariances lack rank."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import OAS, ShrunkCovariance

from skood._moments import ClassMoments
from skood.training_time._class_gaussians import ClassGaussians


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "data" / "vmdls.npz") as stored:
        return dict(stored)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4))
    return features, np.arange(60) % 3


def test_reference_values(reference):
    """Two chunks of the rows give the means, covariances and likelihoods of the reference."""
    parts = [reference[f"gauss_train_{k}"] for k in range(4)]
    features, class_indices = np.concatenate(parts), np.repeat(np.arange(4), 40)
    order = np.random.default_rng(0).permutation(160)
    moments = ClassMoments(4, pooled=False)
    for chunk in np.split(order, [50]):
        moments.add(features[chunk], class_indices[chunk])
    gaussians = ClassGaussians(moments)
    assert gaussians.jitter == 0
    np.testing.assert_allclose(gaussians.means, reference["gauss_mean"], atol=1e-12)
    np.testing.assert_allclose(gaussians.covariances, reference["gauss_cov"], atol=1e-12)
    log_likelihood = gaussians.log_likelihood(reference["query"])
    np.testing.assert_allclose(log_likelihood, reference["log_lik"], rtol=1e-9)
    # The published score, whose offset is taken over the scored rows.
    bound = log_likelihood.max() + 1
    assert bound == pytest.approx(reference["score_offset"], rel=1e-9)
    score = (reference["weight"][:, None] * (log_likelihood - bound)).max(1)
    np.testing.assert_allclose(score, reference["score"], rtol=1e-9)
    np.testing.assert_array_equal(log_likelihood.argmax(1), reference["predicted_class"])


def test_shrinkage_is_that_of_scikit_learn(rows):
    features, class_indices = rows
    fixed = ClassGaussians.of(features, class_indices, shrinkage=0.3)
    estimated = ClassGaussians.of(features, class_indices, shrinkage="oas")
    for k in range(3):
        own = features[class_indices == k]
        expected = ShrunkCovariance(shrinkage=0.3).fit(own).covariance_
        np.testing.assert_allclose(fixed.covariances[k], expected)
        np.testing.assert_allclose(estimated.covariances[k], OAS().fit(own).covariance_)
    whole = ClassGaussians.of(features, class_indices, shrinkage=1.0)
    assert np.allclose(whole.covariances[0], whole.covariances[0, 0, 0] * np.eye(4))


def test_covariances_that_lack_rank_get_one_jitter(rows):
    """Also when the rank is lost in a single class: likelihoods of classes must compare."""
    features, class_indices = rows
    features = features.copy()
    features[class_indices == 1, 0] = 2.0
    gaussians = ClassGaussians.of(features, class_indices)
    assert gaussians.jitter == 1e-6
    for k in range(3):
        covariance = np.cov(features[class_indices == k].T, bias=True) + 1e-6 * np.eye(4)
        np.testing.assert_allclose(gaussians.covariances[k], covariance)
        expected = multivariate_normal.logpdf(
            features, features[class_indices == k].mean(0), covariance
        )
        np.testing.assert_allclose(gaussians.log_likelihood(features)[:, k], expected, rtol=1e-6)


def test_rounding_errors_are_not_taken_for_variance():
    """A feature that is constant but for its last bits does not outweigh the others."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 2)).astype(np.float32)
    features[:, 1] = np.float32(1.0) + np.float32(6e-8) * rng.integers(2, size=40)
    gaussians = ClassGaussians.of(features, np.arange(40) % 2)
    assert gaussians.jitter == 1e-6
    shifted = features + np.array([0, 1e-6], np.float32)
    apart = gaussians.log_likelihood(shifted) - gaussians.log_likelihood(features)
    assert np.abs(apart).max() < 1e-4


def test_fewer_rows_than_features():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 20))
    gaussians = ClassGaussians.of(features, np.arange(6) % 2)
    assert np.isfinite(gaussians.log_likelihood(rng.normal(size=(5, 20)))).all()
    assert (gaussians.log_likelihood(features).argmax(1) == np.arange(6) % 2).all()


def test_rows_do_not_depend_on_each_other(rows):
    features, class_indices = rows
    gaussians = ClassGaussians.of(features, class_indices)
    together = gaussians.log_likelihood(features)
    alone = np.concatenate([gaussians.log_likelihood(row[None]) for row in features[::-1]])[::-1]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_a_class_with_one_row_is_an_error(rows):
    features, class_indices = rows
    with pytest.raises(ValueError, match=r"class with index 3 has 1 row.*at least 2"):
        ClassGaussians.of(np.r_[features, features[:1]], np.r_[class_indices, 3])
