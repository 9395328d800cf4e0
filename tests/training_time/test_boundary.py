"""Samples around the data: published formulas, reference numbers, and the geometry they claim."""

import re
from pathlib import Path

import numpy as np
import pytest
import sympy
import torch
from scipy.stats import kstest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from torch import nn

from skood import VAE, BoundarySampler
from skood._data.checked_data import CheckedData
from skood._torch.jacobian import forward_jacobian
from skood._torch.seeding import Stream, torch_rng
from skood.training_time._directions import (
    DIRECTIONS,
    normal_vectors,
    reduced_normal_vectors,
)


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "data" / "oodgen.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def of_rows(iris):
    """Sampler of rows: 4 values, 2 latents."""
    vae = VAE(2, conditional=True, max_epochs=30, hidden_features=(16,), random_state=0)
    return BoundarySampler(vae, random_state=0).fit(*iris)


@pytest.fixture(scope="module")
def of_images(digits):
    """Sampler of images: 64 pixels in [0, 1], 3 latents, no labels."""
    vae = VAE(3, likelihood="bernoulli", n_filters=(4, 8), max_epochs=10, random_state=0)
    return BoundarySampler(vae, random_state=0).fit(digits / 16)


class Latents(VAE):
    """Takes rows whose first columns are their latents."""

    def fit(self, X, y=None):
        self._open(X, reset=True)
        self.module_ = nn.Identity()
        return self

    def transform(self, X, y=None):
        return self._open(X, reset=False).rows()[:, : self.n_latent]


def test_jacobian_of_the_reference(reference):
    tensors = {
        k: torch.from_numpy(v) for k, v in reference.items() if k.startswith("dec") or k == "z"
    }

    def decode(z):
        hidden = torch.tanh(z @ tensors["dec_W1"].T + tensors["dec_b1"])
        return torch.sigmoid(hidden @ tensors["dec_W2"].T + tensors["dec_b2"])

    jacobian = forward_jacobian(decode, tensors["z"])
    np.testing.assert_allclose(jacobian.numpy(), reference["jacobian"], atol=1e-10)


def test_jacobian_against_autograd_row_by_row(of_images, digits):
    vae = clone(of_images.vae).set_params(max_steps=3).fit(digits / 16)
    vae.module_.double()
    model = vae.generator()
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def decode(z):
        return model.decode(z, None)

    rows = [
        torch.autograd.functional.jacobian(lambda z: decode(z[None]).flatten(), one) for one in z
    ]
    torch.testing.assert_close(
        forward_jacobian(decode, z), torch.stack(rows), atol=1e-12, rtol=1e-9
    )


def test_normal_vectors_of_the_reference(reference):
    jacobian, noise = torch.from_numpy(reference["jacobian"]), torch.from_numpy(reference["noise"])
    normal = normal_vectors(jacobian, noise).numpy()
    np.testing.assert_allclose(normal, reference["normal_unit"], atol=1e-10)
    component = np.einsum("nij,nj->ni", reference["projector"], reference["noise"][:3])
    component /= np.linalg.norm(component, axis=1, keepdims=True)
    np.testing.assert_allclose(normal[:3], component, atol=1e-10)
    moved = reference["x"] + reference["beta"][:, None] * normal
    np.testing.assert_allclose(moved, reference["x_ood_unclipped"], atol=1e-10)
    np.testing.assert_allclose(moved.clip(0, 1), reference["x_ood_clip01"], atol=1e-10)


