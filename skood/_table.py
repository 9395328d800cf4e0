"""Tables: lists of dicts that are printed as aligned text, HTML and LaTeX."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from skood._optional import import_optional

__all__ = ["Rows", "Table", "aligned", "html_table", "latex", "number"]

# Rows that a notebook or a terminal shows; `print` shows all.
_MOST_ROWS = 100
# Columns that belong to another column, whose cell shows them.
_PARTS = "low", "high", "std"
_ESCAPED = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    "±": r"$\pm$",
}


def number(value: Any, digits: int = 3) -> str:
    """Return a cell: floats with `digits` decimals, an empty string for a missing value."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def latex(text: str) -> str:
    """Escape the special characters of LaTeX."""
    return "".join(_ESCAPED.get(character, character) for character in text)


def aligned(lines: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Align cells in columns: to the left in the columns `left`, to the right in the others."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def html_table(
    lines: Sequence[Sequence[str]],
    left: Collection[int],
    bold: Collection[tuple[int, int]] = (),
) -> str:
    """Return lines of cells, of which the first is the head, as an HTML table.

    Every cell is escaped, since names come from users. Without colours the table fits light and
    dark notebooks.

    Parameters
    ----------
    lines : sequence of sequence of str
    left : collection of int
        Columns that are aligned to the left.
    bold : collection of (int, int), default=()
        Bold cells: the number of the row, without the head, and the column.
    """

    def row(tag: str, cells: Sequence[str], bold_columns: Collection[int] = ()) -> str:
        line = ""
        for i, cell in enumerate(cells):
            text = html.escape(cell)
            if i in bold_columns:
                text = f"<b>{text}</b>"
            side = "left" if i in left else "right"
            line += f'<{tag} style="text-align: {side}">{text}</{tag}>'
        return f"<tr>{line}</tr>"

    head, *body = lines
    rows = [row("td", cells, {c for r, c in bold if r == i}) for i, cells in enumerate(body)]
    return "\n".join(
        [f"<table><thead>{row('th', head)}</thead>", "<tbody>", *rows, "</tbody></table>"]
    )


class Rows(list):
    """Rows of a table as dicts; printed as an aligned table, and as HTML in a notebook.

    The bounds and the deviation of a column ("auroc_low", "auroc_high", "auroc_std") are shown in
    its cell. Rows may lack some columns.
    """

    def to_frame(self) -> Any:
        """Return the table as a pandas DataFrame.

        Returns
        -------
        pandas.DataFrame
            With a column for each key of the rows.

        Raises
        ------
        ImportError
            When pandas is not installed.
        """
        return import_optional("pandas", "to_frame", "pandas").DataFrame(list(self))

    def _bold(self) -> Collection[tuple[int, str]]:
        """Return the row numbers and columns of the cells that are printed in bold."""
        return ()

    def _columns(self) -> list[str]:
        names = list(dict.fromkeys(name for row in self for name in row))
        return [name for name in names if not _belongs_to_another(name, names)]

    def _cells(self, names: Sequence[str], digits: int = 3) -> list[list[str]]:
        return [[_cell(row, name, digits) for name in names] for row in self]

    def __str__(self) -> str:
        return self._text(len(self))

    def __repr__(self) -> str:
        if not self:
            return f"{type(self).__name__}([])"
        return "\n".join([self._text(_MOST_ROWS), *self._more()])

    def _text(self, n_rows: int) -> str:
        names = self._columns()
        return "\n".join(aligned([names, *self._cells(names)[:n_rows]], self._left(names)))

    def _more(self) -> list[str]:
        n_more = len(self) - _MOST_ROWS
        return [f"and {n_more} more rows; print shows all"] if n_more > 0 else []

    def _left(self, names: Sequence[str]) -> set[int]:
        """Return the positions of the columns of text, which are aligned to the left."""
        return {
            i
            for i, name in enumerate(names)
            if all(isinstance(row.get(name), str | None) for row in self)
        }

    def _repr_html_(self) -> str:
        names = self._columns()
        columns = {name: i for i, name in enumerate(names)}
        bold = {(row, columns[name]) for row, name in self._bold()}
        table = html_table([names, *self._cells(names)[:_MOST_ROWS]], self._left(names), bold)
        return "\n".join([table, *(f"<p>{html.escape(line)}</p>" for line in self._more())])


class Table(Rows):
    """Rows of a table as dicts, as :meth:`skood.evaluation.Evaluation.wide` returns them.

    Parameters
    ----------
    rows : iterable of dict, default=()
        The rows.
    bold : collection of (int, str), default=()
        Row numbers and columns of the cells that are printed in bold, in HTML and LaTeX.

    See Also
    --------
    skood.evaluation.Evaluation : The table of :func:`skood.evaluate`.

    Examples
    --------
    >>> from skood.evaluation import Table
    >>> print(Table([{"detector": "KNN", "auroc": 0.9}, {"detector": "MSP", "auroc": 0.75}]))
    detector  auroc
    KNN       0.900
    MSP       0.750
    """

    def __init__(
        self, rows: Iterable[Mapping[str, Any]] = (), bold: Collection[tuple[int, str]] = ()
    ) -> None:
        super().__init__(rows)
        self._in_bold = set(bold)

    def _bold(self) -> Collection[tuple[int, str]]:
        return self._in_bold

    def to_latex(self, *, digits: int = 3) -> str:
        r"""Return the table as a LaTeX ``tabular``, for the package booktabs.

        Parameters
        ----------
        digits : int, default=3
            Decimals of the figures.

        Returns
        -------
        str
            Bold cells are set in ``\textbf``.
        """
        names, bold = self._columns(), self._in_bold
        left = self._left(names)
        lines = [
            r"\begin{tabular}{" + "".join("lr"[i not in left] for i in range(len(names))) + "}",
            r"\toprule",
            " & ".join(map(latex, names)) + r" \\",
            r"\midrule",
        ]
        for position, cells in enumerate(self._cells(names, digits)):
            texts = [
                rf"\textbf{{{latex(cell)}}}" if (position, name) in bold else latex(cell)
                for name, cell in zip(names, cells, strict=True)
            ]
            lines.append(" & ".join(texts) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _belongs_to_another(name: str, names: Sequence[str]) -> bool:
    return any(name.endswith(f"_{part}") and name[: -len(part) - 1] in names for part in _PARTS)


def _cell(row: Mapping[str, Any], name: str, digits: int) -> str:
    value = row.get(name)
    cell = number(value, digits)
    smallest = 10.0**-digits
    if name.startswith("p_") and isinstance(value, float) and value < smallest:
        cell = f"<{number(smallest, digits)}"
    std = row.get(f"{name}_std")
    if std is not None:
        cell += f" ± {number(std, digits)}"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is not None and high is not None:
        cell += f" [{number(low, digits)}, {number(high, digits)}]"
    return cell
