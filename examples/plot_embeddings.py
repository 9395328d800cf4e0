"""
===============================================
Embeddings from anywhere: text, by neighbours
===============================================

A detector on features needs no network of ours. Rows of numbers that describe items, an embedding,
can come from a language model, an audio network or, as here, from counting words: without a
classifier, :class:`~skood.posthoc.KNN` compares the rows themselves.

The texts are at hand in every installation: the documentation strings of numpy's functions are
in-distribution. Those of Python's ``email`` and ``http`` packages are documentation too, of other
things, and those of scipy's special functions are close to numpy's.
"""

# %%
# Texts and their embeddings
# --------------------------
# Word frequencies, and of these the first components: thirty numbers for each text.
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
    """Documentation strings of functions and classes of modules, of 50 characters or more."""
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
print(f"{len(numpy_train)} texts to learn from, {len(numpy_test)} to test on")

embed = make_pipeline(
    TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=2),
    TruncatedSVD(30, random_state=0),
)
X_train = embed.fit_transform(numpy_train)

# %%
# Neighbours among the embeddings
# -------------------------------
# The direction of an embedding says what a text is about, and its length little more than how much of
# it the embedding covers. ``KNN`` leaves rows as they are unless it is told otherwise, since they may
# be a table: ``normalize=True`` compares directions. The threshold comes from texts that were held
# out, so that at most a tenth of numpy's other texts are taken for something else.
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
# Counted words tell the packages apart only roughly: an AUROC of .8, and a part of the other texts
# passes. Without ``normalize=True`` it is below .5: texts of other packages, of which the embedding
# covers little, lie close to 0 and so close to everything. With a better embedding the same lines
# give a better detector; nothing else would change.
