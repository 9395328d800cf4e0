"""Generates pages of the documentation from the package and from stored results."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import statistics
import textwrap
from collections.abc import Iterable
from pathlib import Path

import chart
import failures
import gallery
import repository
from costs import passes, passes_of_a_diffusion_model

from skood._catalogue import Entry, entries

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
# The parts of the package and their titles, in the order of the pages.
PARTS = {
    "density": "Densities and other models of the data",
    "classifiers": "Classifiers",
    "likelihood": "Detectors on a density",
    "posthoc": "Detectors on a trained classifier or on features",
    "training_time": "Detectors that train their own network",
    "calibration": "Thresholds and guarantees",
    "model_selection": "Choosing a model",
    "metrics": "Metrics",
    "datasets": "Data sets",
    "preprocessing": "Preprocessing",
    "embeddings": "Extractors of features",
    "evaluation": "Evaluation",
    "explanation": "Explanations",
    "inspection": "Displays and attributions",
    "functional": "Scores as functions of arrays",
    "base": "Methods of your own",
    "testing": "Checks of your own methods",
}
# The public names of a part, where they are not its ``__all__``.
NAMES = {
    "base": ["BaseDetector", "CheckedData", "ModelDetector", "estimator", "parameter"],
    "evaluation": ["Evaluation", "Table"],
}
FUNCTIONS = [
    *("cite", "evaluate", "find_detectors", "export", "inspect_file", "load", "recommend", "save"),
    "share_forward_pass",
    "show_versions",
]


def write(docs: Path) -> None:
    """Write all pages, the decision chart and an included table into ``docs/generated``."""
    folder = docs / "generated"
    folder.mkdir(exist_ok=True)
    pages = {
        **api_pages(),
        "methods.rst": methods_page(),
        "whats_new.md": repository.page_of("CHANGELOG.md", "What's new"),
        "benchmarks.md": repository.page_of("benchmarks/README.md"),
        "contributing.md": repository.page_of("CONTRIBUTING.md"),
        "choosing.svg": chart.svg(),
        # Included by the user guide.
        "exportable.inc": exportable_list(),
        "false_alarms.inc": false_alarms_table(),
        "faults.inc": faults_table(),
        "install.inc": repository.install(),
        "matrix.inc": repository.matrix_table(),
        "gallery_times.inc": gallery.summary(),
        "saved_sklearn.inc": saved_sklearn_list(),
        **failures.tables(),
    }
    for name, text in pages.items():
        path = folder / name
        # Sphinx rebuilds a page when its file is written.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def public_names(part: str) -> list[str]:
    names = NAMES.get(part) or importlib.import_module(f"skood.{part}").__all__
    return sorted(names, key=str.lower)


def api_pages() -> dict[str, str]:
    """Return the index of the API and a page for each part of the package."""
    parts, sentences = {}, {}
    for part, title in PARTS.items():
        module = importlib.import_module(f"skood.{part}")
        names = public_names(part)
        classes = [name for name in names if inspect.isclass(getattr(module, name))]
        functions = [name for name in names if name not in classes]
        # The first sentence of the module's docstring.
        sentence = re.split(r"\n\n|(?<=\.)\s", inspect.getdoc(module) or "")[0]
        head = [title, "=" * len(title), "", f".. module:: skood.{part}", "", sentence, ""]
        rest = sentence.removeprefix(f"{title}: ")
        sentences[f"api_{part}"] = rest[0].upper() + rest[1:]
        parts[f"api_{part}"] = [*head, *summary("class.rst", classes)]
        parts[f"api_{part}"] += summary("function.rst", functions)
    title = "Functions on detectors and data"
    parts["api_top"] = [title, "=" * len(title), "", ".. currentmodule:: skood", ""]
    parts["api_top"] += summary("function.rst", FUNCTIONS)
    parts["api_top"] += summary("class.rst", ["Recommendation"])
    sentences["api_top"] = "Functions of the package itself, which take detectors of every kind."
    index = ["API reference", "=============", ""]
    index += [f"- :doc:`{name}`: {sentences[name]}" for name in parts]
    index += ["", ".. toctree::", "   :hidden:", "", *(f"   {name}" for name in parts), ""]
    pages = {"api": index, **parts}
    return {f"{name}.rst": "\n".join(lines) for name, lines in pages.items()}


def summary(template: str, names: list[str]) -> list[str]:
    if not names:
        return []
    options = ["   :nosignatures:", "   :toctree: .", f"   :template: {template}", ""]
    return [".. autosummary::", *options, *(f"   {name}" for name in names), ""]


# The results of post-hoc detectors.
NETWORK = "posthoc-cifar10-airbench"
# The measurement of the methods of each part.
MEASURED = {
    "likelihood": (
        "AUROC: Fashion-MNIST against MNIST, on the density with the highest AUROC among those in "
        ":doc:`benchmarks`. Cost: scoring time relative to log p(x) under the same density, or "
        "passes of a diffusion model per image."
    ),
    "posthoc": (
        "AUROC: CIFAR-10 against SVHN, on an :class:`~skood.classifiers.Airbench` of {accuracy} % "
        "accuracy, means of {n_seeds} networks. {others} Cost: forward passes of the network per "
        "item. Detectors on the same network can share the passes "
        "(:func:`~skood.share_forward_pass`)."
    ),
    "training_time": (
        "AUROC: MNIST against Omniglot. Cost: forward passes of the trained network per item."
    ),
}
# What a detector reads, in words.
NEEDS = {
    "logits": "logits",
    "features": "features",
    "features and logits": "features, logits",
    "head": "features, logits, last layer",
    "network": "the network",
    "texts": "vectors of images and texts",
    "density": "a density",
    "data": "",
}


def methods_page() -> str:
    areas_of_densities, costs_of_densities = of_densities()
    areas = {
        "likelihood": areas_of_densities,
        "posthoc": areas_of_a_classifier(),
        "training_time": areas_of_trained_networks(),
    }
    costs = {**costs_of_densities, **passes_of_a_diffusion_model(), **passes()}
    runs = read(NETWORK)["runs"].values()
    words = {
        "accuracy": f"{100 * statistics.mean(run['accuracy'] for run in runs):.1f}",
        "n_seeds": len(runs),
        "others": (
            "DeepEnsemble and MCDropout are of one seed. MCM and NegLabel read a small pair of "
            "towers for images and words, which names 72 % of the test images right; CSP needs a "
            "pair that knows adjectives."
        ),
    }
    lines = [
        "All methods",
        "===========",
        "",
        "AUROC is measured with default parameters on one pair of sets. :doc:`benchmarks` has",
        "the other pairs, and the accuracy or the bits per dimension of each model. A click on",
        "the head of a column sorts a table. :func:`skood.find_detectors` lists the detectors for",
        "what you have, and :func:`skood.cite` the papers to cite.",
        "",
    ]
    for part, measured in MEASURED.items():
        lines += [
            *(PARTS[part], "-" * len(PARTS[part]), "", measured.format(**words), ""),
            ".. list-table::",
            "   :header-rows: 1",
            "   :class: sortable",
            "   :widths: auto",
            "",
            *("   * - method", "     - AUROC", "     - cost", "     - needs"),
            *("     - what it is", "     - paper"),
        ]
        for entry in (entry for entry in entries() if entry.part == part):
            name = entry.name
            lines += [
                f"   * - :class:`~skood.{part}.{name}`",
                f"     - {areas[part][name]:.3f}" if name in areas[part] else "     - not measured",
                f"     - {costs.get(name) or 'not timed'}",
                f"     - {what_it_reads(entry)}",
                f"     - {entry.summary}",
                f"     - {authors(entry)}",
            ]
        lines.append("")
    return "\n".join(lines)


def authors(entry: Entry) -> str:
    """Shorten a reference to family names and the year; the page of the method has all of it."""
    before_title = entry.paper.partition(', "')[0].removesuffix(" et al.")
    people = re.split(r", (?:and )?| and ", before_title)
    families = [re.sub(r"^(?:[A-Z](?:\.|\b)[-. ]*)+", "", person) for person in people]
    if len(people) > 2 or " et al." in entry.paper:
        families = [f"{families[0]} et al."]
    return f"{' and '.join(families)} {entry.year}"


def what_it_reads(entry: Entry) -> str:
    """Describe the inputs of a detector other than in-distribution data."""
    words = NEEDS[entry.needs]
    if entry.needs == "density":
        # The first sentence on the first parameter, the model, names the allowed models.
        first = r"^Parameters\n-+\n.*\n((?: .*\n)+)"
        found = re.search(first, inspect.getdoc(entry.cls) or "", re.M)
        described = " ".join(found.group(1).split()) if found else words
        words = re.split(r"[;.] ", described)[0].rstrip(".")
    given = [
        words,
        *(["labels"] if entry.labels else []),
        *(["outliers"] if entry.outliers else []),
    ]
    return "; ".join(filter(None, given)) or "images or rows"


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def of_densities() -> tuple[dict[str, float], dict[str, str]]:
    """Return each detector's AUROC and, where timed, its scoring time relative to log p(x)."""
    densities = failures.densities()
    # The log-density of TwoStep is itself a repair.
    del densities["TwoStep"]
    plain = {
        density: entry["detectors"]["LogLikelihood"]["seconds"]
        for density, entry in densities.items()
        if "LogLikelihood" in entry["detectors"]
    }
    # WAIC scores five VAEs, and its cost is relative to one of them.
    plain["five VAEs"] = plain["VAE"]
    runs = read("likelihood_ratio-fashion_mnist-mnist-quick")["runs"]
    ratio = statistics.mean(run["chosen"]["mnist"]["auroc"] for run in runs)
    # The likelihood ratio scores two densities.
    areas, costs = {"LikelihoodRatio": ratio}, {"LikelihoodRatio": "2"}
    for density, entry in densities.items():
        for label, row in entry["detectors"].items():
            name, area = label.split(",")[0], row["ood"]["mnist"]["auroc"]
            if area > areas.get(name, 0.0):
                areas[name] = area
                costs[name] = ""
                if density in plain:
                    cost = row["seconds"] / plain[density]
                    costs[name] = f"{cost:.{1 if cost < 10 else 0}f}"
    return areas, costs


