"""The example gallery: the order of its sections, its colours, and the times of its last execution.

``conf.py`` reads the order and the colours; ``run_gallery.py`` executes the examples and writes
``gallery_times.json``, whose summary ``generate.py`` includes in the gallery's front page.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
TIMES = HERE / "gallery_times.json"

# The folders of the gallery and their examples, in the order of the page.
SECTIONS = {
    "first_steps": ["torchvision", "table", "embeddings"],
    "trained_networks": ["posthoc", "concepts"],
    "densities": [
        *("likelihood_ratio", "likelihood_repairs", "local_intrinsic_dimension", "sequences"),
    ],
    "training": ["oodgen", "oodgen_images", "vmdls"],
    "decisions": ["conformal", "drift", "explain"],
    "choosing": ["evaluate", "recommend", "pipeline", "leave_classes_out", "tune_odin"],
}
SCRIPTS = [f"{section}/plot_{name}.py" for section, names in SECTIONS.items() for name in names]


def rank(path: str) -> int:
    """Return the position of an example in its section, for sphinx-gallery."""
    names = [Path(script).name for script in SCRIPTS]
    if Path(path).name not in names:
        raise ValueError(f"{path} has no place in the gallery; add it to SECTIONS in {__file__}")
    return names.index(Path(path).name)


def use_palette(gallery_conf: dict, path: str) -> None:
    """Draw an example in the colours of skood's displays, for sphinx-gallery."""
    import matplotlib.pyplot as plt

    from skood.inspection._palette import COLOURS

    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=COLOURS)


def summary() -> str:
    """Say when and where the examples were executed, and how long they took."""
    times = json.loads(TIMES.read_text())
    machine, seconds = times["machine"], times["processor_seconds"]
    return (
        f"Executed on {times['date']} with skood {machine['skood']}: {len(seconds)} examples in "
        f"{sum(seconds.values()) / 60:.1f} processor minutes of an {machine['cpu']}.\n"
    )
