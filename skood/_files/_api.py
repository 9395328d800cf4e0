"""Public functions that save and load estimators."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import nn

from skood._files import (
    _arrays,
    _container,
    _estimators,
    _handles,
    _sklearn,
    _sklearn_parts,
    _values,
)
from skood._files._card import Card, make_card
from skood._files._codec import DamagedFile, Reader, Writer, field
from skood._safe_files import UnreadableFileError, whole_file
from skood._torch.device import resolve_device

__all__ = ["inspect_file", "load", "save"]

# The first codec that accepts an object encodes it.
_CODECS = [
    *_values.CODECS,
    *_arrays.CODECS,
    *_handles.CODECS,
    *_estimators.CODECS,
    *_sklearn.CODECS,
    *_sklearn_parts.CODECS,
]
_BY_TAG = {codec.tag: codec for codec in _CODECS}


def save(
    estimator: BaseEstimator, path: str | os.PathLike[str], *, modules: str = "program"
) -> None:
    """Write an estimator, fitted or not, to one file that is safe to load.

    The file holds no code and no pickle: the parameters, the structure and a description as JSON,
    and weights and fitted arrays in the format of safetensors, whose tools can open the file. After
    :func:`load` in the same environment, scores have the same bits. The file is written whole or
    not at all; the same estimator always gives the same bytes.

    Parameters
    ----------
    estimator : estimator
        An estimator of this package, or one of the estimators of scikit-learn that the guide lists,
        with what is inside it. Classes and functions of your own are stored by name, and their
        attributes by value.
    path : str or Path
        A file that exists is replaced.
    modules : {"program", "weights"}, default="program"
        How a network of your own (`PretrainedClassifier`, `FeatureExtractor`) is stored:
        "program" stores the network as a program of torch's operations, which loads without its
        source; "weights" stores parameters and buffers alone, and :func:`load` needs the network.

    Raises
    ------
    TypeError
        If `estimator` is not an estimator.
    ValueError
        If the estimator holds something that a file cannot hold; the message names the attribute.
        If a parameter has a value that the estimator does not take.
    OSError
        If the file cannot be written.

    See Also
    --------
    load : Load the estimator.
    inspect_file : Describe the estimator in a file.

    Notes
    -----
    The parameters ``memory`` and ``checkpoint_dir`` name folders of one machine, and results in
    such folders are pickles: they are None after loading. Layouts of arrays are kept, since the
    order of sums in a product depends on them.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import skood
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> detector = skood.Mahalanobis().fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "detector.skood")
    ...     skood.save(detector, path)
    ...     loaded = skood.load(path)
    >>> loaded
    Mahalanobis()
    >>> bool((loaded.score_samples(X) == detector.score_samples(X)).all())
    True
    """
    if modules not in ("program", "weights"):
        raise ValueError(f'modules={modules!r}; expected "program" or "weights"')
    if not isinstance(estimator, BaseEstimator) or isinstance(estimator, type):
        raise TypeError(f"save takes an estimator, but got {estimator!r:.80}")
    writer = Writer(_CODECS, type(estimator).__name__, modules, estimator)
    tree = writer.node(estimator)
    metadata = {
        "card": json.dumps(make_card(estimator, writer), allow_nan=False),
        "tree": json.dumps(tree, allow_nan=False, separators=(",", ":")),
    }
    with whole_file(path) as file:
        _container.write(file, metadata, writer.arrays)


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    trusted: Iterable[Any] = (),
    modules: Mapping[str, nn.Module] | None = None,
) -> Any:
    """Load an estimator from a file of :func:`save`, without running code from the file.

    The checksum is verified first. Then only estimators of this package, estimators of scikit-learn
    that the guide lists, and the types in `trusted` are made. The checksum finds damage; it is no
    signature: the file may come from anyone, who chooses the scores and the threshold.

    Parameters
    ----------
    path : str or Path
    device : str, torch.device or None, default=None
        Device of the networks: replaces the parameter `device` of every estimator that has it. None
        keeps these parameters, and puts networks of your own on the CPU.
    trusted : iterable of type, function or str, default=()
        Classes and functions outside this package that the file may use, as objects or as
        "module.name"; the modules of such names are imported. ``inspect_file(path).needs`` lists
        what a file needs.
    modules : dict of str to Module or None, default=None
        Networks for a file with their weights alone (``modules="weights"`` in :func:`save`), by the
        names in ``inspect_file(path).notes``. They are copied and not changed.

    Returns
    -------
    estimator
        As it was saved; networks are in eval mode.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is not one of :func:`save`, is damaged, has a newer format, or holds what
        :func:`save` does not write; the message starts with the path. If the file needs types that
        are not in `trusted`; the message names them.

    See Also
    --------
    save : Write the file; has an example.
    inspect_file : Describe the estimator in a file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import skood
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "detector.skood")
    ...     skood.save(skood.LogLikelihood(skood.VAE()), path)
    ...     skood.load(path, device="cpu")
    LogLikelihood(density=VAE(device='cpu'))
    """
    allowed = dict(map(_named, trusted))
    wanted = None if device is None else resolve_device(device)
    with _one_error(path):
        contents = _container.read(path)
        tree = _container.parse_json(contents.metadata["tree"])
        _check_trusted(_needed(tree), allowed)
        reader = Reader(_BY_TAG, contents.arrays, allowed, wanted, modules or {})
        estimator = reader.value(tree, BaseEstimator)
        if reader.arrays:
            raise DamagedFile(f"it has an array that nothing uses: {min(reader.arrays)[:80]!r}")
    return estimator


def inspect_file(path: str | os.PathLike[str]) -> Card:
    """Describe the estimator in a file, without making it.

    The description states the class and its parameters, what is known of X (shape, dtype, columns,
    range of pixels), the classes, the threshold, the versions that wrote the file, and its
    checksum, which is verified. It is what the writer of the file stated.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    card : object
        Printed as text. Its attributes are those lines, for example ``item_shape``, ``threshold``,
        ``versions``, ``needs`` and ``sha256``.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        If the file is not one of :func:`save`, is damaged, or has a newer format.

    See Also
    --------
    save : Write a file.
    load : Load the estimator.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import skood
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "detector.skood")
    ...     skood.save(skood.Mahalanobis().fit(X), path)
    ...     card = skood.inspect_file(path)
    >>> card.class_name, card.item_shape, card.needs
    ('Mahalanobis', [4], [])
    """
    with _one_error(path):
        contents = _container.read(path, keeps_arrays=False)
        tree = _container.parse_json(contents.metadata["tree"])
        stated = _container.parse_json(contents.metadata["card"])
        card = Card.of(stated, contents, sorted(_needed(tree)))
    return card


@contextmanager
def _one_error(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever a damaged or hostile file causes into a ValueError with the path."""
    try:
        yield
    except FileNotFoundError:
        raise
    except UnreadableFileError as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"it is damaged ({error!r:.200})"
        raise ValueError(f"{os.fspath(path)} cannot be loaded: {reason}") from error


