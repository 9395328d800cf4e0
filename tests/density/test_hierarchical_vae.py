"""HierarchicalVAE: bounds and divergences against closed forms, training, scores, samples."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import kstest, multivariate_normal
from torch import distributions

from skood.density import HierarchicalVAE
from skood.density._descent import descend
from skood.density._evidence import normal_points


def make_vae(**kwargs):
    settings = {
        "n_latents": (3, 2, 1),
        "n_filters": (3,),
        "hidden_features": (6,),
        "max_steps": 3,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "n_importance_samples": 8,
        "precision": "fp32",
        "random_state": 0,
    }
    return HierarchicalVAE(**{**settings, **kwargs})


VARIANTS = {
    "rows": ((30, 6), {}),
    "two layers": ((30, 6), {"n_latents": [2, 3]}),
    "four layers": ((30, 6), {"n_latents": (2, 1, 2, 3), "hidden_features": (7, 5)}),
    "grey": ((30, 8, 6), {"likelihood": "bernoulli", "n_filters": (3, 4)}),
    "colour": ((30, 3, 7, 5), {}),
    "maps": (
        (30, 8, 6),
        {"n_latents": (2, 3, 2), "n_spatial_layers": 1, "n_blocks": 1, "n_filters": (3, 4)},
    ),
    "maps of two sizes": (
        (30, 3, 7, 5),
        {"n_latents": (2, 1, 3), "n_spatial_layers": 2, "n_filters": (3, 4)},
    ),
    "blocks": ((30, 7, 5), {"n_blocks": 2, "n_filters": (3, 2)}),
    "binarised": ((30, 6, 5), {"likelihood": "bernoulli", "binarize": "dynamic"}),
    "no hidden layers": ((30, 4, 3), {"hidden_features": (), "likelihood": "gaussian"}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def data_of(variant):
    shape, settings = VARIANTS[variant]
    return np.random.default_rng(0).random(shape), settings


def set_linear(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight, dtype=torch.float32))
        layer.bias.copy_(torch.as_tensor(bias, dtype=torch.float32))


def given(mean, cov, of, by):
    """Coefficients, constant and covariance of some entries of a normal vector given others."""
    A = np.linalg.solve(cov[np.ix_(by, by)], cov[np.ix_(by, of)]).T
    return A, mean[of] - A @ mean[by], cov[np.ix_(of, of)] - A @ cov[np.ix_(by, of)]


class LinearGaussian:
    """Model of rows in which every law is normal, so that log p(x) is known.

    Two latents, z_1 above x and z_2 above z_1, and x = w_1 z_1 + w_2 z_2 + b + s e, in the units
    of the network. The posteriors of single latents have a variance each, so that q can be exact.
    """

    a, v = 0.8, 0.5
    W = np.array([[1.0, -0.4], [0.5, 0.7], [-0.3, 1.2]])
    b = np.array([0.2, -0.1, 0.0])
    s = np.array([0.6, 0.9, 0.5])

    def __init__(self):
        # Of (z_1, z_2, x), by what each is made of: z_2 = e_2, z_1 = a z_2 + 0.3 + v e_1.
        L = np.zeros((5, 5))
        L[0, :2], L[1, 1] = [self.v, self.a], 1
        L[2:] = self.W @ L[:2]
        L[2:, 2:] = np.diag(self.s)
        z_mean = np.array([0.3, 0.0])
        self.mean, self.cov = np.r_[z_mean, self.W @ z_mean + self.b], L @ L.T
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(40, 3)) * [1, 20, 0.1] + [5, 0, 3]

    def exact(self):
        """The model, and q(z | x) = p(z | x)."""
        vae = make_vae(n_latents=(1, 1), hidden_features=(), max_steps=1).fit(self.X)
        module = vae.module_
        set_linear(module.decoder[0], self.W, self.b)
        set_linear(module.priors[0][0], [[self.a], [0]], [0.3, 2 * np.log(self.v)])
        A, c, rest = given(self.mean, self.cov, [1], [2, 3, 4])
        set_linear(module.encoder[0], np.r_[A, 0 * A], [*c, np.log(rest[0, 0])])
        A, c, rest = given(self.mean, self.cov, [0], [2, 3, 4, 1])
        set_linear(module.posteriors[0][0], np.r_[A, 0 * A], [*c, np.log(rest[0, 0])])
        with torch.no_grad():
            module.raw_scale.copy_(torch.as_tensor(np.log(np.expm1(self.s - 1e-3)) / 10))
        return vae

    def wrong(self, **kwargs):
        """The model, and a posterior that is off at both layers."""
        vae = self.exact().set_params(**kwargs)
        with torch.no_grad():
            vae.module_.encoder[0].bias += torch.tensor([0.4, 0.5])
            vae.module_.posteriors[0][0].bias += torch.tensor([-0.3, 0.4])
        return vae

    def log_density(self, vae):
        Z = (self.X - vae.mean_) / vae.scale_
        return self.law([2, 3, 4]).logpdf(Z) - np.log(vae.scale_).sum()

    def law(self, of):
        return multivariate_normal(self.mean[of], self.cov[np.ix_(of, of)])


class TestBounds:
    @pytest.mark.parametrize("bound", ["importance", "elbo"])
    @pytest.mark.parametrize("n_importance_samples", [1, 8])
    def test_of_the_exact_posterior_are_the_density(self, bound, n_importance_samples):
        model = LinearGaussian()
        vae = model.exact().set_params(bound=bound, n_importance_samples=n_importance_samples)
        found, expected = vae.score_samples(model.X), model.log_density(vae)
        if bound == "importance":
            # Every draw has the same weight.
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
        else:
            # The mean of log p(x | z) depends on the draws.
            vae.set_params(n_importance_samples=256)
            np.testing.assert_allclose(vae.score_samples(model.X), expected, atol=0.02)

    def test_rises_with_the_draws_to_the_density(self):
        model = LinearGaussian()
        vae = model.wrong()
        exact = model.log_density(vae)
        gaps = []
        for n in (1, 8, 64, 512):
            gaps.append((exact - vae.score_above(model.X, 0, n)).mean())
        assert all(more < fewer for fewer, more in itertools.pairwise(gaps))
        assert gaps[0] > 0.1
        assert abs(gaps[-1]) < 0.01

    def test_elbo_lacks_the_divergence_from_the_posterior(self):
        model = LinearGaussian()
        vae = model.wrong(bound="elbo", n_importance_samples=256)
        gap = model.log_density(vae) - vae.score_samples(model.X)
        _, _, top = given(model.mean, model.cov, [1], [2, 3, 4])
        _, _, bottom = given(model.mean, model.cov, [0], [2, 3, 4, 1])
        # Means shifted by 0.4 and -0.3, log-variances raised by 0.5 and 0.4.
        expected = sum(
            0.5 * (np.exp(raised) - raised - 1 + shift**2 / rest[0, 0])
            for shift, raised, rest in [(0.4, 0.5, top), (-0.3, 0.4, bottom)]
        )
        np.testing.assert_allclose(gap, expected, atol=0.03)

    def test_score_above_k_against_the_closed_form(self):
        """With z_1 from its prior, p(x | z_2) is normal, and the bound is one on the same log p."""
        model = LinearGaussian()
        vae = model.exact().set_params(n_importance_samples=512)
        exact = model.log_density(vae)
        sampled = vae.score_above(model.X, 1, lower_latents="sample")
        np.testing.assert_allclose(sampled, exact, atol=0.1)
        # The expectation of log p(x | z), with z_2 from q(z_2 | x) and z_1 from p(z_1 | z_2) or at
        # its mean, minus KL(q(z_2 | x) || p).
        vae.set_params(bound="elbo")
        Z = (model.X - vae.mean_) / vae.scale_
        A, c, rest = given(model.mean, model.cov, [1], [2, 3, 4])
        m, v = Z @ A.T + c, rest[0, 0]
        direction = model.W @ [model.a, 1]
        residual = Z - (0.3 * model.W[:, 0] + model.b) - m * direction
        kl = 0.5 * (m[:, 0] ** 2 + v - 1 - np.log(v))
        for lower, variance_of_z_1 in [("mode", 0), ("sample", model.v**2)]:
            variance = v * direction**2 + variance_of_z_1 * model.W[:, 0] ** 2
            log_likelihood = -0.5 * (
                (residual**2 + variance) / model.s**2 + np.log(2 * np.pi * model.s**2)
            ).sum(1)
            expected = log_likelihood - kl - np.log(vae.scale_).sum()
            found = vae.score_above(model.X, 1, lower_latents=lower)
            np.testing.assert_allclose(found, expected, rtol=3e-3, atol=0.05)
        assert (expected < exact - 0.1).all()

    @pytest.mark.parametrize("bound", ["importance", "elbo"])
    def test_above_zero_is_the_score(self, bound):
        X, settings = data_of("four layers")
        vae = make_vae(**settings, bound=bound).fit(X)
        np.testing.assert_array_equal(vae.score_above(X, 0), vae.score_samples(X))
        np.testing.assert_array_equal(
            vae.score_above(X, 2, 5), vae.set_params(n_importance_samples=5).score_above(X, 2)
        )

    def test_terms_are_those_of_the_distributions(self):
        X, settings = data_of("four layers")
        vae = make_vae(**settings, max_steps=30).fit(X)
        module, x = vae.module_.eval(), vae._tensor(X, torch.device("cpu"))
        for k, point in enumerate(normal_points(4, vae.n_latent)):
            with torch.no_grad():
                drawn = descend(module, [x], point.expand(30, -1), k)
                layers = drawn.latents.split((2, 1, 2, 3), 1)
                log_ratio = 0
                for i in range(3, -1, -1):
                    above = torch.cat([*layers[i + 1 :], x[:, :0]], 1)
                    mean, log_variance = module.prior(i, above)
                    p = q = distributions.Normal(mean, (log_variance / 2).exp())
                    if i >= k:
                        mean, log_variance = module.posterior(i, [x], above)
                        q = distributions.Normal(mean, (log_variance / 2).exp())
                        kl = distributions.kl_divergence(q, p).sum(1)
                        found = drawn.divergences[3 - i].sum(1).float()
                        torch.testing.assert_close(found, kl, rtol=1e-4, atol=1e-5)
                    noise = point.split((2, 1, 2, 3))[i]
                    torch.testing.assert_close(layers[i], q.loc + q.scale * noise)
                    log_ratio = log_ratio + (p.log_prob(layers[i]) - q.log_prob(layers[i])).sum(1)
                assert len(drawn.divergences) == 4 - k
                torch.testing.assert_close(drawn.log_ratio.float(), log_ratio, rtol=1e-4, atol=1e-4)

    def test_lower_layers_are_not_inferred(self):
        X, settings = data_of("four layers")
        vae = make_vae(**settings).fit(X)
        above, full = vae.score_above(X, 2), vae.score_samples(X)
        with torch.no_grad():
            for posterior in vae.module_.posteriors[:2]:
                posterior[-1].bias += 1
        np.testing.assert_array_equal(vae.score_above(X, 2), above)
        assert (vae.score_samples(X) != full).all()


class TestTraining:
    def test_loss_with_warm_up_and_free_nats(self):
        X, settings = data_of("rows")
        vae = make_vae(**settings, n_warmup_steps=10, free_nats=0.7).fit(X)
        module, x = vae.module_, vae._tensor(X, torch.device("cpu"))
        assert module.n_steps == 3
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(7)
            found = vae._log_prob(module.train(), x, None)
            torch.manual_seed(7)
            drawn = descend(module, [x], torch.randn(30, 6))
            log_likelihood = vae._log_likelihood(module, x, module.decode(drawn.state))
        layers = [terms.sum(1).numpy() for terms in drawn.divergences]
        free = np.maximum(layers, 0.7).sum(0)
        np.testing.assert_allclose(found, log_likelihood.numpy() - 0.4 * free, rtol=1e-6)

    def test_validation_loss_is_the_elbo_without_them(self):
        X = np.repeat(data_of("grey")[0][:1], 20, axis=0)
        vae = make_vae(validation_fraction=0.5, bound="elbo", n_importance_samples=10).fit(X)
        best = min(vae.history_["validation_loss"])
        assert best == pytest.approx(-vae.score(X), rel=1e-6)

    @every_variant
    def test_moves_every_parameter(self, variant):
        X, settings = data_of(variant)
        settings = {**settings, "max_steps": 12, "validation_fraction": 0, "free_nats": 0.0}
        trained = make_vae(**settings).fit(X).module_
        before = dict(make_vae(**settings, learning_rate=1e-12).fit(X).module_.named_parameters())
        for name, parameter in trained.named_parameters():
            assert (parameter - before[name]).abs().max() > 1e-3, name

    @every_variant
    def test_lowers_bits_per_dim(self, variant):
        X, settings = data_of(variant)
        # Every other item is the first one, which a model can learn.
        X = X.round()
        X[::2] = X[0]
        settings = {**settings, "batch_size": 30, "validation_fraction": 0}
        trained = make_vae(**settings, max_steps=120, n_warmup_steps=20).fit(X)
        untrained = make_vae(**settings, max_steps=1, learning_rate=1e-12).fit(X)
        assert trained.bits_per_dim(X).mean() < untrained.bits_per_dim(X).mean() - 0.1

    @pytest.mark.parametrize("step", [0, 4])
    def test_interrupted_resumes_to_the_same_weights(self, monkeypatch, tmp_path, step):
        X, settings = data_of("grey")
        settings = {**settings, "mutation_rate": 0.3, "max_steps": 9, "batch_size": 9}
        expected = make_vae(**settings).fit(X)
        vae = make_vae(**settings, checkpoint_dir=tmp_path)
        original, calls = HierarchicalVAE._mutate, iter(range(100))

        def interrupt(self, *args):
            if next(calls) == step:
                raise KeyboardInterrupt
            return original(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(HierarchicalVAE, "_mutate", interrupt)
            with pytest.warns(UserWarning, match=f"was interrupted after {step} of"):
                vae.fit(X)
        vae.fit(X)
        for name, weights in expected.module_.state_dict().items():
            assert torch.equal(vae.module_.state_dict()[name], weights), name
        assert vae.history_ == expected.history_


@every_variant
def test_score_belongs_to_the_item(variant):
    X, settings = data_of(variant)
    X = np.concatenate([X, X[::-1] ** 2])
    vae = make_vae(**settings).fit(X)
    order = np.random.default_rng(1).permutation(60)
    for function in (vae.score_samples, lambda Z: vae.score_above(Z, 1), vae.transform):
        values = function(X)
        assert values.dtype == np.float64
        close = {"rtol": 1e-6, "atol": 1e-6}
        np.testing.assert_allclose(function(X[order]), values[order], **close)
        parts = [function(X[i : i + 33]) for i in range(0, 60, 33)]
        np.testing.assert_allclose(np.concatenate(parts), values, **close)


@every_variant
def test_transform_gives_the_means_downwards(variant):
    X, settings = data_of(variant)
    vae = make_vae(**settings).fit(X)
    latents = vae.transform(X)
    module = vae.module_
    assert latents.shape == (30, vae.n_latent) == (30, sum(module.n_latents))
    assert len(vae.get_feature_names_out()) == vae.n_latent
    expected, divergences = [], []
    with torch.no_grad():
        items = vae._open(X, reset=False).take(np.arange(30))
        features = module.features(vae._versions(vae._tensor(items, torch.device("cpu")))[0])
        state = module.start(30)
        for layer in reversed(range(len(vae.n_latents))):
            mean, log_variance = module.posterior(layer, features, state)
            q = distributions.Normal(mean, (log_variance / 2).exp())
            p_mean, p_log_variance = module.prior(layer, state)
            p = distributions.Normal(p_mean, (p_log_variance / 2).exp())
            expected.insert(0, mean.flatten(1))
            divergences.insert(0, distributions.kl_divergence(q, p).flatten(1))
            state = module.joined(layer, state, mean)
    np.testing.assert_allclose(latents, torch.cat(expected, 1), rtol=1e-5, atol=1e-5)
    found = vae.latent_divergences(X)
    np.testing.assert_allclose(found, torch.cat(divergences, 1), rtol=1e-4, atol=1e-5)


class TestSamples:
    def test_follow_the_law_of_the_model(self):
        model = LinearGaussian()
        vae = model.exact()
        drawn = (vae.sample(4000, random_state=0) - vae.mean_) / vae.scale_
        mean, cov = model.mean[2:], model.cov[2:, 2:]
        for feature in range(3):
            law = ((drawn[:, feature] - mean[feature]) / np.sqrt(cov[feature, feature])).ravel()
            assert kstest(law, "norm").pvalue > 1e-3
        np.testing.assert_allclose(np.cov(drawn.T), cov, atol=0.15)

    @every_variant
    def test_are_decided_by_random_state(self, variant):
        X, settings = data_of(variant)
        vae = make_vae(**settings).fit(X)
        drawn = vae.sample(3, random_state=0)
        assert drawn.shape == (3, *vae.input_shape_)
        np.testing.assert_array_equal(vae.sample(3, random_state=0), drawn)
        assert (vae.sample(3, random_state=1) != drawn).any()


class TestBadInput:
    @pytest.mark.parametrize("n_latents", [(), (3,), (3, 0), (3, 1.5)])
    def test_layers(self, n_latents):
        with pytest.raises(ValueError, match="for two layers or more; VAE has one"):
            make_vae(n_latents=n_latents).fit(np.eye(4))

    @pytest.mark.parametrize("n_spatial_layers", [2, 3])
    def test_layers_of_maps(self, n_spatial_layers):
        X, _ = data_of("grey")
        with pytest.raises(ValueError, match="fewer layers of maps than layers, and a convolution"):
            make_vae(n_spatial_layers=n_spatial_layers).fit(X)
        with pytest.raises(ValueError, match=r"X has rows; expected images, or image_shape=\(C"):
            make_vae(n_spatial_layers=n_spatial_layers).fit(np.eye(4))

    def test_binarized_levels(self):
        X, _ = data_of("grey")
        with pytest.raises(ValueError, match="with likelihood='auto'; expected likelihood='bern"):
            make_vae(binarize="dynamic").fit(X)

    def test_lower_latents(self):
        X, _ = data_of("rows")
        with pytest.raises(ValueError, match="'mean'; expected 'mode' or 'sample'"):
            make_vae().fit(X).score_above(X, 1, lower_latents="mean")

    @pytest.mark.parametrize("k", [-1, 3])
    def test_k(self, k):
        X, _ = data_of("rows")
        with pytest.raises(ValueError, match=f"k={k}; expected 0 to 2, so that at least one of"):
            make_vae().fit(X).score_above(X, k)
