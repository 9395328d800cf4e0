"""The discretised logistic mixture against 60-digit references, and as a distribution."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit, log_softmax, logsumexp

from skood.density import _logistic_mixture as mixture

REFERENCE = np.load(Path(__file__).parent / "data" / "logistic_mixture.npz")
SETS = ["gray_m1", "gray_m5", "rgb_m1", "rgb_m5"]


def reference(name, dtype):
    """Arguments of log_prob, and the log-probabilities, of a reference set."""

    def tensor(key):
        # The channels, and before them the components, come before height and width here.
        array = np.moveaxis(REFERENCE[f"{name}__{key}"], (1, 2), (-2, -1))
        return torch.tensor(array, dtype=dtype)

    loc = tensor("loc")
    coefs = tensor("coefs") if name.startswith("rgb") else loc[:, :, :0]
    arguments = tensor("x"), tensor("logits"), loc, tensor("scale"), coefs
    return arguments, REFERENCE[f"{name}__log_prob"]


def random_parameters(n_channels, n_components, n_levels, *, n=1, dtype=torch.float64):
    """Parameters of moderate mixtures, each of the shape that split_parameters returns."""
    generator = torch.Generator().manual_seed(n_channels + 10 * n_components + n_levels)
    n_raw = mixture.n_parameters(n_channels, n_components)
    raw = torch.randn(n, n_raw, 1, 1, generator=generator, dtype=dtype)
    return mixture.split_parameters(raw, n_channels, n_components, n_levels, 1e-5)


def all_pixels(n_channels, n_levels):
    """Every value a pixel can have, shape (n_levels ** n_channels, n_channels, 1, 1)."""
    values = torch.tensor(list(product(range(n_levels), repeat=n_channels)), dtype=torch.float64)
    return values[:, :, None, None]


def exact_probabilities(n_channels, n_levels, parameters):
    x = all_pixels(n_channels, n_levels)
    expanded = (p.expand(len(x), *p.shape[1:]) for p in parameters)
    return mixture.log_prob(x, *expanded, n_levels).exp().flatten()


@pytest.mark.parametrize("name", SETS)
def test_reference_values(name):
    arguments, expected = reference(name, torch.float64)
    value = mixture.log_prob(*arguments, 256)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", SETS)
def test_reference_values_in_single_precision(name):
    arguments, expected = reference(name, torch.float32)
    value = mixture.log_prob(*arguments, 256)
    assert value.dtype == torch.float32
    wide = (arguments[3] >= 0.1).all(2).all(1).numpy()
    assert wide.mean() > 0.7
    np.testing.assert_allclose(value.numpy()[wide], expected[wide], rtol=1e-4, atol=1e-4)
    assert np.isfinite(value.numpy()).all()


def test_reference_values_far_from_the_location_and_for_extreme_scales():
    def tensor(key, *shape):
        return torch.tensor(REFERENCE[f"edge__{key}"], dtype=torch.float64).view(-1, *shape)

    loc = tensor("loc", 1, 1, 1, 1)
    value = mixture.log_prob(
        tensor("x", 1, 1, 1),
        torch.zeros(len(loc), 1, 1, 1, dtype=torch.float64),
        loc,
        tensor("scale", 1, 1, 1, 1),
        loc[:, :, :0],
        256,
    )
    np.testing.assert_allclose(
        value.flatten().numpy(), REFERENCE["edge__log_prob"], rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize(
    ("n_channels", "n_levels"), [(1, 2), (1, 17), (1, 256), (2, 17), (3, 2), (3, 9)]
)
@pytest.mark.parametrize("n_components", [1, 4])
def test_probabilities_sum_to_one(n_channels, n_levels, n_components):
    parameters = random_parameters(n_channels, n_components, n_levels)
    probabilities = exact_probabilities(n_channels, n_levels, parameters)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    assert float(probabilities.max()) < 0.999


@pytest.mark.parametrize("pixel_origin", ["grey", "black"])
@pytest.mark.parametrize("n_levels", [17, 256])
@pytest.mark.parametrize("n_channels", [1, 3, 4])
def test_network_speaks_in_units_of_rescaled_pixels(n_channels, n_levels, pixel_origin):
    """The formula of TensorFlow Probability's PixelCNN, written out with numpy."""
    n, n_components, height, width = 6, 3, 2, 5
    rng = np.random.default_rng(0)
    n_coefs = n_channels * (n_channels - 1) // 2
    shape = n, n_components, 1 + 2 * n_channels + n_coefs, height, width
    # Small enough that the plain difference of two probabilities keeps its digits.
    raw = 0.5 * rng.normal(size=shape)
    x = rng.integers(n_levels, size=(n, n_channels, height, width))
    x[0], x[1] = 0, n_levels - 1

    rescaled, half_bin = 2 * x / (n_levels - 1) - 1, 1 / (n_levels - 1)
    if pixel_origin == "black":
        rescaled, half_bin = 4 * x / n_levels, 2 / n_levels
    logits, loc, scale, coefs = np.split(raw, np.cumsum([1, n_channels, n_channels]), axis=2)
    scale = np.log1p(np.exp(scale))
    pairs = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    log_channels = np.zeros((n, n_components, height, width))
    for c in range(n_channels):
        mean = loc[:, :, c]
        for earlier in range(c):
            mean = mean + coefs[:, :, pairs.index((c, earlier))] * rescaled[:, None, earlier]
        value, level = rescaled[:, None, c], x[:, None, c]
        above = expit((value + half_bin - mean) / scale[:, :, c])
        below = expit((value - half_bin - mean) / scale[:, :, c])
        upper, lower = np.where(level < n_levels - 1, above, 1), np.where(level > 0, below, 0)
        log_channels += np.log(upper - lower)
    expected = logsumexp(log_softmax(logits[:, :, 0], axis=1) + log_channels, axis=1)

    flat = torch.tensor(raw).flatten(1, 2)
    assert flat.shape[1] == mixture.n_parameters(n_channels, n_components)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parameters = mixture.split_parameters(
            flat.contiguous(memory_format=memory_format),
            n_channels,
            n_components,
            n_levels,
            1e-5,
            pixel_origin,
        )
        value = mixture.log_prob(
            torch.tensor(x, dtype=torch.float64), *parameters, n_levels, pixel_origin
        )
        # The floor under the scale moves a log-probability by some 1e-6.
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_split_parameters():
    # One component of an RGB pixel: logit, three locations, three scales, three coefficients.
    raw = torch.tensor([0.5, -1.0, 0.0, 1.0, 0.0, 2.0, -40.0, 0.1, 0.2, 0.3]).view(1, 10, 1, 1)
    logits, loc, scale, coefs = mixture.split_parameters(raw, 3, 1, 256, 0.25)
    assert logits.flatten().tolist() == [0.5]
    assert loc.flatten().tolist() == [0.0, 127.5, 255.0]
    softplus = F.softplus(torch.tensor([0.0, 2.0]))
    assert scale.flatten()[:2].tolist() == pytest.approx((127.5 * softplus + 0.25).tolist())
    assert float(scale.flatten()[2]) == 0.25
    assert coefs.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert [tuple(p.shape) for p in (logits, loc, scale, coefs)] == [
        (1, 1, 1, 1),
        (1, 1, 3, 1, 1),
        (1, 1, 3, 1, 1),
        (1, 1, 3, 1, 1),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_values_and_gradients_are_finite_for_any_output_of_the_network(n_channels, dtype):
    extremes = [-1e4, -30.0, 0.0, 30.0, 1e4]
    levels = [0.0, 1.0, 128.0, 254.0, 255.0]
    # The same extreme for all locations, for all scales and for all coefficients of a pixel.
    cases = torch.tensor(list(product(extremes, extremes, [-1e3, 0.0, 1e3], levels)), dtype=dtype)
    n_coefs = n_channels * (n_channels - 1) // 2
    loc, scale, coefs, level = (case[:, None, None, None] for case in cases.T)
    x = level.expand(-1, n_channels, 1, 1)
    other = torch.zeros(len(cases), 1 + 2 * n_channels + n_coefs, 1, 1, dtype=dtype)
    sizes = (n_channels, n_channels, n_coefs)
    extreme = [
        value.expand(-1, k, 1, 1) for value, k in zip((loc, scale, coefs), sizes, strict=True)
    ]
    raw = torch.cat([torch.zeros_like(loc), *extreme, other], 1).requires_grad_()
    # First alone, then with an unremarkable component.
    for n_components in (1, 2):
        used = raw[:, : n_components * other.shape[1]]
        parameters = mixture.split_parameters(used, n_channels, n_components, 256, 1e-5)
        value = mixture.log_prob(x, *parameters, 256)
        (gradient,) = torch.autograd.grad(value.sum(), raw)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()
        assert (value <= 1e-6).all()


def test_gradient():
    parameters = [p.requires_grad_() for p in random_parameters(3, 2, 256, n=4)]
    x = torch.tensor([[0, 255, 128], [10, 20, 30], [255, 0, 0], [77, 78, 79]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *p: mixture.log_prob(x[:, :, None, None], *p, 256), parameters, eps=1e-5
    )


@pytest.mark.parametrize(("n_channels", "n_levels"), [(1, 2), (1, 17), (3, 4)])
def test_sample_follows_the_probabilities(n_channels, n_levels):
    n = 100_000
    parameters = random_parameters(n_channels, 3, n_levels)
    expected = n * exact_probabilities(n_channels, n_levels, parameters).numpy()
    expanded = (p.float().expand(n, *p.shape[1:]) for p in parameters)
    x = mixture.sample(*expanded, n_levels, torch.Generator().manual_seed(0))

    assert x.shape == (n, n_channels, 1, 1)
    assert x.min() >= 0
    assert x.max() <= n_levels - 1
    places = n_levels ** np.arange(n_channels)[::-1]
    counts = np.bincount(x[:, :, 0, 0].long().numpy() @ places, minlength=len(expected))
    assert len(counts) == len(expected)
    often = expected >= 5
    rest = np.array([counts[~often].sum(), expected[~often].sum()])
    assert abs(rest[0] - rest[1]) <= 5 * np.sqrt(rest[1] + 1)
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    n_free = often.sum() - 1
    assert statistic < n_free + 5 * np.sqrt(2 * n_free)


def test_sampled_channels_depend_on_each_other_as_the_coefficients_say():
    n, n_levels = 2000, 256
    loc = torch.tensor([127.5, 127.5, 127.5]).view(1, 1, 3, 1, 1).expand(n, -1, -1, -1, -1)
    scale = torch.tensor([25.0, 0.01, 0.01]).view(1, 1, 3, 1, 1).expand_as(loc)
    # Green is the negative of red; blue is half of red minus a quarter of green.
    coefs = torch.tensor([-1.0, 0.5, -0.25]).view(1, 1, 3, 1, 1).expand_as(loc)
    x = mixture.sample(
        torch.zeros(n, 1, 1, 1), loc, scale, coefs, n_levels, torch.Generator().manual_seed(0)
    )
    red, green, blue = x[:, :, 0, 0].T
    inside = (red > 0) & (red < 255)
    assert inside.float().mean() > 0.9
    assert torch.unique(red).numel() > 100
    assert (green + red - 255)[inside].abs().max() <= 1
    assert (blue - 127.5 - 0.75 * (red - 127.5))[inside].abs().max() <= 1


def test_sample_is_decided_by_the_generator():
    parameters = [p.float() for p in random_parameters(3, 2, 256, n=50)]

    def draw(seed):
        return mixture.sample(*parameters, 256, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize(("n_channels", "n_components"), [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_entropy(n_channels, n_components):
    """The entropies of the channels, averaged over all pixels, add up to the joint entropy."""
    n_levels = 4
    parameters = random_parameters(n_channels, n_components, n_levels)
    x = all_pixels(n_channels, n_levels)
    p = exact_probabilities(n_channels, n_levels, parameters)
    expanded = [part.expand(len(x), *part.shape[1:]) for part in parameters]
    entropies = mixture.entropy(x, *expanded, n_levels)
    assert entropies.shape == (len(x), 1, 1)
    whole = -(p * p.log()).sum()
    np.testing.assert_allclose((p * entropies.flatten()).sum(), whole, rtol=1e-9)
    if n_channels == 1:
        np.testing.assert_allclose(entropies.flatten(), whole.expand(len(x)), rtol=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_entropy_of_extreme_parameters(name):
    arguments, _ = reference(name, torch.float32)
    entropies = mixture.entropy(*arguments, 256)
    n_channels = arguments[0].shape[1]
    assert ((entropies > -1e-3) & (entropies < n_channels * np.log(256) + 1e-3)).all()
