"""Uncertainty of the predictions of several networks."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags

from skood._data.checked_data import CheckedData
from skood._estimator.parameters import HasMethods, StrOptions, at_least, estimator, parameter
from skood._models import fit_members, in_chunks
from skood._progress import progress_scope
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers import PretrainedClassifier
from skood.posthoc._models import classifier_outputs, fitted_model, is_multilabel, with_handles
from skood.posthoc._uncertainty import UNCERTAINTIES, Statistic, UncertaintyDetector

__all__ = ["DeepEnsemble"]


@estimator
class DeepEnsemble(UncertaintyDetector):
    r"""Uncertainty of the predictions of several networks, trained with different seeds.

    With the class probabilities :math:`p_1(x), \dots, p_M(x)` of M members, the score is minus the
    entropy of their mean, or minus the mutual information of label and member, which measures their
    disagreement; both in nats:

    .. math::

        H\Big[\frac{1}{M} \sum_m p_m\Big], \qquad
        H\Big[\frac{1}{M} \sum_m p_m\Big] - \frac{1}{M} \sum_m H[p_m] \ge 0, \qquad
        H[p] = -\sum_k p_k \log p_k

    Parameters
    ----------
    classifier : classifier or list, default=None
        A classifier of :mod:`skood.classifiers` or scikit-learn, whose copies are trained. None: a
        convolutional network for images and an MLP for rows. A list gives the members: trained
        torch modules, and classifiers, which are trained unless they are in a
        :class:`sklearn.frozen.FrozenEstimator`.
    n_members : int, default=None
        Number M of members: trained copies, or the first members of a list. None: 5 copies, or the
        whole list. The mutual information needs at least 2.
    score_type : {"entropy", "mutual_information"}, default="entropy"
        "entropy" is also high between classes, where all members are uncertain;
        "mutual_information" is high only where the members differ.
    n_jobs : int or None, default=None
        Number of processes that train members; -1 is one per processor. None is 1, or, in
        ``joblib.parallel_config``, the processes of its backend, such as a Dask cluster. Processes
        of one machine share its cores and its GPU.
    memory : str or joblib.Memory, default=None
        Where each trained member and its outputs on the data are cached by content. With an
        integer `random_state`, a larger ensemble trains only its new members. The folder must be
        trusted, since its files are pickles, which can run code.
    random_state : int, RandomState instance or None, default=None
        Each member gets its own seed, drawn from this one and the member's number. The seed
        replaces each ``random_state`` of a copy of `classifier`, and a ``random_state`` of None in
        a list.

    Attributes
    ----------
    estimators_ : list of classifiers
        The trained members.

    Raises
    ------
    ValueError
        In `fit`, if the members have different classes, or if `classifier` is a single classifier
        that is already trained or has no ``random_state``.

    See Also
    --------
    MCDropout : The same scores of subnetworks of one network.
    skood.calibration.EnsembleDetector : Combines detectors by their p-values.

    Notes
    -----
    As in most uses of the method, members differ only by their initial weights and the order of the
    training data; the adversarial training of [1]_ is omitted. M times the mutual information is
    the disagreement :math:`\sum_m KL(p_m \,\|\, \bar p)` of the members with their mean
    :math:`\bar p`.

    Classifiers with deterministic training, such as `LogisticRegression`, give equal members, with
    a mutual information of 0.

    References
    ----------
    .. [1] B. Lakshminarayanan, A. Pritzel, C. Blundell, "Simple and Scalable Predictive Uncertainty
       Estimation using Deep Ensembles", NeurIPS 2017.
    .. [2] N. Houlsby, F. Huszár, Z. Ghahramani, M. Lengyel, "Bayesian Active Learning for
       Classification and Preference Learning", 2011, arXiv:1112.5745, equation 2, for the mutual
       information.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skood import MLP, DeepEnsemble
    >>> X, y = load_iris(return_X_y=True)
    >>> ensemble = DeepEnsemble(MLP((16,), max_epochs=20), n_members=3, random_state=0).fit(X, y)
    >>> ensemble.predict_class(X[:2])
    array([0, 0])
    >>> members = [FrozenEstimator(member) for member in ensemble.estimators_]
    >>> trained = DeepEnsemble(members, score_type="mutual_information").fit(X)
    >>> bool((trained.score_samples(X) <= 0).all())
    True
    """

    classifier: Any = parameter(HasMethods(["fit", "predict"]), list, None, default=None)
    n_members: int | None = parameter(at_least(1), None, default=None)
    score_type: str = parameter(StrOptions(set(UNCERTAINTIES)), default="entropy")
    n_jobs: int | None = parameter(numbers.Integral, None, default=None, kw_only=True)

    def _fit(
        self, inliers: CheckedData, y: npt.NDArray | None, outliers: CheckedData | None, seed: int
    ) -> None:
        listed = isinstance(self.classifier, list)
        members = self._listed_members() if listed else self._untrained_members(inliers)
        self._check_enough(len(members), "n_members")
        if any(map(is_multilabel, members)):
            raise ValueError(
                "DeepEnsemble is a score of classes that exclude each other, but a member is "
                "multilabel; use Energy (JointEnergy), MSP (largest sigmoid), MaxLogit, or a "
                "detector on features"
            )
        memory, name = self.memory, type(self).__name__

        def fitted(number: int) -> Any:
            member = members[number]
            # The seed depends on the number, so that a larger ensemble has the same first members.
            own_seed = int(numpy_rng(seed, Stream.ENSEMBLE_MEMBERS, number).integers(2**31 - 1))
            with progress_scope(label=f"({number + 1} of {len(members)})"):
                return fitted_model(
                    member if listed else _reseeded(member, own_seed),
                    inliers,
                    y,
                    seed=own_seed,
                    memory=memory,
                    name=name,
                )

        self.estimators_ = []
        for trained in fit_members(fitted, list(map(_is_trained, members)), self.n_jobs):
            self.estimators_.append(trained)
        self._classes = _common_classes(self.estimators_)

    def _untrained_members(self, data: CheckedData) -> list[Any]:
        classifier = self._default_classifier(data) if self.classifier is None else self.classifier
        n_members = 5 if self.n_members is None else self.n_members
        if _is_trained(classifier):
            raise ValueError(
                f"classifier is a {_name_of(classifier)} that is already trained, so its copies "
                "would be equal; give a list of classifiers trained with different seeds, or an "
                "untrained classifier"
            )
        if n_members > 1 and not _names_of_seeds(classifier):
            raise ValueError(
                f"{type(classifier).__name__} has no random_state, so its {n_members} copies would "
                "be equal; give a list of different classifiers, or a classifier with random_state"
            )
        return [classifier] * n_members

    def _listed_members(self) -> list[Any]:
        members = with_handles(self.classifier)
        n_members = len(members) if self.n_members is None else self.n_members
        if not 1 <= n_members <= len(members):
            raise ValueError(
                f"classifier is a list of {len(members)} members, and n_members={self.n_members}; "
                "expected at least one member in the list, and n_members of at most its length"
            )
        for member in members:
            if not HasMethods(["fit", "predict"]).is_satisfied_by(member):
                raise ValueError(
                    f"classifier is a list with {member!r}; expected classifiers, with fit and "
                    "predict, or trained torch modules"
                )
        return members[:n_members]

    @property
    def classes_(self) -> npt.NDArray:
        """Labels, in the order of the class probabilities."""
        return self._classes

    def _reduce(self, statistic: Statistic, data: CheckedData) -> npt.NDArray[np.float64]:
        log_proba = [
            classifier_outputs(member, data, self.memory).log_proba for member in self.estimators_
        ]
        return in_chunks(
            lambda rows: statistic(np.stack([one[rows] for one in log_proba], 1)),
            np.arange(len(data)),
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        members = self.classifier if isinstance(self.classifier, list) else [self.classifier]
        tags.target_tags.required = not all(map(_is_trained, members))
        return tags


def _name_of(classifier: Any) -> str:
    inner = classifier.estimator if isinstance(classifier, FrozenEstimator) else classifier
    return type(inner.module if isinstance(inner, PretrainedClassifier) else inner).__name__


def _is_trained(member: Any) -> bool:
    return isinstance(member, (FrozenEstimator, PretrainedClassifier))


def _names_of_seeds(classifier: Any) -> list[str]:
    """Return the names of all parameters ``random_state``, also of estimators inside."""
    return [name for name in classifier.get_params() if name.split("__")[-1] == "random_state"]


def _reseeded(classifier: Any, seed: int) -> Any:
    return clone(classifier).set_params(**dict.fromkeys(_names_of_seeds(classifier), seed))


def _common_classes(members: list[Any]) -> npt.NDArray:
    """Return the classes, which all members share."""
    known = [np.asarray(member.classes_) for member in members]
    for number, classes in enumerate(known):
        if not np.array_equal(classes, known[0]):
            raise ValueError(
                f"the members have different classes: member 1 {known[0].tolist()[:10]}, member "
                f"{number + 1} {classes.tolist()[:10]}; train all members on the same labels, or "
                "name the classes of a module with PretrainedClassifier(module, classes=...)"
            )
    return known[0]