def _needed(tree: Any) -> set[str]:
    """Return the names of the classes and functions outside this package."""
    needed = set()
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            if "needs" in node:
                name = field(node, "needs", str)
                if not all(part.isidentifier() for part in name.split(".")):
                    raise DamagedFile(f"{name[:80]!r} is no name of a class or function")
                needed.add(name)
            left += node.values()
        elif isinstance(node, list):
            left += node
    return needed


def _check_trusted(needed: set[str], allowed: Mapping[str, Any]) -> None:
    missing = sorted(needed - set(allowed))
    if missing:
        raise ValueError(
            f"it needs {', '.join(missing)}, which is not part of skood; if you trust this code, "
            f"call skood.load(path, trusted={missing!r})"
        )


def _named(trusted: Any) -> tuple[str, Any]:
    """Return name and object of an entry of `trusted`, an object or its "module.name"."""
    if not isinstance(trusted, str):
        name = getattr(trusted, "__qualname__", None) or trusted.__name__
        return f"{getattr(trusted, '__module__', None) or 'numpy'}.{name}", trusted
    parts = trusted.split(".")
    for k in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            found = getattr(found, part, None)
        if found is not None:
            return trusted, found
    raise ValueError(f"trusted={trusted!r} names no class or function, as 'module.name' does")