# The stored rows of detectors with default parameters, where the row has another name.
DEFAULTS = {"ASH": "ASH-S", "AdaSCALE": "AdaSCALE-A"}
CONCEPTS = {"MCM": "MCM, T = 1", "NegLabel": "NegLabel, 15 % of the words, T = 0.01"}


def areas_of_a_classifier() -> dict[str, float]:
    rows = read("training_time-cifar10-airbench")["methods"] | read(NETWORK)["methods"]
    areas = {name: row["sets"]["svhn"]["auroc"] for name, row in rows.items()}
    runs = [run["methods"] for run in read("concepts")["runs"]]
    of_concepts = {
        name: statistics.mean(run[row]["svhn"]["auroc"] for run in runs)
        for name, row in CONCEPTS.items()
    }
    return areas | {name: areas[row] for name, row in DEFAULTS.items()} | of_concepts


def areas_of_trained_networks() -> dict[str, float]:
    areas = {
        name: row["ood"]["omniglot"]["auroc"]
        for method in read("vmdls-mnist-quick")["methods"].values()
        for name, row in method["detectors"].items()
    }
    for row in read("oodgen-mnist-defaults")["table"]:
        if (row["detector"], row["ood_set"]) == ("OODGen, reject", "omniglot"):
            areas["OODGen"] = row["auroc"]
    return areas


