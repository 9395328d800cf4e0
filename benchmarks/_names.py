"""Names of files, made from names of trials and jobs."""

from __future__ import annotations

__all__ = ["file_name"]


def file_name(name: str) -> str:
    """Return the name with an underscore for everything but letters and digits."""
    return "".join(c if c.isalnum() else "_" for c in name)
