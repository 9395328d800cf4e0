"""Layers of maps, modes and free nats of HierarchicalVAE, step by step."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from skood.density import HierarchicalVAE
from skood.density._descent import descend, free_nats_at, sum_at_least
from skood.density._evidence import normal_points

SETTINGS = {
    "n_filters": (3, 4),
    "hidden_features": (5,),
    "max_steps": 4,
    "batch_size": 16,
    "learning_rate": 3e-2,
    "n_importance_samples": 4,
    "precision": "fp32",
    "free_nats": 0.0,
    "random_state": 0,
}
IMAGES = np.random.default_rng(0).random((20, 8, 6))


def maps(**kwargs):
    settings = {"n_latents": (2, 3, 2), "n_spatial_layers": 1, "n_blocks": 1, **SETTINGS}
    return HierarchicalVAE(**{**settings, **kwargs}).fit(IMAGES)


class Loop:
    """The bounds of a model of rows, by numpy from its weights."""

    def __init__(self, vae):
        state = vae.module_.state_dict()
        self.weights = {name: value.double().numpy() for name, value in state.items()}
        self.vae, self.scale = vae, vae.module_.scale().detach().double().numpy()

    def mlp(self, name, x):
        """Apply two linear layers, with a ReLU between them."""
        for layer in (0, 2):
            weight, bias = (self.weights[f"{name}.{layer}.{part}"] for part in ("weight", "bias"))
            x = weight @ (np.maximum(x, 0) if layer else x) + bias
        return x

    def log_weight(self, x, points, k, lower):
        """Log p(x | z) + log p(z_above) - log q(z_above | x) of one item and draw."""
        above, total = np.zeros(0), 0.0
        for layer, n in reversed(list(enumerate(self.vae.n_latents))):
            point = points[sum(self.vae.n_latents[:layer]) :][:n]
            top = layer == len(self.vae.n_latents) - 1
            prior = np.zeros(2 * n) if top else self.mlp(f"priors.{layer}", above)
            p_mean, p_deviation = prior[:n], np.exp(prior[n:] / 2)
            if layer < k:
                z = p_mean if lower == "mode" else p_mean + p_deviation * point
            else:
                name = "encoder" if top else f"posteriors.{layer}"
                posterior = self.mlp(name, np.concatenate([x, above]))
                z = posterior[:n] + np.exp(posterior[n:] / 2) * point
                log_p = -0.5 * ((z - p_mean) / p_deviation) ** 2 - np.log(p_deviation)
                log_q = -0.5 * point**2 - posterior[n:] / 2
                total += (log_p - log_q).sum()
            above = np.concatenate([z, above])
        residual = (x - self.mlp("decoder", above)) / self.scale
        units = np.log(self.scale * self.vae.scale_ * np.sqrt(2 * np.pi))
        return total - (0.5 * residual**2 + units).sum()

    def bound(self, X, k, lower):
        Z = (X - self.vae.mean_) / self.vae.scale_
        points = normal_points(4, sum(self.vae.n_latents)).double().numpy()
        draws = [[self.log_weight(x, point, k, lower) for point in points] for x in Z]
        return logsumexp(draws, axis=1) - np.log(4)


@pytest.mark.parametrize("lower", ["mode", "sample"])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_bound_above_k_against_a_loop(k, lower):
    X = np.random.default_rng(0).normal(size=(20, 4))
    vae = HierarchicalVAE((3, 2, 1), **{**SETTINGS, "max_steps": 30}).fit(X)
    expected = Loop(vae).bound(X, k, lower)
    found = vae.score_above(X, k, lower_latents=lower)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("k", [1, 2])
def test_mode_is_a_draw_without_variance(k):
    vae = maps()
    different = vae.score_above(IMAGES, k, lower_latents="sample")
    mode = vae.score_above(IMAGES, k)
    assert abs(different - mode).max() > 1e-3
    module = vae.module_
    with torch.no_grad():
        for layer, n in [(module.map_priors[0], 2), (module.priors[0][-1], 3)]:
            layer.weight[n:] = 0
            layer.bias[n:] = -100
    mode = vae.score_above(IMAGES, k)
    # The smallest variance is e^-15.
    sampled = vae.score_above(IMAGES, k, lower_latents="sample")
    np.testing.assert_allclose(sampled, mode, atol=0.02)


def test_mode_does_not_read_the_lower_posteriors():
    vae = maps()
    above, full = vae.score_above(IMAGES, 1), vae.score_samples(IMAGES)
    with torch.no_grad():
        vae.module_.map_posteriors[0][-1].bias += 1
    np.testing.assert_array_equal(vae.score_above(IMAGES, 1), above)
    assert (vae.score_samples(IMAGES) != full).all()


class TestMaps:
    @pytest.mark.parametrize(
        ("n_spatial_layers", "shapes"),
        [
            (0, [(2,), (3,), (2,)]),
            (1, [(2, 4, 3), (3,), (2,)]),
            (2, [(2, 4, 3), (3, 2, 2), (2,)]),
        ],
    )
    def test_have_half_the_size_of_the_map_below(self, n_spatial_layers, shapes):
        vae = maps(n_spatial_layers=n_spatial_layers)
        assert [tuple(shape) for shape in vae.module_.latent_shapes] == shapes
        assert vae.n_latent == sum(np.prod(shape) for shape in shapes)

    def test_published_shape(self):
        vae = HierarchicalVAE((8, 16, 8), n_spatial_layers=1, **{**SETTINGS, "max_steps": 1})
        vae.fit(np.random.default_rng(0).random((4, 28, 28)))
        assert vae.module_.n_latents == (8 * 14 * 14, 16, 8)

    def test_are_local(self):
        """A corner of x changes the posterior of near latents alone, given the latents above."""
        vae = maps(n_blocks=0)
        module, x = vae.module_, torch.zeros(1, 1, 32, 32)
        changed = x.clone()
        changed[..., :2, :2] = 1
        state = torch.zeros(1, 4, 16, 16)
        with torch.no_grad():
            differs = [
                module.map_posteriors[0](torch.cat([module.convolutions[:2](y), state], 1))
                for y in (x, changed)
            ]
        rows, columns = np.nonzero((differs[0] != differs[1]).any(1)[0].numpy())
        assert 0 < len(rows)
        assert max(*rows, *columns) < 5

    def test_divergences_are_of_the_latent(self):
        vae = maps()
        module = vae.module_
        with torch.no_grad():
            for layer in (module.map_posteriors[0][-1], module.map_priors[0]):
                layer.weight.zero_()
                layer.bias.zero_()
            module.map_posteriors[0][-1].bias[1] = 0.8
        bottom = vae.latent_divergences(IMAGES)[:, :24]
        np.testing.assert_allclose(bottom, np.repeat([[0, 0.32]], 12, 1).repeat(20, 0), rtol=1e-6)


def test_more_latents_than_a_sobol_sequence_has_dimensions():
    points = normal_points(2, 21_300)
    assert torch.equal(points[:, :21_201], normal_points(2, 21_201))
    assert points[:, 21_201:].std() == pytest.approx(1, abs=0.2)


class TestFreeNats:
    def test_are_constant_then_fall_to_zero(self):
        """As in the authors' code: half of the epochs each."""
        steps = torch.arange(0, 300, 25).float()
        found = free_nats_at(steps, 2.0, 200)
        falling = np.linspace(2, 0, 5)
        np.testing.assert_allclose(found, [2, 2, 2, 2, *falling, 0, 0, 0])
        np.testing.assert_allclose(free_nats_at(steps, 2.0, None), 2)

    @pytest.mark.parametrize("per", ["layer", "latent"])
    def test_loss(self, per):
        vae = maps(free_nats=0.6, free_nats_per=per, n_free_nats_steps=6, n_warmup_steps=10)
        module, x = vae.module_.train(), torch.rand(8, 1, 8, 6)
        module.n_steps.fill_(4)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(7)
            found = vae._log_prob(module, x, None)
            torch.manual_seed(7)
            drawn = descend(module, module.features(x), torch.randn(8, vae.n_latent))
            log_likelihood = vae._log_likelihood(module, x, module.decode(drawn.state))
        free = 0.6 * (6 - 4) / 3
        expected = log_likelihood.numpy()
        for n_channels, terms in zip((2, 3, 2), drawn.divergences[::-1], strict=True):
            terms = terms.numpy()
            if per == "layer":
                charged = np.maximum(terms.sum(1), free)
            else:
                charged = np.maximum(terms, free / n_channels).sum(1)
            expected = expected - 0.5 * charged
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_gradient_is_zero_below_them(self):
        terms = torch.tensor([[0.1, 0.5]], dtype=torch.float64, requires_grad=True)
        for per, least, gradient in [
            ("latent", 0.3, [0, 1]),
            ("layer", 0.7, [0, 0]),
            ("layer", 0.5, [1, 1]),
        ]:
            total = sum_at_least([terms], [least], per=per)
            assert torch.autograd.grad(total.sum(), terms)[0].tolist() == [gradient]
