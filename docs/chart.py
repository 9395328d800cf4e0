"""The decision chart of the user guide, as SVG in the colours of the page's theme."""

from __future__ import annotations

from xml.sax.saxutils import escape

import skood

# A question, and the methods to use if the answer is yes: a heading, and lines of class names. The
# last step has no question.
STEPS = [
    (
        ("Is there a trained", "classifier?"),
        ("Post-hoc detectors", ["KNN Mahalanobis ViM", "ASH ODIN Energy"]),
    ),
    (
        ("Are the rows", "embeddings?"),
        ("Post-hoc, on the rows", ["KNN Mahalanobis GMM"]),
    ),
    (
        ("Is X a table?",),
        ("On the columns", ["GMM KNN LogLikelihood"]),
    ),
    (
        ("Are there labels, and", "outliers to train on?"),
        ("Trained on outliers", ["OutlierExposure EnergyRegularized"]),
    ),
    (
        ("Are there labels?",),
        ("Trained on classes", ["VMDLS OODGen VOS LogitNorm"]),
    ),
    (
        (),
        (
            "Densities; one class",
            ["LikelihoodRatio InputComplexity", "LikelihoodRegret DeepSVDD"],
        ),
    ),
]
# Whatever the answers: a heading, and lines of class names.
AROUND = ("Around any of them: a guaranteed rate of false alarms", ["ConformalDetector"])
WIDTH, STEP, HEIGHT = 480, 96, 66
LEFT, RIGHT = (0, 170), (220, 260)
LINE = 17


def svg() -> str:
    """Draw the chart; class names link to their pages, relative to a page of the user guide."""
    height = STEP * len(STEPS) + HEIGHT
    lines = [
        f'<svg class="skood-chart" viewBox="-2 -2 {WIDTH + 4} {height + 4}" role="img"',
        '     aria-label="Which detector: questions from top to bottom, and methods to use">',
        "<style>",
        ".skood-chart { max-width: 600px; width: 100%; margin-bottom: 1rem; }",
        ".skood-chart { font-size: 13px; fill: currentColor; }",
        ".skood-chart rect, .skood-chart path { fill: none; stroke: currentColor; }",
        ".skood-chart rect.take { stroke: var(--pst-color-primary); stroke-width: 2; }",
        ".skood-chart a { fill: var(--pst-color-link); }",
        ".skood-chart .heading { font-weight: bold; }",
        "</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"',
        ' markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8"/></marker></defs>',
    ]
    for number, (question, (heading, names)) in enumerate(STEPS):
        y = number * STEP
        middle = y + HEIGHT // 2
        if question:
            lines += [box(LEFT, y, "ask"), *text(LEFT, middle, list(question))]
            lines += [
                arrow(f"M{LEFT[1]},{middle} H{RIGHT[0]}"),
                label((LEFT[1] + RIGHT[0]) // 2 - 3, middle - 6, "yes", "middle"),
            ]
            below = LEFT[1] // 2
            last = number == len(STEPS) - 2
            end = f"V{middle + STEP} H{RIGHT[0]}" if last else f"V{y + STEP}"
            lines += [
                arrow(f"M{below},{y + HEIGHT} {end}"),
                label(below + 8, y + HEIGHT + 19, "no", "start"),
            ]
        lines += [
            box(RIGHT, y, "take"),
            *text(RIGHT, middle, [heading, *names], linked=True),
        ]
    heading, names = AROUND
    whole, y = (0, WIDTH), STEP * len(STEPS)
    lines += [
        box(whole, y, "take"),
        *text(whole, y + HEIGHT // 2, [heading, *names], linked=True),
    ]
    return "\n".join([*lines, "</svg>", ""])


def box(place: tuple[int, int], y: int, kind: str) -> str:
    x, width = place
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="6"/>'


def arrow(path: str) -> str:
    return f'<path d="{path}" marker-end="url(#tip)"/>'


def label(x: int, y: int, words: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def text(place: tuple[int, int], middle: int, rows: list[str], linked: bool = False) -> list[str]:
    """Centre lines of text in a box; if `linked`, all but the first are class names."""
    x, width = place
    first = middle - LINE * (len(rows) - 1) / 2 + 4
    lines = []
    for number, row in enumerate(rows):
        y = first + LINE * number
        attributes = f'x="{x + width // 2}" y="{y:g}" text-anchor="middle"'
        if not linked:
            lines.append(f"<text {attributes}>{escape(row)}</text>")
        elif number == 0:
            lines.append(f'<text {attributes} class="heading">{escape(row)}</text>')
        else:
            lines.append(f"<text {attributes}>{', '.join(map(link, row.split()))}</text>")
    return lines


def link(name: str) -> str:
    # skood.posthoc._features: the second name is the part of the package.
    part = getattr(skood, name).__module__.split(".")[1]
    return f'<a href="../generated/skood.{part}.{name}.html">{name}</a>'
