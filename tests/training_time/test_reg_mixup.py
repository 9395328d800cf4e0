"""RegMixup: the loss by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from sklearn.datasets import load_iris
from torch import nn

from skood import MLP, RegMixup


class Recorded(nn.Module):
    """A linear network that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        self.seen = x
        return self.layer(x)


class Objective:
    """What the loss reads of an objective."""

    def __init__(self, *, training=True):
        self.network = Recorded()
        self.training = training

    def cross_entropy(self, logits, class_index):
        return F.cross_entropy(logits, class_index, reduction="none")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(10, 4, generator=generator), torch.arange(10) % 3


@pytest.mark.parametrize(("alpha", "mixup_weight"), [(20.0, 1.0), (0.5, 3.0)])
def test_loss(batch, alpha, mixup_weight):
    x, y = batch
    objective = Objective()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        loss = RegMixup(None, alpha, mixup_weight)._loss(objective, x, y)
    plain, mixed = objective.network.seen.chunk(2)
    assert torch.equal(plain, x)
    # Which share and which partners lead to the mixtures: found by least squares.
    best = None
    for j in range(10):
        difference = x[0] - x[j]
        if j and difference.norm() > 0:
            share = float(((mixed[0] - x[j]) @ difference) / (difference @ difference))
            rest = float((mixed[0] - share * x[0] - (1 - share) * x[j]).norm())
            best = min(best or (np.inf,), (rest, share))
    rest, share = best
    assert rest < 1e-5 or torch.allclose(mixed[0], x[0])
    partner = [
        int((mixed[i] - share * x[i] - (1 - share) * x).norm(dim=1).argmin()) for i in range(10)
    ]
    assert sorted(partner) == list(range(10))
    logits, of_mixed = objective.network.layer(plain), objective.network.layer(mixed)
    expected = F.cross_entropy(logits, y) + mixup_weight * (
        share * F.cross_entropy(of_mixed, y) + (1 - share) * F.cross_entropy(of_mixed, y[partner])
    )
    assert_allclose(
        float(loss.mean().detach()), float(expected.detach()) / (1 + mixup_weight), rtol=1e-5
    )


def test_share_is_from_a_beta_distribution(batch):
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)), within five standard errors."""
    x, y = torch.tensor([[0.0, 0, 0, 0], [1.0, 1, 1, 1]]), torch.tensor([0, 1])
    shares = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(2000):
            objective = Objective()
            RegMixup(alpha=2.0)._loss(objective, x, y)
            mixed = float(objective.network.seen[3, 0])
            if mixed != 1:
                shares.append(mixed)
    variance = 1 / (4 * (2 * 2 + 1))
    assert abs(np.mean(shares) - 0.5) < 5 * np.sqrt(variance / len(shares))
    assert abs(np.var(shares) / variance - 1) < 5 * np.sqrt(2 / len(shares))


def test_validation_has_no_mixtures(batch):
    x, y = batch
    objective = Objective(training=False)
    loss = RegMixup()._loss(objective, x, y)
    assert torch.equal(objective.network.seen, x)
    assert torch.equal(loss, F.cross_entropy(objective.network(x), y, reduction="none"))


def test_score_is_the_free_energy():
    X, y = load_iris(return_X_y=True)
    detector = RegMixup(MLP((8,), max_epochs=3), random_state=0).fit(X, y)
    logits = detector.classifier_.decision_function(X)
    assert_allclose(detector.score_samples(X), logsumexp(logits.astype(float), axis=1), rtol=1e-6)
