"""The network of PixelCNN++: size, receptive fields, initialisation and gradients."""

from itertools import product

import numpy as np
import pytest
import torch

from skood.density import PixelCNN, _logistic_mixture as mixture
from skood.density._pixelcnn_network import PixelCNNLayer, PixelCNNNetwork


def make_network(n_channels=1, **kwargs):
    settings = {
        "n_filters": 3,
        "n_resnet": 1,
        "n_hierarchies": 1,
        "n_classes": 0,
        "dropout": 0.0,
        "weight_norm": False,
    }
    torch.manual_seed(0)
    return PixelCNNNetwork(
        n_channels, mixture.n_parameters(n_channels, 1), **{**settings, **kwargs}
    )


@pytest.fixture(autouse=True)
def keep_random_state():
    with torch.random.fork_rng(devices=[]):
        yield


def dependence(network, n_channels, height, width):
    """Whether the output at a pixel depends on channel c of another: (HW, C, HW), boolean."""
    network = network.double()
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(height * width, n_channels, height * width, dtype=torch.bool)
    x = torch.rand(1, n_channels, height, width, generator=generator, dtype=torch.float64)
    x = (2 * x - 1).requires_grad_()
    out = network(x)[0].flatten(1)
    weights = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    for i in range(height * width):
        (gradient,) = torch.autograd.grad((weights * out)[:, i].sum(), x, retain_graph=True)
        seen[i] = gradient[0].flatten(1) != 0
    return seen


@pytest.mark.parametrize(
    ("shape", "n_parameters"), [((1, 28, 28), 658_307), ((3, 32, 32), 659_242)]
)
def test_number_of_parameters_of_the_published_model(shape, n_parameters):
    density = PixelCNN(n_filters=32, n_resnet=5, max_steps=1, learning_rate=1e-12, batch_size=2)
    density.fit(np.zeros((2, *shape), dtype=np.uint8))
    assert sum(p.numel() for p in density.module_.parameters()) == n_parameters


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("n_hierarchies", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 7), (7, 4), (1, 9)])
def test_output_depends_on_the_past_alone(n_channels, n_hierarchies, height, width):
    network = make_network(n_channels, n_hierarchies=n_hierarchies)
    seen = dependence(network, n_channels, height, width)
    pixels = np.arange(height * width)
    past = torch.from_numpy(pixels[:, None] > pixels[None])
    assert not (seen & ~past[:, None]).any()

    row, column = np.divmod(pixels, width)
    for up, across in [(0, -1), (-1, 0), (-1, 1), (-1, -1)]:
        r, c = row + up, column + across
        inside = (r >= 0) & (c >= 0) & (c < width)
        assert inside.any() or height == 1
        neighbours = (r * width + c)[inside]
        assert seen[pixels[inside], :, neighbours].all(), (up, across)


@pytest.mark.parametrize("n_hierarchies", [1, 2])
def test_a_deep_network_sees_the_whole_past(n_hierarchies):
    """There is no blind spot: every earlier pixel counts, above all those far to the right."""
    seen = dependence(make_network(1, n_resnet=3, n_hierarchies=n_hierarchies), 1, 6, 7)
    pixels = np.arange(6 * 7)
    past = torch.from_numpy(pixels[:, None] > pixels[None])
    assert torch.equal(seen[:, 0], past)


@pytest.mark.parametrize("n_hierarchies", [1, 2, 3])
def test_rows_below_need_not_be_there(n_hierarchies):
    """Sampling runs on the rows that it has reached."""
    network = make_network(2, n_hierarchies=n_hierarchies)
    x = torch.randn(2, 2, 7, 5)
    whole = network(x)
    for rows in range(1, 8):
        torch.testing.assert_close(network(x[:, :, :rows])[:, :, -1], whole[:, :, rows - 1])


def test_more_hierarchies_see_further():
    def reach(n_hierarchies):
        seen = dependence(make_network(1, n_hierarchies=n_hierarchies), 1, 1, 24)
        return int(seen[-1].sum())

    assert reach(1) < reach(2) < reach(3)


