"""Base of the estimators around a trained module: clones share the module."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator

from skood._estimator.printing import ShownModule, is_printing
from skood._torch.packing import pack, unpack

__all__ = ["SharedModule"]


class SharedModule(BaseEstimator):
    """Base of the estimators whose parameter ``module`` is a trained module.

    `clone` shares the module, and a pickle stores it as arrays. `fit` trains nothing.
    """

    module: Any

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the parameters of estimators inside, as ``name__parameter``.

        Returns
        -------
        dict of str to object
            By name.
        """
        params = super().get_params(deep)
        return {**params, "module": ShownModule(self.module)} if is_printing() else params

    def __sklearn_clone__(self) -> Any:
        return type(self)(**self.get_params(deep=False))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "module": pack(self.module)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "module": unpack(state["module"])})