def test_normal_vectors_are_uniform_in_the_null_space():
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(1, 6, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(40_000, 6, generator=generator, dtype=torch.float64)
    normal = normal_vectors(jacobian.expand(len(noise), -1, -1), noise).numpy()
    basis = np.linalg.qr(jacobian[0].numpy())[0]
    np.testing.assert_allclose(normal.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(
        normal.T @ normal / len(normal), (np.eye(6) - basis @ basis.T) / 4, atol=0.01
    )


@pytest.mark.parametrize(
    "scale",
    [torch.ones(3), torch.full((3,), 1e-6), torch.tensor([1.0, 0.0, 1.0]), torch.zeros(3)],
    ids=["full rank", "small", "a dead latent", "all dead"],
)
def test_normal_vectors_of_any_rank(scale):
    generator = torch.Generator().manual_seed(0)
    jacobian = scale * torch.randn(8, 50, 3, generator=generator)
    normal = normal_vectors(jacobian, torch.randn(8, 50, generator=generator))
    torch.testing.assert_close(normal.norm(dim=1), torch.ones(8))
    assert (jacobian.mT @ normal[:, :, None]).abs().max() <= 1e-6 * jacobian.norm()


def test_reduced_normal_vectors(reference):
    """Orthogonal too, and the sum of the normalised vectors of the symbolic null space."""
    jacobian = torch.from_numpy(reference["jacobian"])
    weights = 2 * torch.rand(9, 30, generator=torch.Generator().manual_seed(0)).double() - 1
    normal = reduced_normal_vectors(jacobian, weights).numpy()
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1)
    assert np.abs(np.einsum("nij,ni->nj", reference["jacobian"], normal)).max() < 1e-10

    rows = [[1, 2, 0, 3, -1], [0, 1, 4, 1, 2]]
    basis = np.array([list(map(float, vector)) for vector in sympy.Matrix(rows).nullspace()])
    assert basis.shape == (3, 5)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    small = torch.tensor(rows, dtype=torch.float64).T[None]
    weight = torch.tensor([[9.0, 9.0, 0.3, -0.8, 0.5]]).double()
    expected = np.array([0.3, -0.8, 0.5]) @ basis
    np.testing.assert_allclose(
        reduced_normal_vectors(small, weight)[0].numpy(), expected / np.linalg.norm(expected)
    )


def test_reduced_directions_are_mostly_the_first_values(of_images, digits):
    X = digits[:200] / 16
    params = {"distance": (0.01, 0.01), "random_state": 0}
    vae = FrozenEstimator(of_images.vae_)
    energy = []
    for directions in ("uniform", "reduced"):
        sampler = BoundarySampler(vae, directions=directions, **params).fit(X)
        inside = 0.05 + 0.9 * X
        step = (sampler.sample_off_manifold(inside, random_state=0)[:, 0] - inside).reshape(200, 64)
        energy.append((step[:, :3] ** 2).sum() / (step**2).sum())
    assert energy[0] == pytest.approx(3 / 64, abs=0.02)
    assert energy[1] > 0.5


def test_mixed_directions_are_of_both_kinds(reference):
    """About half of the items move in each of the two ways, and all orthogonally."""
    jacobian = torch.from_numpy(reference["jacobian"])[:1].float().expand(400, -1, -1)
    rngs = {name: torch.Generator().manual_seed(0) for name in ("mixed", "uniform", "reduced")}
    drawn = {name: DIRECTIONS[name](jacobian, rng).numpy() for name, rng in rngs.items()}
    np.testing.assert_allclose(np.linalg.norm(drawn["mixed"], axis=1), 1, rtol=1e-6)
    assert np.abs(np.einsum("nij,ni->nj", jacobian.numpy(), drawn["mixed"])).max() < 1e-6
    # The first of the draws of "mixed" are those of "uniform".
    uniform = (drawn["mixed"] == drawn["uniform"]).all(1)
    assert 0.4 < uniform.mean() < 0.6
    energy = (drawn["mixed"][:, :4] ** 2).sum(1)
    expected = (drawn["reduced"][:, :4] ** 2).sum(1).mean()
    assert energy[~uniform].mean() == pytest.approx(expected, abs=0.1)
    assert energy[uniform].mean() == pytest.approx(4 / 30, abs=0.05)


def test_orthogonal_to_the_tangent_space_in_single_precision(of_images, digits):
    model = of_images.vae_.generator()
    x = model.tensor(digits[:64, None] / 16)
    with torch.no_grad():
        z, _ = model.encode(x)

    def decode(z):
        return model.decode(z, None)

    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    normal = normal_vectors(forward_jacobian(decode, z), noise)
    tangents = torch.linalg.qr(forward_jacobian(decode, z).double())[0]
    assert (tangents.mT @ normal.double()[:, :, None]).abs().max() < 1e-5


def test_samples_off_the_manifold_of_rows(of_rows, iris):
    X, y = iris
    X, y = np.tile(X, (8, 1)), np.tile(y, 8)
    vae = of_rows.vae_
    moved = of_rows.sample_off_manifold(X, y, random_state=0)
    assert moved.dtype == np.float64
    steps = (moved - X) / vae.scale_
    lengths = np.linalg.norm(steps, axis=1)
    # From 0.1 to the root of the number of values, uniformly.
    assert kstest(lengths, "uniform", (0.1, 2 - 0.1)).pvalue > 1e-3

    z = torch.as_tensor(vae.transform(X, y), dtype=torch.float32)
    condition = torch.as_tensor(y)
    model = vae.generator()
    jacobian = forward_jacobian(lambda z: model.decode(z, condition), z).numpy()
    tangents = np.linalg.qr(jacobian)[0]
    along = np.einsum("nij,ni->nj", tangents, steps / lengths[:, None])
    assert np.abs(along).max() < 1e-5
    # Both signs, and directions that are not always the same.
    assert np.linalg.norm((steps / lengths[:, None]).mean(0)) < 0.1


def test_samples_off_the_manifold_of_images(of_images, digits):
    X = digits[:200] / 16
    moved = of_images.sample_off_manifold(X, random_state=0)
    assert moved.shape == (200, 1, 8, 8)
    assert moved.min() == 0
    assert moved.max() == 1
    of_images = clone(of_images).set_params(
        vae=FrozenEstimator(of_images.vae_), distance=(1e-4, 1e-3)
    )
    near = of_images.fit(X).sample_off_manifold(X, random_state=0)[:, 0] - X
    assert 0 < np.linalg.norm(near, axis=(1, 2)).max() <= 1e-3 + 1e-6


def test_units_and_dtypes(digits):
    """uint8 images of 0..255 give the same samples as floats of 0..1."""
    vae = VAE(2, likelihood="bernoulli", n_filters=(4,), max_steps=3, random_state=0)
    whole = (digits[:50] * 15).astype(np.uint8)
    samples = []
    for X in (whole, (whole / 255).astype(np.float32)):
        sampler = BoundarySampler(vae, random_state=0).fit(X)
        parts = (
            sampler.sample_off_manifold(X, random_state=1),
            sampler.sample_on_manifold(9, random_state=1),
        )
        assert {part.dtype for part in parts} == {np.dtype(np.float32)}
        samples.append(np.concatenate(parts))
    np.testing.assert_allclose(samples[0], 255 * samples[1], rtol=1e-4, atol=1e-3)


def test_ellipsoids_of_the_reference(reference):
    latents, labels = reference["latents"], reference["labels"]
    rows = np.c_[latents, np.zeros(len(latents))]
    sampler = BoundarySampler(Latents(4)).fit(rows, labels)
    np.testing.assert_allclose(sampler.mean_, reference["class_mean"], atol=1e-10)
    covariance = sampler.cholesky_ @ sampler.cholesky_.transpose(0, 2, 1)
    np.testing.assert_allclose(covariance, reference["class_cov"], atol=1e-10)
    np.testing.assert_allclose(sampler.radius_, reference["radius95_linear_quantile"], atol=1e-10)
    np.testing.assert_allclose(sampler.class_frequency_, np.bincount(labels) / len(labels))
    of_class, direction = reference["ell_class"], reference["ell_direction"]
    steps = reference["ell_radius"][:, None] * direction
    points = sampler.mean_[of_class] + np.einsum("nij,nj->ni", sampler.cholesky_[of_class], steps)
    np.testing.assert_allclose(points, reference["ell_latent"], atol=1e-10)


def test_latents_on_the_manifold_lie_outside_the_ellipsoids(reference):
    labels = reference["labels"]
    rows = np.c_[reference["latents"], np.zeros(len(labels))]
    sampler = BoundarySampler(Latents(4), radius=(1.0, 1.5)).fit(rows, labels)
    members = np.arange(4).repeat(2000)
    latents = (
        sampler.draws().latents(torch.from_numpy(members), torch.Generator().manual_seed(0)).numpy()
    )
    for k in range(4):
        own = latents[members == k] - reference["class_mean"][k]
        radius = np.sqrt(np.sum(own @ np.linalg.inv(reference["class_cov"][k]) * own, axis=1))
        times = radius / reference["radius95_linear_quantile"][k]
        assert times.min() >= 1 - 1e-9
        assert times.max() <= 1.5 + 1e-9
        assert kstest(times, "uniform", (1, 0.5)).pvalue > 1e-3
        # As many in every direction: the average step is none.
        np.testing.assert_allclose(own.mean(0), 0, atol=0.1 * own.std())


def test_samples_on_the_manifold_are_decoded_latents(of_rows):
    y = np.array([2, 0, 1, 1])
    drawn = of_rows.sample_on_manifold(y=y, random_state=3)
    seed = np.random.RandomState(3).randint(2**31 - 1)
    latents = of_rows.draws().latents(
        torch.from_numpy(y), torch_rng(torch.device("cpu"), seed, Stream.ON_MANIFOLD)
    )
    np.testing.assert_allclose(drawn, of_rows.vae_.inverse_transform(latents, y), rtol=1e-5)


def test_classes_are_drawn_as_they_occur(iris):
    X, y = iris
    kept = np.r_[:50, 50:60, 100:140]
    vae = VAE(1, conditional=True, max_steps=2)
    sampler = BoundarySampler(vae, random_state=0).fit(X[kept], y[kept])
    np.testing.assert_allclose(sampler.class_frequency_, [0.5, 0.1, 0.4])
    named = BoundarySampler(vae, random_state=0).fit(X[kept], np.array(["b", "a", "c"])[y[kept]])
    assert list(named.classes_) == ["a", "b", "c"]
    np.testing.assert_allclose(named.class_frequency_, [0.1, 0.5, 0.4])
    assert named.sample_on_manifold(y=["c", "a"], random_state=0).shape == (2, 4)


def test_seeds(of_rows, iris):
    X, y = iris
    for draw in (
        lambda seed: of_rows.sample_off_manifold(X, y, seed),
        lambda seed: of_rows.sample_on_manifold(150, random_state=seed),
    ):
        before = torch.get_rng_state()
        np.testing.assert_array_equal(draw(0), draw(0))
        assert not np.allclose(draw(0), draw(1))
        assert not np.allclose(draw(None), draw(None))
        assert torch.equal(before, torch.get_rng_state())


def test_labels_may_be_left_out_in_sampling(of_rows, iris):
    """A conditional VAE then takes the most probable class."""
    X, _ = iris
    model = of_rows.vae_.generator()
    with torch.no_grad():
        y = model.encode(model.tensor(X))[1].numpy()
    given = of_rows.sample_off_manifold(X, y, random_state=0)
    np.testing.assert_allclose(of_rows.sample_off_manifold(X, random_state=0), given)


def test_without_labels_and_with_known_outliers(of_images, digits, iris):
    assert of_images.classes_ is None
    assert len(of_images.mean_) == 1
    X, y = iris
    vae = VAE(1, conditional=True, max_steps=2)
    marked = BoundarySampler(vae, random_state=0).fit(
        np.r_[X, X + 50], np.r_[y, np.full(len(X), -1)]
    )
    plain = BoundarySampler(vae, random_state=0).fit(X, y)
    np.testing.assert_array_equal(marked.mean_, plain.mean_)


def test_frozen_vae_is_not_trained(of_rows, iris):
    sampler = BoundarySampler(FrozenEstimator(of_rows.vae_)).fit(*iris)
    assert sampler.vae_ is of_rows.vae_
    np.testing.assert_array_equal(sampler.mean_, of_rows.mean_)


def test_class_indices_of_a_vae_that_knows_more_classes(iris):
    """The sampler counts its own classes, the VAE has others before them."""
    X, y = iris
    vae = VAE(1, conditional=True, max_epochs=20, hidden_features=(16,), random_state=0).fit(X, y)
    of_two = BoundarySampler(FrozenEstimator(vae)).fit(X[50:], y[50:])
    assert of_two.classes_.tolist() == [1, 2]
    labels = np.array([2, 1, 1, 2])
    seed = np.random.RandomState(3).randint(2**31 - 1)
    indices = torch.tensor([1, 0, 0, 1])
    latents = of_two.draws().latents(
        indices, torch_rng(torch.device("cpu"), seed, Stream.ON_MANIFOLD)
    )
    drawn = of_two.sample_on_manifold(y=labels, random_state=3)
    np.testing.assert_allclose(drawn, vae.inverse_transform(latents, labels), rtol=1e-5)
    moved = of_two.sample_off_manifold(X[50:], y[50:], random_state=3)
    source = CheckedData.of(X[50:])
    np.testing.assert_array_equal(
        of_two.draws().off_manifold_in_units_of_x(source, y[50:] - 1, seed), moved
    )


def test_interface_for_other_packages(of_images, of_rows, iris, digits):
    """Tensors in the VAE's units are the samples that the public methods give."""
    seed = np.random.RandomState(0).randint(2**31 - 1)
    for sampler, X, y in [(of_images, digits[:20, None] / 16, None), (of_rows, *iris)]:
        model = sampler.vae_.generator()
        X = X[:20]
        indices = torch.zeros(20, dtype=int) if y is None else torch.from_numpy(y[:20])
        x = model.tensor(X)
        moved = sampler.draws().off_manifold(
            x, indices, torch_rng(torch.device("cpu"), seed, Stream.OFF_MANIFOLD)
        )
        assert moved.shape == x.shape
        expected = sampler.sample_off_manifold(X, None if y is None else y[:20], random_state=0)
        np.testing.assert_array_equal(model.to_units_of_x(moved), expected)
        drawn = sampler.draws().on_manifold(indices, torch_rng(torch.device("cpu"), 5))
        assert drawn.shape == x.shape
        np.testing.assert_array_equal(
            model.to_units_of_x(drawn),
            sampler.draws().on_manifold_in_units_of_x(indices, torch_rng(torch.device("cpu"), 5)),
        )
        assert len(sampler.draws().off_manifold_in_units_of_x(CheckedData.of(X[:0]), None, 0)) == 0


def test_conditional_vae_wants_labels(of_rows, iris):
    with pytest.raises(ValueError, match="is conditional and requires y to be passed to fit"):
        BoundarySampler(FrozenEstimator(of_rows.vae_)).fit(iris[0])


def test_default_vae(iris, digits):
    X, y = iris
    sampler = BoundarySampler(random_state=0).fit(X[::3], y[::3])
    assert (sampler.vae_.n_latent, sampler.vae_.conditional) == (2, True)
    assert sampler.vae_.likelihood_ == "gaussian"
    sampler = BoundarySampler(random_state=0).fit(digits[:40] / 16)
    assert (sampler.vae_.n_latent, sampler.vae_.conditional) == (8, False)
    assert sampler.vae_.likelihood_ == "bernoulli"


def test_constant_pixels(digits):
    """Borders that are always black give the Jacobian rows of nearly nothing."""
    X = np.pad(digits[:100] / 16, ((0, 0), (4, 4), (4, 4)))
    vae = VAE(2, likelihood="bernoulli", n_filters=(4,), max_steps=20, random_state=0)
    sampler = BoundarySampler(vae).fit(X)
    moved = sampler.sample_off_manifold(X, random_state=0)
    assert np.isfinite(moved).all()
    assert np.isfinite(sampler.sample_on_manifold(10, random_state=0)).all()
    # The border is moved like everything else.
    assert moved[:, 0, 0].std() > 0.05


@pytest.mark.parametrize(
    ("sampler", "X", "y", "message"),
    [
        (
            BoundarySampler(VAE(3, conditional=True, max_steps=1)),
            np.random.default_rng(0).random((13, 5)),
            np.r_[np.zeros(10, int), np.ones(3, int)],
            "class 1 has 3 sample(s), but more than n_latent=3 are needed",
        ),
        (
            BoundarySampler(VAE(2, max_steps=1)),
            np.ones((9, 5)),
            None,
            "the latents of X vary in 0 of 2 directions only",
        ),
        (
            BoundarySampler(VAE(2, likelihood="bernoulli", max_steps=1)),
            np.ones((9, 8, 8)),
            None,
            "the latents of X vary in 0 of 2 directions only",
        ),
        (
            BoundarySampler(VAE(4, max_steps=1)),
            np.random.default_rng(0).random((9, 4)),
            None,
            "n_features=4, and the VAE has n_latent=4: no direction leaves its manifold",
        ),
        (BoundarySampler(distance=(2, 1)), np.ones((9, 5)), None, "distance=(2, 1); expected (low"),
        (BoundarySampler(distance=(-1, 1)), np.ones((9, 5)), None, "distance=(-1, 1); expected"),
        (BoundarySampler(distance=(1,)), np.ones((9, 5)), None, "distance=(1,); expected (low"),
        (BoundarySampler(radius=(2, 1)), np.ones((9, 5)), None, "radius=(2, 1); expected (low"),
        (BoundarySampler(quantile=1.0), np.ones((9, 5)), None, "The 'quantile' parameter"),
        (
            BoundarySampler(VAE(2, likelihood="bernoulli")),
            np.full((9, 8, 8), 7.0),
            None,
            "X has values from 7 to 7, but pixels from 0 to 1 are expected",
        ),
    ],
)
def test_errors_of_fit(sampler, X, y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sampler.fit(X, y)


def test_no_vae():
    with pytest.raises(TypeError, match=r"expected a skood\.density\.VAE"):
        BoundarySampler(LogisticRegression()).fit(np.eye(5)[[0, 1] * 5], [0, 1] * 5)


def test_errors_of_sampling(of_rows, of_images, iris, digits):
    X, y = iris
    with pytest.raises(ValueError, match="n_samples=0; expected at least 1"):
        of_rows.sample_on_manifold(0)
    with pytest.raises(ValueError, match=r"y has the labels \[7\]; expected some of \[0 1 2\]"):
        of_rows.sample_on_manifold(y=[0, 7])
    with pytest.raises(ValueError, match="149 labels for 150 items"):
        of_rows.sample_off_manifold(X, y[1:])
    with pytest.raises(ValueError, match="fitted without; leave y out"):
        of_images.sample_on_manifold(y=[0])
    with pytest.raises(ValueError, match=r"items of shape \(1, 8, 7\)"):
        of_images.sample_off_manifold(digits[:, :, :7] / 16)
