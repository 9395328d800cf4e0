"""Packages that skood does not require, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_optional"]


def import_optional(module: str, user: str, install: str, remedy: str = "") -> Any:
    """Import a module of an optional package.

    Parameters
    ----------
    module : str
        Such as "matplotlib.pyplot".
    user : str
        What needs the package: the subject of the error.
    install : str
        What pip installs, such as "faiss-cpu".
    remedy : str, default=""
        What works without the package, as a sentence.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If the package is not installed, or if one of its own dependencies is missing.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or package).partition(".")[0] != package:
            raise
        message = f"{user} needs {package}: pip install {install}"
        raise ImportError(f"{message}. {remedy}" if remedy else message) from error
