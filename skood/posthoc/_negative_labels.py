"""Detectors that compare the class names with words that name other things."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import numpy.typing as npt

from skood import functional as F
from skood._data.chunks import row_slices
from skood._estimator.parameters import Interval, at_least, estimator, parameter
from skood._torch.seeding import Stream, numpy_rng
from skood.classifiers._outputs import Outputs
from skood.posthoc._concepts import ConceptDetector
from skood.posthoc._texts import check_template, prompts, read_texts

__all__ = ["CSP", "NegLabel"]

# Candidates that are compared with the classes at once.
_CHUNK = 4096
# Cosine from which two vectors are of the same text.
_SAME = 1 - 1e-6
# Prompts and superclasses of the released code of CSP.
_PROMPTS = {
    "template": (
        "a close-up photo of the nice {}.",
        "a photo with the nice {}.",
        "a good photo with the nice {}.",
        "a photo of the nice {}.",
        "{}",
        "the {}",
        "the good {}",
        "the nice {}",
    ),
    "adjective_template": (
        "{}",
        "a nice photo of {}",
        "a good photo of {}",
        "a close-up photo of {}",
    ),
}
_SUPERCLASSES = tuple(
    f"{{}} {word}"
    for word in (
        *("environment", "space", "object", "scene", "place", "item", "area", "view", "thing"),
        *("pattern", "structure", "landscape", "vista", "creature"),
    )
)


@estimator
class NegLabel(ConceptDetector):
    r"""Share of the class names in a softmax with negative labels.

    .. math::

        S = \frac1G \sum_{g=1}^G \frac{\sum_k \exp(\cos(z, t_k) / T)}
        {\sum_k \exp(\cos(z, t_k) / T) + \sum_{m \in g} \exp(\cos(z, \tilde t_m) / T)}

    z is the vector of an image, :math:`t_k` the vector of a class name, and :math:`\tilde t_m` the
    vector of a negative label. The negative labels are the candidates that are farthest from the
    class names, and are divided at random into G groups of equal size. ``score_samples`` returns
    the log-odds :math:`\log S - \log(1 - S)` in nats: S is rounded to 1 for many images, the
    log-odds keep their order. ``scipy.special.expit`` converts them to S.

    Parameters
    ----------
    candidates : list of str, str, PathLike or array-like of shape (n, d)
        Words that may become negative labels, such as the nouns of WordNet: a list, the path of a
        text file with a word on each line, or the vectors of their texts.
    adjectives : list of str, str, PathLike or array-like of shape (n, d), default=None
        Further candidates, with a template of their own. Negative labels are chosen among them
        separately.
    adjective_template : str or list of str, default="This is a {} photo"
        Prompt that an adjective is filled into.
    n_negatives : int or float, default=0.15
        Number of negative labels to choose from `candidates`, and from `adjectives`; or their
        fraction of the different words.
    percentile : float, default=95.0
        A candidate is as near to the classes as this percentile of its cosines with them.
    max_similarity : float, default=None
        Candidates whose cosine with a class exceeds this are left out. None leaves out the words
        and the vectors of the classes themselves.
    n_groups : int, default=100
        Number G of groups. Negative labels that are left over are not used.

    Attributes
    ----------
    negatives_ : ndarray of shape (n_negatives,)
        Negative labels, in the order of their groups. The rows of an array of vectors are named
        "candidates[3]".
    negative_embeddings_ : ndarray of shape (n_negatives, d)
        Vectors of the negative labels, of length 1.

    Raises
    ------
    ValueError
        In `fit`, if there are fewer candidates than `n_negatives` asks for, or fewer negative
        labels than groups; if a class name is repeated, or a vector is 0 or not finite; or if image
        vectors and text vectors differ in width. Vectors of equal width that do not come from one
        pair of towers cannot be recognised.

    See Also
    --------
    MCM : Needs no other words.
    CSP : Adjectives with nouns such as "place" as further negative labels.
    skood.functional.neglabel : The score S.

    Notes
    -----
    No word list is part of this package, and nothing is downloaded. The authors' list has the nouns
    and adjectives of WordNet in files by topic; they choose 15 % of it, about 10 000 words. Words
    that name OOD classes may be among the candidates, since they are chosen by their distance
    from the class names alone.

    The distance of the paper is the 5th percentile of the negative cosines; the released code has
    the 95th percentile of the cosines, which is the same number. As the code does, this class
    chooses among nouns and adjectives separately. The code keeps candidates that are equal to a
    class name, and with one group it sums similarities without a softmax; this class leaves such
    candidates out, and has the softmax of the paper for any number of groups. The prompt of class
    names and nouns in the code is "the nice {}" (``template="the nice {}"``).

    References
    ----------
    .. [1] X. Jiang, F. Liu, Z. Fang, H. Chen, T. Liu, F. Zheng, B. Han, "Negative Label Guided OOD
       Detection with Pretrained Vision-Language Models", ICLR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from skood import NegLabel
    >>> texts = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> words = np.array([[0.0, 0.2, 1.0], [0.1, 0.0, 1.0], [1.0, 0.1, 0.0]])
    >>> images = np.array([[0.9, 0.1, 0.2], [0.2, 0.8, 0.1], [0.8, 0.0, 0.3]])
    >>> detector = NegLabel(texts, words, n_negatives=2, n_groups=1, classes=["cat", "dog"])
    >>> detector.fit(images).predict_class([[0.9, 0.2, 0.1], [0.1, 0.1, 0.9]])
    array(['cat', '-1'], dtype='<U3')
    >>> sorted(detector.negatives_.tolist())
    ['candidates[0]', 'candidates[1]']
    """

    candidates: Any = parameter(object)
    adjectives: Any = parameter(object, default=None, kw_only=True)
    adjective_template: str | list[str] = parameter(
        str, list, tuple, default="This is a {} photo", kw_only=True
    )
    n_negatives: int | float = parameter(
        at_least(1), Interval(numbers.Real, 0, 1, closed="right"), default=0.15, kw_only=True
    )
    percentile: float = parameter(
        Interval(numbers.Real, 0, 100, closed="both"), default=95.0, kw_only=True
    )
    max_similarity: float | None = parameter(
        Interval(numbers.Real, -1, 1, closed="right"), None, default=None, kw_only=True
    )
    n_groups: int = parameter(at_least(1), default=100, kw_only=True)
    temperature: float = parameter(default=0.01, kw_only=True)

    def _learn_texts(self, seed: int) -> None:
        super()._learn_texts(seed)
        chosen = [self._chosen(self.candidates, "candidates")]
        if self.adjectives is not None:
            chosen.append(self._chosen(self._phrases(seed), "adjectives"))
        names, vectors = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
        if self.n_groups > len(names):
            raise ValueError(
                f"there are {len(names)} negative labels for n_groups={self.n_groups}; give more "
                "candidates, a larger n_negatives, or n_groups=1"
            )
        n_used = len(names) // self.n_groups * self.n_groups
        order = numpy_rng(seed, Stream.NEGATIVE_GROUPS).permutation(n_used)
        self.negatives_, self.negative_embeddings_ = names[order], vectors[order]

    def _phrases(self, seed: int) -> Any:
        """Return the adjectives, or phrases with them."""
        return self.adjectives

    def _template_of(self, name: str) -> tuple[Any, str]:
        if name == "adjectives":
            return self.adjective_template, "adjective_template"
        return super()._template_of(name)

    def _chosen(self, candidates: Any, name: str) -> tuple[npt.NDArray, npt.NDArray[np.float64]]:
        """Return names and vectors of the candidates that are farthest from the classes."""
        texts = read_texts(candidates, name)
        if isinstance(texts, list):
            of_classes = read_texts(self.class_texts, "class_texts")
            known = {text.casefold() for text in of_classes} if isinstance(of_classes, list) else {}
            texts = [text for text in dict.fromkeys(texts) if text.casefold() not in known]
            if not texts:
                raise ValueError(
                    f"{name} has no words apart from the class names; give other words"
                )
            names = np.array(texts)
        else:
            names = np.array([f"{name}[{row}]" for row in range(len(texts))])
        vectors = self._encode(texts, name)
        if vectors.shape[1] != self.text_embeddings_.shape[1]:
            raise ValueError(
                f"the vectors of {name} have {vectors.shape[1]} values, but the vectors of "
                f"class_texts {self.text_embeddings_.shape[1]}; give both through one text tower"
            )
        distance, nearest = self._distances(vectors)
        left = nearest <= (_SAME if self.max_similarity is None else self.max_similarity)
        count = self._count(len(names), int(left.sum()), name)
        # Candidates that are left out come last.
        farthest = np.argsort(np.where(left, -distance, np.inf), kind="stable")[:count]
        return names[farthest], vectors[farthest]

    def _distances(
        self, vectors: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the distance of each candidate, and its largest cosine with a class."""
        distance, nearest = np.empty(len(vectors)), np.empty(len(vectors))
        for rows in row_slices(len(vectors), _CHUNK):
            cosines = vectors[rows] @ self.text_embeddings_.T
            distance[rows] = F.neglabel_distance(cosines, self.percentile)
            nearest[rows] = cosines.max(1)
        return distance, nearest

    def _count(self, n_candidates: int, n_left: int, name: str) -> int:
        """Return how many negative labels to choose of the candidates that are not left out."""
        is_number = isinstance(self.n_negatives, numbers.Integral)
        count = int(self.n_negatives) if is_number else int(self.n_negatives * n_candidates)
        if not is_number:
            count = min(count, n_left)
        if not 0 < count <= n_left:
            raise ValueError(
                f"n_negatives={self.n_negatives} asks for {count} of {n_candidates} {name}, of "
                f"which {n_left} are neither equal to a class nor above max_similarity="
                f"{self.max_similarity}; give more {name}, or another n_negatives or "
                "max_similarity"
            )
        return count

    def _score(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        directions = self._directions(outputs)
        return F.neglabel_log_odds(
            directions @ self.text_embeddings_.T,
            directions @ self.negative_embeddings_.T,
            self.temperature,
            self.n_groups,
        )


@estimator
class CSP(NegLabel):
    r"""Negative labels from a conjugated semantic pool: adjectives with names of superclasses.

    The score is the score of :class:`NegLabel`. Each adjective is combined with a superclass
    that is drawn at random: "wooden" becomes "wooden structure" or "wooden scene". Such phrases
    describe objects of many classes that share a property.

    Parameters
    ----------
    template : str or list of str, default=None
        Prompts that a class name or a noun is filled into. The vector of a word is the mean of the
        vectors of its prompts. None: the 8 prompts of the released code, such as "the nice {}".
    adjectives : list of str, str, PathLike or array-like of shape (n, d), default=None
        Adjectives: a list, the path of a text file with one on each line, or the vectors of the
        finished phrases.
    adjective_template : str or list of str, default=None
        Prompts that a phrase is filled into. None: the 4 prompts of the released code, such as "a
        nice photo of {}".
    superclasses : list of str, default=None
        What an adjective is combined with: texts with {} in the place of the adjective. None: "{}"
        with area, creature, environment, item, landscape, object, pattern, place, scene, space,
        structure, thing, view or vista.

    Raises
    ------
    ValueError
        In `fit`, as in :class:`NegLabel`, and if there are no adjectives.

    Notes
    -----
    The released code draws the superclass of each adjective once, as this class does, and leaves
    out candidates whose cosine with a class exceeds 0.95. It also leaves out the lists of WordNet
    for persons, quantities and groups, and the pertainyms among the adjectives: give the other
    lists. The vector of a word is the mean of its prompts' vectors as the tower returns them, and
    is then scaled to length 1.

    References
    ----------
    .. [1] M. Chen, J. Gao, C. Xu, "Conjugated Semantic Pool Improves OOD Detection with Pre-trained
       Vision-Language Models", NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from skood import CSP
    >>> texts = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> nouns = np.array([[0.0, 0.2, 1.0], [1.0, 0.1, 0.0]])
    >>> phrases = np.array([[0.1, 0.0, 1.0], [0.1, 1.0, 0.2]])
    >>> images = np.array([[0.9, 0.1, 0.2], [0.2, 0.8, 0.1], [0.8, 0.0, 0.3]])
    >>> detector = CSP(texts, nouns, adjectives=phrases, n_negatives=1, n_groups=1).fit(images)
    >>> sorted(detector.negatives_.tolist())
    ['adjectives[0]', 'candidates[0]']
    """

    template: Any = parameter(str, list, tuple, None, default=None, kw_only=True)
    adjective_template: Any = parameter(str, list, tuple, None, default=None, kw_only=True)
    superclasses: list[str] | None = parameter(list, tuple, None, default=None, kw_only=True)
    max_similarity: float | None = parameter(default=0.95, kw_only=True)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.adjectives is None:
            raise ValueError(
                "adjectives is None, and CSP is NegLabel with adjectives; give a list of "
                "adjectives, or use NegLabel"
            )

    def _template_of(self, name: str) -> tuple[Any, str]:
        template, template_name = super()._template_of(name)
        return _PROMPTS[template_name] if template is None else template, template_name

    def _phrases(self, seed: int) -> Any:
        adjectives = read_texts(self.adjectives, "adjectives")
        given = _SUPERCLASSES if self.superclasses is None else self.superclasses
        superclasses = check_template(given, "superclasses")
        if not isinstance(adjectives, list):
            return adjectives
        adjectives = list(dict.fromkeys(adjectives))
        drawn = numpy_rng(seed, Stream.SUPERCLASSES).integers(
            len(superclasses), size=len(adjectives)
        )
        return [
            prompts(adjective, superclasses[k : k + 1])[0]
            for adjective, k in zip(adjectives, drawn.tolist(), strict=True)
        ]
