"""Docstrings of installed packages, as texts."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

__all__ = ["docstrings"]


def docstrings(package: str, fewest_words: int) -> list[str]:
    """Return the distinct docstrings of a package, without its tests, in alphabetical order."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: pip install {package}")
    texts = set()
    for path in Path(spec.origin).parent.rglob("*.py"):
        if "tests" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(errors="ignore"))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text.split()) >= fewest_words:
                    texts.add(text)
    return sorted(texts)
