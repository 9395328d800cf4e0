"""The mini-benchmark, ``pytest --bm``: quality and time of every detector on six tiny tasks.

It always passes: its table, which pytest prints, shows what a change does to the AUROC of each
detector, beside the figures in the tree.
"""

import csv
import os
from pathlib import Path

import pytest
from mini_benchmark.tasks import NETWORKS, TASKS, Row, detectors, run

TABLE = Path(__file__).parent / "table.csv"
# Other processors round otherwise, and a few items change their places.
NOTABLE = 0.005
rows: list[Row] = []


def stored() -> dict[tuple[str, str], float]:
    with TABLE.open(newline="") as file:
        return {(row["task"], row["detector"]): float(row["auroc"]) for row in csv.DictReader(file)}


def report(found: list[Row], before: dict[tuple[str, str], float]) -> list[str]:
    """Return the lines of the table, with a mark where the AUROC has changed."""
    lines = [f"{'task':24} {'detector':24} {'AUROC':>6} {'before':>6}  {'CPU s':>6}"]
    for row in found:
        area = before.get((row.task, row.detector))
        if row.auroc is None and area is None:
            continue
        now = "  none" if row.auroc is None else f"{row.auroc:6.3f}"
        then = "   new" if area is None else f"{area:6.3f}"
        mark = ""
        if row.auroc is None:
            mark = f"  < {row.reason.splitlines()[0][:80]}"
        elif area is not None and abs(row.auroc - area) > NOTABLE:
            mark = f"  < {row.auroc - area:+.3f}"
        line = f"{row.task:24} {row.detector:24} {now} {then}  {row.seconds:6.2f}"
        lines.append(line + mark)
    done = {(row.task, row.detector) for row in found}
    tasks = {row.task for row in found}
    lines += [
        f"{task:24} {detector:24}   gone {area:6.3f}"
        for (task, detector), area in before.items()
        if task in tasks and (task, detector) not in done
    ]
    return lines


@pytest.mark.bm
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_bm(task):
    rows.extend(run(task))


@pytest.fixture(scope="module", autouse=True)
def print_table(request):
    yield
    if not rows:
        return
    text = "\n".join(report(rows, stored() if TABLE.exists() else {}))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{text}")
    if os.environ.get("SKOOD_BM_STORE"):
        with TABLE.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["task", "detector", "auroc", "seconds"])
            writer.writerows(
                [row.task, row.detector, f"{row.auroc:.4f}", f"{row.seconds:.2f}"]
                for row in rows
                if row.auroc is not None
            )


def test_every_task_has_a_network_and_stored_figures():
    figures = stored()
    for task in TASKS:
        assert (NETWORKS / f"{task.network}.skood").exists()
        names = {name for of_task, name in figures if of_task == task.name}
        assert names
        assert names <= set(detectors(task))


def test_a_task_is_measured():
    task = next(task for task in TASKS if task.network == "wine")
    found = {row.detector: row for row in run(task)}
    assert found["MSP"].auroc == pytest.approx(stored()[task.name, "MSP"], abs=0.02)
    assert found["RankFeat"].auroc is None
    assert "no module" in found["RankFeat"].reason


def test_the_report_marks_what_has_changed():
    found = [
        Row("t", "same", 0.9, "", 0.1),
        Row("t", "worse", 0.7, "", 0.1),
        Row("t", "broken", None, "a reason\nof two lines", 0.1),
        Row("t", "fresh", 0.8, "", 0.1),
        Row("t", "never", None, "not for this model", 0.1),
    ]
    before = {("t", n): 0.9 for n in ("same", "worse", "broken", "lost")} | {("u", "x"): 0.5}
    lines = {line.split()[1]: line for line in report(found, before)[1:]}
    assert set(lines) == {"same", "worse", "broken", "fresh", "lost"}
    assert "<" not in lines["same"]
    assert lines["worse"].endswith("< -0.200")
    assert lines["broken"].endswith("< a reason")
    assert "new" in lines["fresh"]
    assert "gone" in lines["lost"]