def inputs_seen(layer, n_features, position):
    """Rows and columns of the inputs that the output at `position` of a layer depends on."""
    x = torch.randn(1, n_features, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0][:, position[0], position[1]].sum(), x)
    return set(map(tuple, torch.nonzero(gradient[0].abs().sum(0)).tolist()))


def test_layers_see_what_the_paper_says():
    network = make_network(1, n_hierarchies=2)
    vertical, horizontal = network.down[0][0]
    for layer, n_features, rows, columns in [
        (network.first_vertical, 1, (1, 2), (3, 4, 5)),
        (network.first_above, 1, (2,), (3, 4, 5)),
        (network.first_left, 1, (2, 3), (3,)),
        (vertical.conv_in, 6, (2, 3), (3, 4, 5)),
        (vertical.conv_out, 6, (2, 3), (3, 4, 5)),
        (horizontal.conv_in, 6, (2, 3), (3, 4)),
        (horizontal.conv_skip, 6, (3,), (4,)),
        (horizontal.conv_out, 6, (2, 3), (3, 4)),
    ]:
        assert inputs_seen(layer, n_features, (3, 4)) == set(product(rows, columns))


def test_resolutions_are_aligned():
    network = make_network(1, n_hierarchies=2)
    vertical, horizontal = network.contract[0]
    assert inputs_seen(vertical, 3, (2, 3)) == set(product((3, 4), (5, 6, 7)))
    assert inputs_seen(horizontal, 3, (2, 3)) == set(product((3, 4), (5, 6)))
    vertical, horizontal = network.expand[0]
    assert inputs_seen(vertical, 3, (3, 4)) == {(1, 2)}
    assert inputs_seen(vertical, 3, (3, 5)) == {(1, 2), (1, 3)}
    assert inputs_seen(horizontal, 3, (3, 4)) == inputs_seen(horizontal, 3, (3, 5)) == {(1, 2)}


def test_class_moves_the_output_everywhere():
    network = make_network(1, n_classes=3)
    x = torch.randn(1, 1, 4, 4).expand(3, -1, -1, -1)
    out = network(x, torch.eye(3)[:, :, None, None])
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert (out[a] != out[b]).any(0).all()


@pytest.mark.parametrize("n_hierarchies", [1, 3])
def test_dropout_is_active_in_training_only(n_hierarchies):
    network = make_network(1, dropout=0.5, n_hierarchies=n_hierarchies)
    x = torch.randn(1, 1, 5, 5)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("n_hierarchies", [1, 2])
@pytest.mark.parametrize("conditional", [False, True])
def test_weight_norm_starts_with_mean_zero_and_variance_one(n_channels, n_hierarchies, conditional):
    rng = np.random.default_rng(0)
    X = rng.integers(256, size=(40, n_channels, 6, 5), dtype=np.uint8)
    y = np.arange(40) % 3 if conditional else None
    density = PixelCNN(
        n_filters=4,
        n_resnet=1,
        n_hierarchies=n_hierarchies,
        weight_norm=True,
        conditional=conditional,
        max_steps=1,
        batch_size=40,
        validation_fraction=0.0,
        learning_rate=1e-9,
        precision="fp32",
        random_state=0,
    ).fit(X, y)

    outputs = {}
    hooks = [
        layer.register_forward_hook(lambda *call, name=name: outputs.update({name: call[-1]}))
        for name, layer in density.module_.named_modules()
        if isinstance(layer, PixelCNNLayer)
    ]
    with torch.no_grad():
        density._raw(
            density.module_, torch.from_numpy(X).float(), None if y is None else torch.tensor(y)
        )
    assert len(outputs) == len(hooks) > 10
    for name, output in outputs.items():
        std, mean = torch.std_mean(output, (0, 2, 3))
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4, msg=name)
        torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=1e-3, msg=name)