def exportable_list() -> str:
    """List the detectors that ``skood.export`` writes as a graph."""
    import skood
    from skood._export import exportable

    parts = {name: getattr(skood, name).__module__.split(".")[1] for name in exportable()}
    return listed(f":class:`~skood.{part}.{name}`" for name, part in parts.items())


def saved_sklearn_list() -> str:
    """List the estimators of scikit-learn that ``skood.load`` makes."""
    from skood._files._sklearn import KNOWN

    names = {name for names in KNOWN.values() for name in names}
    return listed(f"``{name}``" for name in sorted(names))


def faults_table() -> str:
    """Tabulate the faults that fits and scores survived."""
    report = read("faults")
    lines = [
        "Faults were caused at random in tiny trainings, scorings and cached fits. *Lost* counts",
        "calls that ended in an error although the fault does not end them, *wrong* counts other",
        "results than without a fault.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - fault\n     - events\n     - lost\n     - wrong",
    ]
    for fault, count in report["faults"].items():
        lost, wrong = (report[kind].get(fault, 0) for kind in ("lost", "wrong"))
        lines.append(f"   * - {fault}\n     - {count}\n     - {lost}\n     - {wrong}")
    return "\n".join([*lines, "", "``benchmarks/faults.py`` causes them.", ""])


def listed(items: Iterable[str]) -> str:
    return textwrap.fill(", ".join(items), 100, break_long_words=False) + "\n"


def false_alarms_table() -> str:
    """Tabulate the new rows rejected by default, and with a threshold from training rows."""
    report = read("false_alarms")
    lines = [
        f"Percentage of {report['n_new']} new in-distribution rows that is rejected. Rows come",
        f"from a mixture of Gaussians in 10 dimensions; {report['n_training']} rows are for",
        "fitting, and every parameter has its default. Each rate is a mean over draws, with its",
        "standard error.",
        "In the first column the threshold is read from training rows",
        "(``threshold_fraction=0``).",
        "",
    ]
    for group, title in {
        "posthoc": "Post-hoc detectors that train an MLP",
        "statistics": (
            "Post-hoc detectors that train no network, on rows, on an MLP trained on the same rows "
            "(seen), or on an MLP trained on other rows (unseen)"
        ),
        "densities": "Detectors on a density",
        "training_time": "Training-time detectors, with thresholds from validation rows",
    }.items():
        lines += [
            f".. list-table:: {title}",
            "   :header-rows: 1",
            "   :widths: 40 20 20 20",
            "",
            "   * - detector",
            "     - threshold from training rows, %",
            "     - default, %",
            "     - draws",
        ]
        for label, row in report["groups"][group]["table"].items():
            # Two detectors represent all those that hold no rows out.
            if group == "statistics" and "before" not in row and label[:3] not in ("MSP", "KNN"):
                continue
            lines += [f"   * - {label}", *(f"     - {rate(row, k)}" for k in ("before", "default"))]
            lines.append(f"     - {row['seeds']}")
        lines.append("")
    return "\n".join(lines)


def rate(row: dict[str, float], name: str) -> str:
    """Format a mean in %, with its standard error."""
    if name not in row:
        return ""
    mean = f"{100 * row[name]:.1f}"
    if row["seeds"] == 1:
        return mean
    return f"{mean} ± {100 * row[f'{name}_std'] / row['seeds'] ** 0.5:.1f}"
