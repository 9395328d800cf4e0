"""What a notebook shows: tables, explanations, diagrams of estimators, and progress bars."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skood
from skood import GMM, KNN, MSP, ConformalDetector, Energy, EnsembleDetector, Mahalanobis
from skood.datasets import load_published
from skood.evaluation import Evaluation, Table
from skood.explanation import PositionsExplanation

HOSTILE = "<script>alert('&')</script>"


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(120, 3))


def assert_safe(shown, *, names=True):
    html = shown._repr_html_()
    assert "<script" not in html
    assert not names or "&lt;script&gt;alert(&#x27;&amp;&#x27;)" in html
    # Colours that are readable on white may not be readable on black.
    assert "color" not in html and "background" not in html
    opened, closed = re.findall(r"<(\w+)", html), re.findall(r"</(\w+)", html)
    assert sorted(opened) == sorted(closed)
    return html


class TestTables:
    def test_evaluation(self, X):
        table = skood.evaluate(
            {HOSTILE: GMM(), "KNN": KNN()},
            X[:60],
            {HOSTILE + "near": X[60:80] + 1, "far": X[80:] + 9},
            groups={HOSTILE + "both": [HOSTILE + "near", "far"]},
            X_train=X[:60],
            confidence=0.9,
            n_resamples=20,
            random_state=0,
        )
        for shown in (table, table.wide(), table.best(), table.compare()):
            assert assert_safe(shown).count("<tr>") == 1 + len(shown)

    def test_recommendation(self, X):
        X = np.concatenate([X, X + 1e-3])
        candidates = {HOSTILE: KNN(n_neighbors=3), "GMM": GMM(), HOSTILE + "needs a model": MSP()}
        found = skood.recommend(
            None, X, candidates=candidates, n_resamples=9, random_state=0, verbose=0
        )
        html = assert_safe(found)
        assert html.count("&lt;script") >= 2
        assert "needs a model" in html.split("</table>")[1]

    def test_drift(self, X):
        detector = ConformalDetector(KNN(), alpha=0.2, random_state=0).fit(X)
        result = detector.drift_test(X + 5)
        html = assert_safe(result, names=False)
        assert re.findall(r"<td[^>]*>([^<]*)</td>", html)[:3] == ["120", "36", "0.0001"]

    def test_long_tables_are_cut(self):
        board = load_published("openood_v1.5")
        n_more = len(board) - 100
        assert n_more > 0
        assert board._repr_html_().count("<tr>") == 101
        for text in (repr(board), board._repr_html_()):
            assert f"and {n_more} more rows" in text
        assert len(repr(board).splitlines()) == 102
        assert len(str(board).splitlines()) == 1 + len(board)

    def test_text(self):
        table = Table([{"detector": "KNN", "auroc": 0.9}])
        assert repr(table) == str(table) == "detector  auroc\nKNN       0.900"
        assert repr(Table()) == "Table([])"
        assert repr(Evaluation()) == "Evaluation([])"


class TestExplanations:
    def test_columns(self, X):
        frame = pd.DataFrame(X, columns=[HOSTILE, "b", "c"])
        labels = np.where(X[:, 0] > 0, HOSTILE, "other")
        found = Mahalanobis().fit(frame, labels).explain(frame)
        html = assert_safe(found)
        assert html.count("<table>") == 3
        assert "<p>and 117 more items</p>" in html
        assert f"<p>item 0: score {found.scores[0]:.4g}, nearest class " in html
        alone = assert_safe(found[0])
        assert f"<p>score {found.scores[0]:.4g}, " in alone
        assert "more items" not in alone

    def test_classes(self, X):
        labels = np.where(X[:, 0] > 0, HOSTILE, "other")
        found = MSP(LogisticRegression()).fit(X, labels).explain(X[:2])
        assert assert_safe(found).count("<td") == 2 * 2 * 4

    def test_positions(self):
        found = PositionsExplanation(np.array([-3.0]), [np.array([-1.0, -2.0])], [[HOSTILE, "b"]])
        html = found._repr_html_()
        assert "<script" not in html and "position 0, " in html and "&lt;script&gt;" in html

    def test_of_no_items(self, X):
        found = KNN(n_neighbors=3).fit(X).explain(X[:2])[:0]
        assert repr(found) == "NeighborsExplanation of 0 items"
        assert found._repr_html_() == "<p>NeighborsExplanation of 0 items</p>"


class Layer(nn.Linear):
    """Layer that counts its texts, and has hostile ones."""

    n_texts = 0

    def extra_repr(self):
        Layer.n_texts += 1
        return HOSTILE


@pytest.fixture(scope="module")
def large():
    torch.manual_seed(0)
    hidden = [module for _ in range(300) for module in (Layer(3, 3), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(3, 4))


WRAPPED = {
    "Energy": Energy,
    "KNN": KNN,
    "ConformalDetector": lambda module: ConformalDetector(Energy(module), alpha=0.2),
    "EnsembleDetector": lambda module: ConformalDetector(
        EnsembleDetector([(str(i), Energy(module)) for i in range(4)])
    ),
}


class TestDiagrams:
    @pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
    def test_of_a_large_module(self, large, wrap):
        """A small and a large module have diagrams of about the same length."""
        small = nn.Sequential(nn.Linear(3, 4))
        Layer.n_texts = 0
        html = wrap(large)._repr_html_()
        # At most once for each place of the module in a table of parameters.
        assert Layer.n_texts <= 300 * html.count("Sequential(")
        assert abs(len(html) - len(wrap(small)._repr_html_())) < 2000
        assert "Sequential(...)" in html
        assert "<script>alert" not in html
        Layer.n_texts = 0
        assert repr(wrap(large)) == repr(wrap(small)) == str(wrap(large))
        assert Layer.n_texts == 0

    def test_in_a_pipeline(self, large, X):
        pipeline = make_pipeline(StandardScaler(), Energy(large))
        pipeline.fit(X.astype(np.float32))
        html = pipeline._repr_html_()
        assert "Energy" in html and "<script>alert" not in html
        assert len(html) < len(pipeline[:1]._repr_html_()) + 20_000

    def test_the_text_is_broken_into_lines(self, large):
        text = repr(WRAPPED["EnsembleDetector"](large))
        assert text.count("Sequential(...)") == 4
        assert len(text.splitlines()) == 8

    def test_parameters_stay_as_they_are(self, large):
        detector = Energy(large)
        repr(detector)
        assert detector.get_params()["classifier__module"] is large

    def test_after_an_error(self, large):
        class Broken(KNN):
            def get_params(self, deep=True):
                raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            repr(Broken())
        assert Energy(large).classifier.get_params()["module"] is large


CELL = """
import warnings, sys
warnings.simplefilter("always")
{before}
from skood import _progress
_progress._DELAY = 0.05
import time
with _progress.progress_bar(total=2, description="waiting", unit="step") as bar:
    time.sleep(0.5)
    bar.update(2)
with _progress.progress_bar(total=2, description="silenced", unit="step", verbose=0) as bar:
    bar.update(2)
"""


@pytest.mark.parametrize("widgets", [True, False])
def test_bars_in_a_kernel(widgets):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    if widgets:
        pytest.importorskip("ipywidgets")
    cell = CELL.format(before="" if widgets else "sys.modules['ipywidgets'] = None")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    outputs = notebook.cells[0].outputs
    text = "".join(output.get("text", "") for output in outputs)
    assert "Warning" not in text and "silenced" not in text
    shown = [output for output in outputs if output.output_type == "display_data"]
    if widgets:
        assert len(shown) == 1
        assert "application/vnd.jupyter.widget-view+json" in shown[0].data
    else:
        assert "waiting: 2/2" in text and not shown