def test_weight_norm_survives_a_batch_without_variation():
    X = np.full((8, 4, 4), 200, dtype=np.uint8)
    density = PixelCNN(n_filters=4, n_resnet=1, weight_norm=True, max_steps=5, random_state=0)
    assert np.isfinite(density.fit(X).score_samples(X)).all()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n_components": 2, "n_hierarchies": 2},
        {"weight_norm": True, "conditional": True},
    ],
    ids=lambda settings: "-".join(settings) or "plain",
)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_gradient_of_the_loss_equals_finite_differences(n_channels, settings):
    rng = np.random.default_rng(0)
    X = rng.integers(16, size=(3, n_channels, 3, 3))
    y = np.arange(3) if settings.get("conditional") else None
    density = PixelCNN(
        n_filters=2,
        n_resnet=1,
        n_levels=16,
        value_range=(0, 15),
        max_steps=2,
        precision="fp32",
        random_state=0,
        **settings,
    ).fit(X, y)
    module = density.module_.double().train()
    x = torch.from_numpy(X).double()
    condition = None if y is None else torch.from_numpy(y)

    def loss():
        return -density._log_prob(module, x, condition).sum((1, 2)).mean()

    parameters = list(module.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(0)
    for (name, parameter), gradient in zip(module.named_parameters(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        with torch.no_grad():
            parameter += step * direction
            above = float(loss())
            parameter -= 2 * step * direction
            below = float(loss())
            parameter += step * direction
        expected = (above - below) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-6), (
            name
        )


@pytest.mark.parametrize(
    ("pixel_origin", "level", "lowest", "highest"),
    [("black", 0, 0, 255 / 64), ("grey", 127.5, -1, 1)],
)
def test_padding_is_the_pixel_of_the_origin(tiny, pixel_origin, level, lowest, highest):
    """A border of pixels of the origin around an image changes nothing that its pixels read."""
    rng = np.random.default_rng(0)
    X = rng.integers(1, 255, size=(8, 3, 6, 5)).astype(np.uint8)
    X[:, :, 0, 0], X[:, :, 0, 1] = 0, 255
    density = tiny(pixel_origin=pixel_origin).fit(X)
    inputs = {}
    network = density.module_
    layers = [network.first_vertical, network.first_above, network.first_left]
    hooks = [
        layer.register_forward_hook(
            lambda layer, args, out: inputs.setdefault(layer, []).append((args[0], out))
        )
        for layer in layers
    ]
    x = torch.from_numpy(X).float()
    framed = torch.nn.functional.pad(x, (2, 2, 2, 2), value=level)
    with torch.no_grad():
        density._raw(network, x, None)
        density._raw(network, framed, None)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        (read, alone), (_, inside) = inputs[layer]
        assert read.min() == lowest
        assert float(read.max()) == pytest.approx(highest, abs=1e-6)
        torch.testing.assert_close(inside[:, :, 2:-2, 2:-2], alone)


def test_the_origins_are_two_units_of_one_model(tiny):
    """First layers in the other units give the same outputs, except near the border."""
    X = np.random.default_rng(0).integers(256, size=(8, 6, 5), dtype=np.uint8)
    grey, black = (tiny(pixel_origin=origin).fit(X) for origin in ("grey", "black"))
    state = black.module_.state_dict()
    for name in ("first_vertical", "first_above", "first_left"):
        # x / 64 = (127.5 / 64) ((x - 127.5) / 127.5 + 1)
        weight = state[f"{name}.weight"] * 127.5 / 64
        state[f"{name}.weight"] = weight
        state[f"{name}.bias"] = state[f"{name}.bias"] + weight.sum((1, 2, 3))
    grey.module_.load_state_dict(state)
    x = torch.nn.functional.pad(torch.from_numpy(X[:, None]).float(), (9, 9, 9, 0))
    with torch.no_grad():
        outputs = [model._raw(model.module_, x, None) for model in (grey, black)]
    inside = [output[..., 9:, 9:-9] for output in outputs]
    torch.testing.assert_close(*inside, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs[0][:, :, 0], outputs[1][:, :, 0], atol=1e-3)
