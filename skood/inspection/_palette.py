"""Colours that the displays share."""

__all__ = ["COLOURS"]

# Ten colours that remain distinct in the common forms of colour blindness: M. A. Petroff,
# arXiv:2107.02270. matplotlib names them "petroff10" from version 3.10.
COLOURS = [
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
]
