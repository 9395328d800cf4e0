"""Draws off and on the manifold of a fitted VAE, as tensors and in the units of X."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skood._data.checked_data import CheckedData
from skood._data.chunks import row_slices
from skood._progress import tracked
from skood._torch.batching import scoring_batch_size
from skood._torch.seeding import Stream, torch_rng
from skood.density._generator import Generator
from skood.training_time._directions import DIRECTIONS, move_off_manifold
from skood.training_time._ellipsoids import draw_outside

__all__ = ["BoundaryDraws"]


@dataclass(frozen=True)
class BoundaryDraws:
    r"""Draws of a fitted :class:`BoundarySampler`.

    A class index is a position in ``classes_`` of the sampler, x is the VAE's input, and results in
    the units of X have the shape of X, and the dtype float32 or, for X of float64, float64.

    Parameters
    ----------
    model : Generator
        The VAE.
    vae_class_indices : ndarray of shape (n_classes,) or None
        Class index of the VAE for each class; None if the VAE is unconditional.
    means, cholesky, radii : ndarray
        Ellipsoid of each class, as fitted by the sampler.
    radius : (float, float)
        Smallest and largest distance on the manifold, as multiples of `radii`.
    distance : (float, float)
        Smallest and largest distance off the manifold.
    directions : str
        Key of ``DIRECTIONS``.
    input_shape : tuple of int
        Shape of an item of X.
    verbose : {"auto"}, bool or int
    """

    model: Generator
    vae_class_indices: npt.NDArray[np.integer] | None
    means: npt.NDArray[np.float64]
    cholesky: npt.NDArray[np.float64]
    radii: npt.NDArray[np.float64]
    radius: tuple[float, float]
    distance: tuple[float, float]
    directions: str
    input_shape: tuple[int, ...]
    verbose: bool | int | str

    def off_manifold(
        self, x: Tensor, class_indices: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        r"""Move each x off the manifold, shape (b, \*item_shape).

        Parameters
        ----------
        x : Tensor of shape (b, \*item_shape)
        class_indices : Tensor of shape (b,) or None
            None takes the most probable classes if the VAE is conditional.
        generator : torch.Generator
            On the device of x.
        """
        with torch.no_grad():
            return self._move(x, self._of_vae(class_indices), generator)

    def off_manifold_in_units_of_x(
        self, data: CheckedData, class_indices: npt.NDArray[np.integer] | None, seed: int
    ) -> npt.NDArray:
        """Move each item of X, or each item in the shape of the VAE's items, off the manifold."""
        return self.moved(data, self._of_vae(class_indices), seed)

    def moved(self, data: CheckedData, vae_class_indices: Tensor | None, seed: int) -> npt.NDArray:
        """Move each item off the manifold, by class indices of the VAE, in the units of X."""
        model, n = self.model, len(data)
        data = model.open(data)
        generator = torch_rng(model.device, seed, Stream.OFF_MANIFOLD)
        dtype = np.float64 if model.dtype == torch.float64 else np.float32
        moved = np.empty((n, *self.input_shape), dtype)
        parts = tracked(
            list(row_slices(n, scoring_batch_size(model.device, data.item_shape))),
            description="moving items off the manifold",
            unit="batch",
            verbose=self.verbose,
        )
        for part in parts:
            rows = np.arange(part.start, part.stop)
            of_part = None if vae_class_indices is None else vae_class_indices[part]
            with torch.no_grad():
                x = self._move(model.tensor(data.take(rows)), of_part, generator)
                moved[part] = model.to_units_of_x(x).cpu().numpy()
        if not np.isfinite(moved).all():
            raise ValueError(
                "X has values that are too large for the VAE to compute with in float32; rescale "
                "X, with scikit-learn's StandardScaler for instance"
            )
        return moved

    def _move(
        self, x: Tensor, vae_class_indices: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        draw_direction = DIRECTIONS[self.directions]
        return move_off_manifold(
            self.model, x, vae_class_indices, draw_direction, self.distance, generator
        )

    def on_manifold(self, class_indices: Tensor, generator: torch.Generator) -> Tensor:
        r"""Decode latents outside the ellipsoids, shape (b, \*item_shape), on the VAE's device.

        Parameters
        ----------
        class_indices : Tensor of shape (b,)
        generator : torch.Generator
            On any device.
        """
        z = self.latents(class_indices, generator).float().to(self.model.device)
        with torch.no_grad():
            return self.model.decode(z, self._of_vae(class_indices))

    def on_manifold_in_units_of_x(
        self, class_indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return samples as `on_manifold` does, in the units of X."""
        return self.model.to_units_of_x(self.on_manifold(class_indices, generator))

    def latents(self, class_indices: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a latent outside the ellipsoid of each class, on the device of `generator`."""
        device = generator.device
        mean, cholesky, radius = (
            torch.as_tensor(of_classes, device=device)[class_indices.to(device)]
            for of_classes in (self.means, self.cholesky, self.radii)
        )
        return draw_outside(mean, cholesky, radius, self.radius, generator)

    def reconstruct_in_units_of_x(self, items: npt.NDArray, class_indices: Tensor) -> Tensor:
        """Reconstruct items that are in the units of X; the result is on the VAE's device."""
        x = self.model.tensor(items.reshape(-1, *self.model.item_shape))
        with torch.no_grad():
            z, encoded = self.model.encode(x, self._of_vae(class_indices))
            return self.model.to_units_of_x(self.model.decode(z, encoded))

    def _of_vae(self, class_indices: Any) -> Tensor | None:
        """Convert to class indices of the VAE, which may have been fitted to more classes."""
        if class_indices is None or self.vae_class_indices is None:
            return None
        of_vae = torch.as_tensor(self.vae_class_indices, device=self.model.device)
        return of_vae[torch.as_tensor(class_indices, device=self.model.device)]
