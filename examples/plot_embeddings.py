"""
==============================================
Any embedding: text, with k nearest neighbours
==============================================

A detector on features needs no network of skood. Embeddings, rows of numbers that describe items, can
come from a language model, an audio network or, as here, from word counts: without a classifier,
:class:`~skood.posthoc.KNN` compares the rows themselves.

The texts are part of every installation. The docstrings of numpy are in-distribution. The
docstrings of Python's ``email`` and ``http`` packages describe other subjects; the docstrings of
scipy's special functions resemble numpy's.
"""

# %%
# Texts and their embeddings
# --------------------------
# The first thirty components of the word frequencies describe each text.
import importlib
import inspect

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skood import KNN, ConformalDetector
from skood.inspection import ScoreDistributionDisplay
from skood.metrics import auroc


def documentation(*modules):
    """Return the docstrings of modules' functions and classes, of 50 characters or more."""
    members = [vars(importlib.import_module(name)).values() for name in modules]
    callables = [member for values in members for member in values if callable(member)]
    texts = {inspect.getdoc(member) or "" for member in callables}
    return sorted(text for text in texts if len(text) >= 50)


numpy_train, numpy_test = train_test_split(
    documentation("numpy", "numpy.linalg", "numpy.fft", "numpy.ma"), test_size=0.3, random_state=0
)
others = {
    "scipy.special": documentation("scipy.special"),
    "email, http": documentation(
        "email.message", "email.policy", "email.headerregistry", "http.client", "http.cookiejar"
    ),
}
print(f"{len(numpy_train)} training texts, {len(numpy_test)} test texts")

embed = make_pipeline(
    TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=2),
    TruncatedSVD(30, random_state=0),
)
X_train = embed.fit_transform(numpy_train)

# %%
# Neighbours among the embeddings
# -------------------------------
# The direction of an embedding describes the subject of a text; its length mainly measures how much
# of the text the embedding covers. By default ``KNN`` does not scale rows, since they may be a table;
# ``normalize=True`` compares directions. The threshold comes from held-out texts, so that on average
# at most a tenth of new numpy texts are rejected.
neighbors = KNN(n_neighbors=5, normalize=True)
detector = ConformalDetector(neighbors, alpha=0.1, random_state=0).fit(X_train)
sets = {"numpy, new": embed.transform(numpy_test)}
sets |= {name: embed.transform(texts) for name, texts in others.items()}
display = ScoreDistributionDisplay.from_estimator(detector, sets)
inside = display.scores["numpy, new"]
for name in others:
    outside = display.scores[name]
    truth = np.repeat([1, -1], [len(inside), len(outside)])
    print(f"{name}: AUROC {auroc(truth, np.append(inside, outside)):.3f}")
plt.show()

# %%
# Word counts separate the packages only roughly: the AUROC is about 0.8, and a fraction of the other
# texts is accepted. Without ``normalize=True`` the AUROC is below 0.5: the embedding covers little of
# the texts of other packages, so that their embeddings are close to 0 and thus close to all others. A
# better embedding gives a better detector with the same code.
