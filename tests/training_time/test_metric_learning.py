"""Balanced batches, and the terms of VMDLS against reference values and brute force."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from skood.training_time._metric_losses import (
    class_balanced_batches,
    class_divergence,
    triplet_margin_loss,
)


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "data" / "vmdls.npz") as stored:
        return {name: torch.from_numpy(values) for name, values in stored.items()}


def brute_force(embeddings, labels, margin, gap=0.1):
    """Mean of the positive terms over a loop of all triplets, and how many are positive."""
    z, n = embeddings.tolist(), len(labels)

    def distance(i, j):
        return float(np.linalg.norm(np.subtract(z[i], z[j])))

    terms = [
        max(0.0, distance(a, p) - distance(a, m) + gap) + max(0.0, margin - distance(a, m))
        for a in range(n)
        for p in range(n)
        for m in range(n)
        if a != p and labels[a] == labels[p] and labels[a] != labels[m]
    ]
    positive = [term for term in terms if term > 0]
    return sum(positive) / max(len(positive), 1)


@pytest.mark.parametrize("margin", [0.15, 1, 4, 32])
@pytest.mark.parametrize("kind", ["normalised", "unnormalised"])
def test_triplet_loss_has_the_reference_values(reference, kind, margin):
    z = reference["embeddings"]
    z = F.normalize(z) if kind == "normalised" else z
    loss = triplet_margin_loss(z, reference["labels"], margin)
    expected = reference[f"{kind}__loss_M{margin}"].item()
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    as_tensor = triplet_margin_loss(z, reference["labels"], torch.tensor(float(margin)))
    assert as_tensor.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_triplet_loss_equals_a_loop_over_all_triplets(seed):
    """With classes of different sizes, one row alone, and two rows that are the same."""
    rng = np.random.default_rng(seed)
    z, labels = rng.normal(size=(13, 2)), rng.permutation([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3])
    z[1] = z[0]
    for margin in (0.0, 0.5, 2.0):
        loss = triplet_margin_loss(torch.from_numpy(z), torch.from_numpy(labels), margin)
        assert loss.item() == pytest.approx(brute_force(z, labels, margin), rel=1e-12)


def test_gradient_of_the_triplet_loss():
    """It equals that of the formula written out, with the number of active triplets constant."""
    z = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(12) % 3

    def written_out(z):
        d = torch.cdist(z, z)
        same = labels[:, None] == labels
        valid = (same & ~torch.eye(12, dtype=torch.bool))[:, :, None] & ~same[:, None, :]
        terms = F.relu(d[:, :, None] - d[:, None, :] + 0.1) + F.relu(1.5 - d)[:, None, :]
        terms = terms[valid]
        return terms.sum() / (terms > 0).sum()

    one, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    triplet_margin_loss(one, labels, 1.5).backward()
    written_out(other).backward()
    torch.testing.assert_close(one.grad, other.grad)
    assert (one.grad.abs() > 0).all()


def test_triplet_loss_without_triplets_is_zero():
    z = torch.randn(4, 2, requires_grad=True)
    for labels in ([1, 1, 1, 1], [0, 1, 2, 3]):
        loss = triplet_margin_loss(z, torch.tensor(labels), 5.0)
        assert loss.item() == 0
        loss.backward()
        assert torch.isfinite(z.grad).all()
    apart = torch.tensor([[0.0], [0.1], [50.0], [50.1]])
    assert triplet_margin_loss(apart, torch.tensor([0, 0, 1, 1]), 32.0).item() == 0


def test_small_distances_between_large_embeddings_are_exact():
    """With margins of 32, float32 products of embeddings would round them to zero."""
    z = torch.tensor([[1000.0, 0.0], [1000.0, 0.01], [1000.0, 0.05]])
    loss = triplet_margin_loss(z, torch.tensor([0, 0, 1]), 0.0)
    expected = ((0.01 - 0.05 + 0.1) + (0.01 - 0.04 + 0.1)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-3)


def test_divergence_has_the_reference_values(reference):
    arguments = reference["kl_z"], reference["kl_mu"], reference["kl_log_var"]
    labels, class_means = reference["labels"], reference["kl_class_means"]
    loss = class_divergence(*arguments, labels, class_means)
    assert loss.item() == pytest.approx(reference["kl_mean"].item(), rel=1e-9)
    for k in range(4):
        rows = labels == k
        loss = class_divergence(*(a[rows] for a in arguments), labels[rows], class_means)
        assert loss.item() == pytest.approx(reference["kl_per_class"][k].item(), rel=1e-9)


def test_divergence_is_the_mean_over_classes_whatever_their_sizes(reference):
    keep = torch.cat([torch.nonzero(reference["labels"] == k)[: k + 1, 0] for k in range(4)])
    arguments = (reference[name][keep] for name in ("kl_z", "kl_mu", "kl_log_var", "labels"))
    z, mean, log_variance, labels = arguments
    loss = class_divergence(z, mean, log_variance, labels, reference["kl_class_means"])
    prior = torch.distributions.Normal(reference["kl_class_means"][labels], 0.1)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    rows = (posterior.log_prob(z) - prior.log_prob(z)).mean(1)
    expected = torch.stack([rows[labels == k].mean() for k in range(4)]).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_divergence_estimates_that_of_two_gaussians():
    """And is zero where they are the same."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    mean, log_variance = torch.full_like(noise, 0.2), torch.full_like(noise, 2 * np.log(0.3))
    index, means = torch.zeros(len(noise), dtype=torch.int64), torch.zeros(1, 1)
    loss = class_divergence(mean + 0.3 * noise, mean, log_variance, index, means.double())
    exact = np.log(0.1 / 0.3) + (0.3**2 + 0.2**2) / (2 * 0.1**2) - 0.5
    assert loss.item() == pytest.approx(exact, rel=0.01)
    same = class_divergence(
        0.1 * noise, 0 * noise, 2 * np.log(0.1) + 0 * noise, index, means.double()
    )
    assert same.item() == pytest.approx(0, abs=1e-12)


def test_batches_are_balanced():
    class_indices = np.repeat(np.arange(5), [40, 30, 20, 10, 3])
    batches = class_balanced_batches(class_indices, 3, 4, np.random.default_rng(0))
    assert len(batches) == 103 // 12
    for batch in batches:
        assert sorted(np.bincount(class_indices[batch])[np.unique(class_indices[batch])]) == [4] * 3
    seen = {int(k) for batch in batches for k in class_indices[batch]}
    assert seen == set(range(5))


def test_a_class_goes_through_its_rows_before_one_comes_again():
    class_indices = np.repeat([0, 1], [8, 24])
    batches = class_balanced_batches(class_indices, 2, 4, np.random.default_rng(0))
    rows = np.concatenate(batches)
    of_first = rows[class_indices[rows] == 0].reshape(-1, 8)
    assert len(of_first) == 2
    for order in of_first:
        assert sorted(order) == list(range(8))
    of_second = rows[class_indices[rows] == 1]
    assert len(set(of_second)) == len(of_second) == 16


def test_small_classes_are_repeated_and_few_classes_all_taken():
    class_indices = np.repeat([0, 1], [2, 9])
    (batch,) = class_balanced_batches(class_indices, 10, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(class_indices[batch]), [0] * 5 + [1] * 5)
    counts = np.bincount(batch, minlength=2)
    assert counts[:2].min() >= 2 and counts[2:].max() == 1


def test_batches_depend_on_the_generator_alone():
    class_indices = np.arange(60) % 6
    one, same, other = (
        class_balanced_batches(class_indices, 3, 4, np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
