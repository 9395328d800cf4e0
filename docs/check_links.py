"""Checks every link of a built site: ``python docs/check_links.py docs/_build/html``.

A link inside the site must lead to a file, and its fragment to an element of that page. Links to
other sites are counted by site; they cannot be followed without a network.
"""

from __future__ import annotations

import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and the names of the elements of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.links.append(value)
            elif key in ("id", "name") and value:
                self.names.add(value)


def main(site: Path) -> None:
    # Templates of the theme lie among the static files.
    paths = [path for path in sorted(site.rglob("*.html")) if site / "_static" not in path.parents]
    pages = {path: Page(path) for path in paths}
    broken, others, n_inside = [], Counter(), 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                others[parts.netloc or parts.scheme] += 1
                continue
            n_inside += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link} leads to no file")
            elif parts.fragment and target in pages:
                # "#" and "#top" are the start of a page.
                if unquote(parts.fragment) not in pages[target].names | {"", "top"}:
                    broken.append(f"{path.relative_to(site)}: {link} leads to no element")
    print(f"{len(pages)} pages, {n_inside} links inside the site, {len(broken)} broken")
    for name, count in others.most_common():
        print(f"  {count:5} links to {name}")
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
