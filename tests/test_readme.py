"""The code of README.md, with small stand-ins for the reader's data and networks."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import skood

README = Path(__file__).parents[1] / "README.md"


def code():
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)


def test_the_first_code_comes_within_ten_lines():
    lines = README.read_text().splitlines()
    assert len(lines) < 150
    assert lines.index("```python") < 10


@pytest.mark.parametrize("block", code(), ids=lambda block: block.splitlines()[0])
def test_the_code_runs(block, monkeypatch, tmp_path):
    from estimators import tiny_flow, tiny_mlp, tiny_pixelcnn

    monkeypatch.chdir(tmp_path)
    X, y = load_digits(return_X_y=True)
    inliers = y < 4
    X, Y, y = X[inliers][:300], X[~inliers][:20], y[inliers][:300]
    known = np.concatenate([y, np.full(20, -1)])
    classifier = tiny_mlp(random_state=0).fit(X, y)
    small = {
        "LikelihoodRatio": lambda: skood.LikelihoodRatio(tiny_pixelcnn(image_shape=(1, 8, 8))),
        "NeuralSplineFlow": tiny_flow,
    }
    # The networks of the defaults take minutes.
    for name in small:
        block = re.sub(rf"\b{name}\(\)", f"_small_{name}()", block)
    searched = "GridSearchCV" in block
    names = {
        "X": np.concatenate([X, Y]) if searched else X,
        "y": known if searched else y,
        "Y": Y,
        "classifier": tiny_mlp(random_state=0) if searched else classifier,
        "network": classifier.module_.cpu(),
        "ODIN": skood.ODIN,
        "KNN": skood.KNN,
        "embeddings": X,
        "new_embeddings": Y,
        "table": X,
        "unseen": X[:100],
        **{f"_small_{name}": make for name, make in small.items()},
    }
    exec(compile(textwrap.dedent(block), str(README), "exec"), names)
