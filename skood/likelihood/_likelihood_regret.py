"""Gain of a VAE's bound from encoding an item in the best way."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skood._data.checked_data import CheckedData
from skood._estimator.methods import check_provides
from skood._estimator.parameters import POSITIVE, StrOptions, at_least, estimator, parameter
from skood.density import VAE
from skood.density._evidence import normal_points
from skood.likelihood._base import DensityDetector

__all__ = ["LikelihoodRegret"]

_LEARNING_RATE = {"encoder": 1e-3, "latents": 0.05}


@estimator
class LikelihoodRegret(DensityDetector):
    r"""Detector on a VAE: the regret of its encoder at an item.

    The encoder has learned to encode training data. For an item of another kind, a distribution of
    the latents that is far better than the encoder's q(z | x) may exist, even if the decoder makes
    the item as likely as training data. The score is minus the regret [1]_,

    .. math:: L(x; \theta, \phi) - \max_{\tau} L(x; \theta, \tau)

    with L the evidence lower bound, and :math:`\theta` and :math:`\phi` the trained decoder and
    encoder. Steps of Adam, which start from :math:`\phi`, search the maximum for each item.

    Parameters
    ----------
    density : estimator, default=None
        A :class:`~skood.density.VAE` that is not conditional; one in
        :class:`sklearn.frozen.FrozenEstimator` is not trained again. None takes a VAE with default
        parameters.
    optimize : {"latents", "encoder"}, default="latents"
        Maximise over the mean and variance of the item's latents, or, as in [1]_, over all
        parameters of a copy of the encoder for each item. Both detect OOD sets [1]_; "latents"
        saves the passes and the copies of the encoder.
    n_steps : int, default=100
        Steps of Adam.
    learning_rate : float or None, default=None
        Learning rate of Adam. None is 0.05 for "latents", in units of their prior's standard
        deviation, and 0.001 for "encoder".
    n_draws : int, default=1
        Draws of the latents for each item and step; each costs a pass of the decoder and its
        gradient.
    n_points : int, default=32
        Points at which both bounds are evaluated; a power of 2.

    Notes
    -----
    In [1]_, items are optimised one by one. Here all items of a batch take their steps together,
    each with its own parameters. Draws are the same for every item, so that a score belongs to the
    item, and differ from the points at which the bounds are evaluated. A regret is at least 0:
    where no step helps, the encoder's own distribution is the best.

    References
    ----------
    .. [1] Z. Xiao, Q. Yan, Y. Amit, "Likelihood Regret: An Out-of-Distribution Detection Score for
       Variational Auto-encoder", NeurIPS 2020, equations 4 and 5.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import VAE, LikelihoodRegret
    >>> X = load_iris().data
    >>> vae = VAE(2, max_epochs=5, random_state=0)
    >>> scores = LikelihoodRegret(vae, n_steps=10).fit(X).score_samples(X)
    >>> scores.shape, bool(scores.max() <= 0)
    ((150,), True)
    """

    optimize: str = parameter(StrOptions({"latents", "encoder"}), default="latents", kw_only=True)
    n_steps: int = parameter(at_least(1), default=100, kw_only=True)
    learning_rate: float | None = parameter(POSITIVE, None, default=None, kw_only=True)
    n_draws: int = parameter(at_least(1), default=1, kw_only=True)
    n_points: int = parameter(at_least(1), default=32, kw_only=True)

    def _default_density(self, data: CheckedData) -> VAE:
        return VAE()

    def _check_density(self, density: Any) -> None:
        message = (
            f"density={density!r} has no encoder of p(x) whose regret could be measured; "
            "expected a VAE that is not conditional"
        )
        if getattr(density, "conditional", False):
            raise ValueError(message)
        check_provides(density, "elbo", message=message)

    def _score_samples(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return self.density_.map(data, self._regret, doing="regrets")

    @torch.enable_grad()
    def _regret(self, network: nn.Module, x: Tensor) -> Tensor:
        """Minus the regret of each item, (b,)."""
        n_latent = self.density_.n_latent
        points = normal_points(self.n_points, n_latent).to(x.device)
        # The Sobol points that follow the ones at which bounds are evaluated.
        draws = normal_points(self.n_points + self.n_steps * self.n_draws, n_latent)
        draws = draws[self.n_points :].view(self.n_steps, self.n_draws, n_latent).to(x.device)

        def bound(posterior: tuple[Tensor, Tensor], points: Tensor) -> Tensor:
            mean, log_variance = posterior
            return self.density_.elbo(network, x, mean, log_variance, points)

        with torch.no_grad():
            before = bound(network.encode(x, None), points)
        own: nn.Module
        if self.optimize == "latents":
            own = _LatentsOfItems(network, x)
        else:
            own = _EncoderOfItems(network, x)
        rate = self.learning_rate or _LEARNING_RATE[self.optimize]
        optimizer = torch.optim.Adam(own.parameters(), lr=rate)
        for drawn in draws:
            # The sum has the gradient of each item's bound with respect to its own parameters.
            loss = -bound(own(x), drawn).sum()
            parameters = list(own.parameters())
            for weight, gradient in zip(
                parameters, torch.autograd.grad(loss, parameters), strict=True
            ):
                weight.grad = gradient
            optimizer.step()
        with torch.no_grad():
            return before - torch.maximum(before, bound(own(x), points))


class _LatentsOfItems(nn.Module):
    """Mean and log-variance of each item's latents."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            mean, log_variance = network.encode(x, None)
        self.mean, self.log_variance = nn.Parameter(mean), nn.Parameter(log_variance)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean, self.log_variance


class _EncoderOfItems(nn.Module):
    """An encoder for each item."""

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        # In a list, so that its parameters are not parameters of this module.
        self._encoder = [_Encoder(network)]
        weights = {
            name: weight
            for name, weight in self._encoder[0].named_parameters()
            if name.startswith(("network.convolutions.", "network.encoder."))
        }
        self._names = list(weights)
        self.copies = nn.ParameterList(
            weight.detach().expand(len(x), *weight.shape).clone() for weight in weights.values()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def encode(copies: list[Tensor], item: Tensor) -> tuple[Tensor, Tensor]:
            own = dict(zip(self._names, copies, strict=True))
            mean, log_variance = torch.func.functional_call(self._encoder[0], own, (item[None],))
            return mean[0], log_variance[0]

        return torch.func.vmap(encode)(list(self.copies), x)


class _Encoder(nn.Module):
    """The encoder of a network as the forward pass of a module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.encode(x, None)
