"""Detectors that perturb the input: formulas on a small network, and what they leave alone."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood._data.checked_data import CheckedData


@pytest.fixture
def module():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 30)
    return nn.Sequential(*layers, nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 5)).double()


@pytest.fixture(autouse=True)
def restored_rng():
    with torch.random.fork_rng():
        yield


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(size=(40, 2, 6, 6))


def forward(module, x):
    """Features and logits of one image, by hand."""
    module.eval()
    features = module[:6](x)
    return features, module[6](features)


def input_gradient(module, image, loss):
    x = torch.tensor(image[None], requires_grad=True)
    features, logits = forward(module, x)
    (gradient,) = torch.autograd.grad(loss(logits[0]), x)
    return features.detach()[0].numpy(), gradient[0].numpy()


def cross_entropy_at_10(logits):
    return -torch.log_softmax(logits / 10, 0).max()


class Standardised(nn.Module):
    """Standardises its input, in place or not."""

    def __init__(self, module, in_place):
        super().__init__()
        self.module, self.in_place = module, in_place

    def forward(self, x):
        return self.module(x.sub_(0.4).div_(0.2) if self.in_place else (x - 0.4) / 0.2)


@pytest.mark.parametrize("method", [skood.ODIN, skood.IODIN, skood.AdaSCALE], ids=str)
def test_a_network_that_changes_its_input_in_place(module, images, method):
    before = images.copy()
    expected, scores = (
        method(Standardised(module, in_place)).fit(images).score_samples(images)
        for in_place in (False, True)
    )
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(images, before)


def test_iodin_moves_the_entries_with_the_largest_gradient(module, images):
    for n_entries in (1, 3):
        detector = skood.IODIN(module, 10.0, 0.05, n_entries).fit(images)
        for image, score in zip(images[:5], detector.score_samples(images[:5]), strict=True):
            _, gradient = input_gradient(
                module, image, lambda f: -torch.log_softmax(f / 10, 0).max()
            )
            moved = np.argsort(-np.abs(gradient).ravel())[:n_entries]
            step = np.zeros(gradient.size)
            step[moved] = np.where(gradient.ravel()[moved] >= 0, 1.0, -1.0)
            _, logits = forward(
                module, torch.tensor(image - 0.05 * step.reshape(image.shape))[None]
            )
            expected = torch.softmax(logits / 10, 1).max()
            np.testing.assert_allclose(score, expected.detach(), rtol=1e-12)


def test_iodin_of_all_entries_is_odin(module, images):
    everything = skood.IODIN(module, n_entries=10**6, epsilon=0.1).fit(images)
    np.testing.assert_allclose(
        everything.score_samples(images),
        skood.ODIN(module, epsilon=0.1).fit(images).score_samples(images),
        rtol=1e-12,
    )


@pytest.mark.parametrize("variant", ["activations", "logits"])
def test_adascale(module, images, variant):
    """Against a derivation for each image by itself."""
    weight = module[6].weight.detach().numpy()
    bias = module[6].bias.detach().numpy()
    k1, k2, n_moved = 3, 2, 7  # 10 % and 7 % of 30 features, 10 % of 72 entries

    def features_and_shift(image):
        z, gradient = input_gradient(module, image, lambda f: f.max())
        moved = np.argsort(np.abs(gradient).ravel())[:n_moved]
        x = image.ravel().copy()
        x[moved] += 0.5 * np.sign(gradient.ravel()[moved])
        after, _ = forward(module, torch.tensor(x.reshape(image.shape))[None])
        after = after.detach().numpy()[0]
        top = np.argsort(-z)
        return z, np.maximum(after, 0)[top[:k1]].sum() + 4 * np.abs(z - after)[top[:k2]].sum()

    pairs = [features_and_shift(image) for image in images]
    shifts = np.array([shift for _, shift in pairs])
    expected = []
    for z, shift in pairs:
        p = 60 + (1 - (shifts <= shift).mean()) * 30
        n_kept = 30 - round(30 * p / 100)
        r = z.sum() / np.sort(z)[-n_kept:].sum()
        if variant == "activations":
            logits = weight @ (z * np.exp(r)) + bias
        else:
            logits = (weight @ z + bias) * r**2
        expected.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max())

    detector = skood.AdaSCALE(
        module, (60, 90), variant, k1=10, k2=7, shift_weight=4, perturbed_fraction=0.1
    ).fit(images)
    np.testing.assert_allclose(detector.shifts_, np.sort(shifts), rtol=1e-10)
    np.testing.assert_allclose(detector.score_samples(images), expected, rtol=1e-10)


def test_adascale_learns_from_few_rows(module, images):
    few = skood.AdaSCALE(module, n_samples=10, random_state=0).fit(images)
    assert few.shifts_.shape == (10,)
    again = skood.AdaSCALE(module, n_samples=10, random_state=0).fit(images)
    np.testing.assert_array_equal(few.shifts_, again.shifts_)


def test_the_step_raises_the_confidence(trained):
    network, X, _ = trained
    frozen = skood.PretrainedClassifier(network.module_)
    before = skood.ODIN(frozen, temperature=1.0, epsilon=0.0).fit(X.astype(np.float32))
    after = skood.ODIN(frozen, temperature=1.0, epsilon=0.01).fit(X.astype(np.float32))
    rise = after.score_samples(X.astype(np.float32)) - before.score_samples(X.astype(np.float32))
    assert (rise >= -1e-9).mean() > 0.95
    assert rise.mean() > 0


def test_the_step_is_in_pixels_whatever_the_normalisation(images):
    """The same network, normalising by itself or by its handle."""
    torch.manual_seed(1)
    body = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double()
    mean, std = torch.tensor([0.4, 0.6]).double(), torch.tensor([0.2, 0.5]).double()

    class Normalising(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body((x - mean[:, None, None]) / std[:, None, None])

    outside = skood.PretrainedClassifier(body, mean=mean, std=std)
    np.testing.assert_allclose(
        skood.ODIN(outside, 1.0, 0.01).fit(images).score_samples(images),
        skood.ODIN(Normalising(), 1.0, 0.01).fit(images).score_samples(images),
        rtol=1e-12,
    )


def test_images_that_are_normalised_already_are_noticed(module, images):
    """Without the standard deviation the step is too small."""
    normalised = (images - 0.5) / 0.25
    with pytest.warns(UserWarning, match=r"pixels from -2 to 2, .* four times too small"):
        skood.ODIN(module).fit(normalised)
    handle = skood.PretrainedClassifier(module, mean=[0.5, 0.5], std=[0.25, 0.25])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        skood.ODIN(module).fit(images)
        skood.ODIN(handle).fit(images)
        skood.ODIN(module, epsilon=0.0).fit(normalised)
        skood.ODIN(skood.MLP((4,), max_epochs=1)).fit(normalised[:, 0, 0], np.arange(40) % 2)


def test_the_step_of_rows_is_in_standard_deviations(trained):
    from sklearn.frozen import FrozenEstimator

    _, X, y = trained
    scale = np.array([1, 10, 100, 1, 1])
    scores = []
    for factor in (1, scale):
        network = skood.MLP((8,), max_epochs=3, random_state=0).fit(X * factor, y)
        detector = skood.ODIN(FrozenEstimator(network), 1.0, 0.1).fit(X * factor)
        scores.append(detector.score_samples(X * factor))
    np.testing.assert_allclose(*scores, rtol=1e-4)


@pytest.mark.parametrize(
    "detector", [skood.ODIN(), skood.IODIN(), skood.AdaSCALE()], ids=lambda d: type(d).__name__
)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_network_is_left_as_it_was(detector, module, images, frozen):
    module.train()
    module[0].eval()
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)
    modes = [part.training for part in module.modules()]
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    before = images.copy()
    detector.set_params(classifier=module).fit(images).score_samples(images)
    assert [part.training for part in module.modules()] == modes
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(map(torch.equal, module.parameters(), weights))
    assert not module[0]._forward_hooks
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    "detector",
    [skood.ODIN(epsilon=0.01), skood.IODIN(epsilon=0.1), skood.AdaSCALE()],
    ids=lambda d: type(d).__name__,
)
def test_scores_belong_to_the_image(detector, module, images):
    detector.set_params(classifier=module.float()).fit(images)
    scores = detector.score_samples(images)
    alone = np.concatenate([detector.score_samples(image[None]) for image in images[:5]])
    np.testing.assert_allclose(alone, scores[:5], rtol=1e-6)
    np.testing.assert_allclose(detector.score_samples(images[::-1]), scores[::-1], rtol=1e-6)


def test_percentiles_in_the_wrong_order(module, images):
    with pytest.raises(ValueError, match=r"percentiles=\(90, 80\); expected \(low, high\)"):
        skood.AdaSCALE(module, (90, 80)).fit(images)


def test_adascale_learns_from_other_rows_than_the_threshold(monkeypatch, trained):
    network, X, _ = trained
    monkeypatch.setattr(skood._thresholds, "THRESHOLD_ROWS", 20)
    plain, drawn = CheckedData.subset, []

    def subset(source, rows):
        drawn.append(set(rows))
        return plain(source, rows)

    monkeypatch.setattr(CheckedData, "subset", subset)
    skood.AdaSCALE(FrozenEstimator(network), n_samples=20, random_state=0).fit(X)
    learned, threshold = (rows for rows in drawn if len(rows) == 20)
    assert len(learned & threshold) < 10
