"""File names for trials and jobs."""

from __future__ import annotations

__all__ = ["file_name"]


def file_name(name: str) -> str:
    """Replace every character except letters and digits by an underscore."""
    return "".join(c if c.isalnum() else "_" for c in name)
