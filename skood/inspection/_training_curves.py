"""Training curves over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skood.inspection._figures import axes
from skood.inspection._palette import COLOURS

__all__ = ["TrainingCurvesDisplay"]

_VALIDATION = "validation_"


class TrainingCurvesDisplay:
    """Losses and other figures of a training by epoch.

    Curves of a figure on training rows and on held-out rows have one colour; the latter is dashed.

    Use :meth:`from_estimator` or :meth:`from_history` to make one.

    Parameters
    ----------
    history : dict of str to list of float
        Values of each epoch by name; names of values on held-out rows begin with ``validation_``.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    lines_ : dict of str to matplotlib Line2D
        Curves by name.
    legend_ : matplotlib Legend or None
        None without a legend.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skood import NeuralSplineFlow
    >>> from skood.inspection import TrainingCurvesDisplay
    >>> flow = NeuralSplineFlow(max_epochs=3, random_state=0).fit(load_iris().data)
    >>> sorted(TrainingCurvesDisplay.from_estimator(flow).lines_)
    ['loss', 'validation_loss']
    """

    def __init__(self, history: Mapping[str, Sequence[float]]) -> None:
        self.history = history

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        names: Sequence[str] | None = None,
        *,
        ax: Any = None,
        **plot_params: Any,
    ) -> TrainingCurvesDisplay:
        """Draw the ``history_`` of a fitted model.

        Parameters
        ----------
        estimator : estimator
            Fitted, with ``history_``: a density, a classifier or a detector that trains its own.
        names : list of str, default=None
            Curves to draw, without ``validation_``. None draws the curves whose names end in
            "loss" or, if there are none, all.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        TrainingCurvesDisplay

        Raises
        ------
        TypeError
            When `estimator` has no ``history_``.
        ValueError
            When the history does not have a name.
        """
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        check_is_fitted(estimator)
        if not hasattr(estimator, "history_"):
            raise TypeError(
                f"{type(estimator).__name__} has no history_; expected a density, a classifier or "
                "a detector that trains its own network, or give a detector's model: its density_, "
                "classifier_ or backbone_"
            )
        return cls.from_history(estimator.history_, names, ax=ax, **plot_params)

    @classmethod
    def from_history(
        cls,
        history: Mapping[str, Sequence[float]],
        names: Sequence[str] | None = None,
        *,
        ax: Any = None,
        **plot_params: Any,
    ) -> TrainingCurvesDisplay:
        """Draw values of each epoch.

        Parameters
        ----------
        history : dict of str to list of float
            Values of each epoch by name; names of values on held-out rows begin with
            ``validation_``.
        names : list of str, default=None
            As in :meth:`from_estimator`.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **plot_params : dict
            Passed to :meth:`plot`.

        Returns
        -------
        TrainingCurvesDisplay
        """
        known = list(dict.fromkeys(name.removeprefix(_VALIDATION) for name in history))
        if names is None:
            names = [name for name in known if name.endswith("loss")] or known
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ValueError(f"the history has no {unknown or 'curves'}; it has {known}")
        kept = {
            name: values
            for name, values in history.items()
            if name.removeprefix(_VALIDATION) in names
        }
        return cls(kept).plot(ax=ax, **plot_params)

    def plot(
        self, *, ax: Any = None, title: str | None = None, legend: bool = True
    ) -> TrainingCurvesDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        title : str, default=None
            Title of the axes.
        legend : bool, default=True
            Whether to name the curves.

        Returns
        -------
        TrainingCurvesDisplay
            The display.
        """
        ax = axes(ax, (6, 4))
        from matplotlib.ticker import MaxNLocator

        names = list(dict.fromkeys(name.removeprefix(_VALIDATION) for name in self.history))
        self.lines_ = {}
        for name, values in self.history.items():
            held_out = name.startswith(_VALIDATION)
            (self.lines_[name],) = ax.plot(
                range(1, len(values) + 1),
                values,
                color=COLOURS[names.index(name.removeprefix(_VALIDATION)) % len(COLOURS)],
                linestyle="--" if held_out else "-",
                marker="." if len(values) < 20 else None,
                label=name.replace("_", " "),
            )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="epoch", title=title)
        self.legend_ = ax.legend(frameon=False) if legend else None
        self.ax_, self.figure_ = ax, ax.figure
        return self
