"""Pages and tables of the site from files of the repository."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Files that are pages under another name.
PAGES_OF_FILES = {"CHANGELOG.md": "whats_new.md"}


def install() -> str:
    """Convert the first sentence and the first commands of README.md's section "Install"."""
    text = (ROOT / "README.md").read_text()
    sentence, commands = re.search(
        r"^## Install\n\n(.*?)\n\n```\n(.*?)^```$", text, re.M | re.S
    ).groups()
    words = re.sub(r"`([^`]+)`", r"``\1``", sentence)
    return f"{words}\n\n.. code-block:: bash\n\n{textwrap.indent(commands, '    ')}"


def matrix_table() -> str:
    """Tabulate the runs of the suite with other Pythons, from ``tests/matrix.sh``."""
    outcomes = json.loads((ROOT / "tests" / "matrix.json").read_text()).values()
    columns = (
        *("python", "torch", "scikit-learn", "numpy", "tests"),
        *("passed", "failed", "skipped", "date"),
    )
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for cells in (columns, *([row[column] for column in columns] for row in outcomes)):
        lines += [f"   {'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(cells)]
    return "\n".join([*lines, ""])


def page_of(name: str, title: str | None = None) -> str:
    """Return a Markdown file of the repository, with links that lead to pages of the site."""
    text = (ROOT / name).read_text()
    if title is not None:
        text = re.sub(r"^# .*", f"# {title}", text)
    folder = Path(name).parent

    def relative(match: re.Match[str]) -> str:
        link = match[1]
        if "://" in link:
            return match[0]
        # Pages lie in docs/generated.
        link = PAGES_OF_FILES.get(link) or f"../../{folder / link}".replace("../../docs/", "../")
        return f"]({link})"

    return re.sub(r"\]\(([^)]*)\)", relative, text)
