"""Detectors that compare image vectors with the vectors of class names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skood import functional as F
from skood._data.checked_data import CheckedData
from skood._data.labels import check_labels, is_outlier
from skood._estimator.parameters import POSITIVE, HasMethods, estimator, fit_context, parameter
from skood._torch.seeding import draw_seed
from skood.classifiers import PretrainedClassifier
from skood.classifiers._outputs import Outputs
from skood.posthoc._base import in_float64
from skood.posthoc._outputs_detector import FeatureDetector
from skood.posthoc._outputs_score import reads_chunks
from skood.posthoc._texts import (
    check_not_repeated,
    check_template,
    read_texts,
    unit_vectors,
    vectors_of,
)

__all__ = ["MCM", "ConceptDetector"]


@estimator
class ConceptDetector(FeatureDetector):
    """Base of the detectors on a pair of towers, for images and for texts, as CLIP has them.

    A subclass implements ``_score(outputs)``, which reads ``self._cosines(outputs)``, and may
    extend ``_learn_texts(seed)``. Nothing is learned from images but the threshold.

    Parameters
    ----------
    class_texts : list of str, str, PathLike or array-like of shape (n_classes, d)
        Names of the in-distribution classes, the path of a text file with a name on each line, or
        the vectors of their texts.
    features : transformer or Module, default=None
        Image tower: any transformer, or a trained torch module in
        :class:`~skood.classifiers.FeatureExtractor`. A tower in
        :class:`sklearn.frozen.FrozenEstimator` is not trained. None: the rows of X are image
        vectors.
    text_features : transformer, default=None
        Text tower: a transformer of lists of texts, trained together with the image tower. The
        detector does not train it; give a trained tower in
        :class:`sklearn.frozen.FrozenEstimator`. None: all texts are given as vectors.
    template : str or list of str, default="a photo of a {}"
        Prompt that a class name is filled into. The vector of a name is the mean of the vectors of
        its prompts.
    classes : array-like of shape (n_classes,), default=None
        Labels of the classes, in the order of `class_texts`. None: the names, or 0, 1, ... for
        vectors.
    temperature : float, default=1.0
        Temperature T of the softmax, in units of the cosine; also of `predict_proba`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the class probabilities.
    text_embeddings_ : ndarray of shape (n_classes, d)
        Vectors of the classes, of length 1.
    """

    class_texts: Any = parameter(object)
    features: Any = parameter(HasMethods(["fit", "transform"]), None, default=None, kw_only=True)
    text_features: Any = parameter(HasMethods(["transform"]), None, default=None, kw_only=True)
    template: str | list[str] = parameter(str, list, tuple, default="a photo of a {}", kw_only=True)
    classes: Any = parameter("array-like", None, default=None, kw_only=True)
    temperature: float = parameter(POSITIVE, default=1.0, kw_only=True)

    @property
    def classes_(self) -> npt.NDArray:
        """Labels, in the order of the class probabilities."""
        return self._classes

    @property
    def _has_classes(self) -> bool:
        return True

    @property
    def _is_multilabel(self) -> bool:
        return False

    def _models_given(self) -> list[Any]:
        # The text tower does not read X.
        return [self.features] if hasattr(self.features, "fit") else []

    def _fitted_features(self, inliers: CheckedData, y: npt.NDArray | None, seed: int) -> Any:
        model = self.features
        model = model.estimator if isinstance(model, FrozenEstimator) else model
        if isinstance(model, PretrainedClassifier) and model.features_from is None:
            name = type(model.module).__name__
            raise ValueError(
                f"features={name}(...) would be read at the input of its last layer, as a "
                "classifier is, but the vectors of an image tower are its output; give "
                f"FeatureExtractor({name}(...)), or name the layer of the vectors with "
                "PretrainedClassifier(module, features_from=...)"
            )
        return super()._fitted_features(inliers, y, seed)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        towers = (
            model.estimator if isinstance(model, FrozenEstimator) else model
            for model in (self.features, self.text_features)
        )
        of_images, of_texts = (getattr(tower, "space", None) for tower in towers)
        if of_images is not None and of_texts is not None and of_images != of_texts:
            raise ValueError(
                f"features is the image tower of {of_images}, but text_features the text tower of "
                f"{of_texts}; give the two towers of one pair, as skood.embeddings.clip_pair "
                "returns them, or set space= of both to one name if their spaces are the same"
            )

    @fit_context(prefer_skip_nested_validation=False)
    def fit_texts(self) -> ConceptDetector:
        """Learn from the texts alone, without images.

        The detector then scores image vectors with :meth:`score_outputs`. It has no threshold:
        texts do not determine which fraction of in-distribution images a threshold rejects. `fit`
        and :meth:`fit_outputs` also set the threshold, on in-distribution images.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If texts or their vectors are invalid.
        """
        for name in [name for name in vars(self) if name.endswith("_")]:
            del self.__dict__[name]
        self._check_parameters()
        self._learn_texts(draw_seed(self.random_state))
        self._n_columns = {"features": self.text_embeddings_.shape[1]}
        return self

    def _learn_texts(self, seed: int) -> None:
        """Compute what the score reads of the texts."""
        self._classes = self._labels(read_texts(self.class_texts, "class_texts"))
        self.text_embeddings_ = self._encode(self.class_texts, "class_texts")

    def _labels(self, texts: list[str] | npt.NDArray) -> npt.NDArray:
        if isinstance(texts, list):
            check_not_repeated(texts, "class_texts")
        if self.classes is None:
            return np.array(texts) if isinstance(texts, list) else np.arange(len(texts))
        labels = check_labels(self.classes, len(texts), name="classes", items="class_texts")
        check_not_repeated(labels.tolist(), "classes")
        if is_outlier(labels).any():
            raise ValueError("classes holds -1, which marks OOD rows; give the class another label")
        return labels

    def _template_of(self, name: str) -> tuple[Any, str]:
        """Return the template for the words of a parameter, and the name of the template."""
        return self.template, "template"

    def _encode(self, texts: Any, name: str) -> npt.NDArray[np.float64]:
        """Return vectors of length 1: of words in their template, or the given vectors."""
        texts = read_texts(texts, name)
        if isinstance(texts, list):
            templates = check_template(*self._template_of(name))
            texts = vectors_of(texts, templates, self.text_features, name, self.memory)
        return unit_vectors(texts, name)

    def _indices_of(self, y: npt.NDArray | None, outputs: Outputs) -> npt.NDArray[np.int64]:
        """Check that labels are labels of the classes; nothing is learned from them."""
        if y is not None:
            known = self._labels(read_texts(self.class_texts, "class_texts")).tolist()
            given = np.unique(y).tolist()
            if not set(known) & set(given):
                raise ValueError(
                    f"y has the labels {given[:5]}, but the classes are {known[:5]}; give the "
                    f"labels of the classes in their order, {type(self).__name__}(..., "
                    "classes=...), or no y"
                )
        return np.zeros(len(outputs), dtype=np.int64)

    @reads_chunks
    def _learn(self, outputs: Outputs, class_indices: npt.NDArray[np.int64], seed: int) -> None:
        self._learn_texts(seed)
        width, expected = outputs.features.shape[1], self.text_embeddings_.shape[1]
        if width != expected:
            raise ValueError(
                f"image vectors have {width} values, but the vectors of class_texts {expected}; "
                "give images and texts through the two towers of one pair (towers of CLIP end in "
                "a projection to a common space)"
            )

    def _cosines(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        """Return the cosines of image vectors with the classes, shape (n, n_classes)."""
        return self._directions(outputs) @ self.text_embeddings_.T

    def _directions(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return unit_vectors(outputs.features, "the images", numbered=False)

    def _proba(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return np.exp(F.log_softmax(self._cosines(outputs), self.temperature))

    def _class_proba(self, data: CheckedData) -> npt.NDArray[np.float64]:
        return in_float64(self._proba, self._outputs(data))

    def _scores_and_class_proba(
        self, data: CheckedData
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        outputs = self._outputs(data)
        return in_float64(self._score, outputs), in_float64(self._proba, outputs)

    def _check(self, X: Any, *, reset: bool = False) -> CheckedData:
        if not reset and not hasattr(self, "input_shape_") and "offset_" not in vars(self):
            raise NotFittedError(
                f"this {type(self).__name__} was fitted by fit_texts on texts alone; score image "
                "vectors with score_outputs(features=vectors), or call fit(X) with "
                "in-distribution images, which also sets the threshold"
            )
        return super()._check(X, reset=reset)


@estimator
class MCM(ConceptDetector):
    r"""Maximum concept matching: the largest softmax probability of image-text cosines.

    .. math::

        S = \max_k \frac{\exp(\cos(z, t_k) / T)}{\sum_j \exp(\cos(z, t_j) / T)}

    z is the vector of an image and :math:`t_k` the vector of a class name. ``score_samples``
    returns the log-odds :math:`\log S - \log(1 - S)` in nats: S is rounded to 1 for many images if
    T is small, the log-odds keep their order. ``scipy.special.expit`` converts them to S.

    Raises
    ------
    ValueError
        In `fit`, if there is one class, because S is then 1 for every image; if a class name is
        repeated, or a vector is 0 or not finite; or if image vectors and text vectors differ in
        width. Vectors of equal width that do not come from one pair of towers cannot be recognised.

    See Also
    --------
    NegLabel : Compares the classes with words that are none of them.
    skood.functional.mcm : The probability S.

    Notes
    -----
    The paper and the released code have T = 1. The prompt is "this is a photo of a ..." in the
    paper, and "a photo of a ..." in the released code and here.

    References
    ----------
    .. [1] Y. Ming, Z. Cai, J. Gu, Y. Sun, W. Li, Y. Li, "Delving into Out-of-Distribution Detection
       with Vision-Language Representations", NeurIPS 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from skood import MCM
    >>> texts = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> images = np.array([[0.9, 0.1, 0.2], [0.2, 0.8, 0.1], [0.8, 0.0, 0.3]])
    >>> detector = MCM(texts, classes=["cat", "dog"]).fit(images)
    >>> detector.predict_class([[0.9, 0.2, 0.1], [0.5, 0.5, 0.9]])
    array(['cat', '-1'], dtype='<U3')
    """

    def _learn_texts(self, seed: int) -> None:
        super()._learn_texts(seed)
        if len(self.classes_) < 2:
            raise ValueError(
                "class_texts has one class, and the softmax over one class is 1 for every image; "
                "give at least 2 classes, or use NegLabel"
            )

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        return F.mcm_log_odds(self._cosines(outputs), self.temperature)
