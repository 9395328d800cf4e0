"""
=======================================================
Classes named in words: an image tower and a text tower
=======================================================

How to detect images that fit none of your class names. Models such as CLIP are a pair of networks:
an image tower and a text tower, trained so that the vector of an image lies near the vector of its
caption. Class names then suffice for a classifier. :class:`~skood.posthoc.MCM` detects images that
fit no class name, and :class:`~skood.posthoc.NegLabel` compares the class names with other words.

CLIP would have to be downloaded, so this script trains a pair of its own, on scikit-learn's digits
of 8 x 8 pixels. Its vocabulary has 14 words: it is a model of the idea and not of CLIP's quality.
"""

# %%
# A pair of towers
# ----------------
# Captions are names of digits, such as "two", and names of changed digits, such as "rotated two" or
# "rotated digit". The training has no changed digits from seven to nine: the pair knows the
# words, but not their combination.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from skood import CSP, KNN, MCM, FeatureExtractor, NegLabel
from skood.inspection import ScoreDistributionDisplay
from skood.metrics import auroc

NAMES = "zero one two three four five six seven eight nine".split()
STRIPES = (np.arange(8) % 2)[:, None].astype(np.float32)
CHANGES = {
    "rotated": lambda images: np.rot90(images, axes=(1, 2)),
    "inverted": lambda images: 1 - images,
    "striped": lambda images: images * STRIPES,
}
CAPTIONS = [
    *NAMES,
    *(f"{change} {name}" for change in CHANGES for name in NAMES[:7]),
    *(f"{change} digit" for change in CHANGES),
]
TOKENS = sorted({word for caption in CAPTIONS for word in caption.split()})

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32).reshape(-1, 8, 8)
train, test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)


def counts(texts):
    """Count the words of each text."""
    return np.array([[text.split().count(t) for t in TOKENS] for text in texts], np.float32)


class TextTower(TransformerMixin, BaseEstimator):
    """The sum of the vectors of a text's words."""

    def __init__(self, module):
        self.module = module

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        with torch.no_grad():
            return self.module(torch.tensor(counts(X))).numpy()


# %%
# The loss is a softmax over all captions of the cosines, divided by a temperature, which is
# learned, too. An image has one or two right captions.
def captioned():
    """Return training images, and for each the probabilities of the captions."""
    images, shares = [train], [np.eye(len(CAPTIONS))[y_train]]
    few = y_train < 7
    for change, function in CHANGES.items():
        target = np.zeros((few.sum(), len(CAPTIONS)))
        target[:, CAPTIONS.index(f"{change} digit")] = 0.5
        columns = [CAPTIONS.index(f"{change} {NAMES[label]}") for label in y_train[few]]
        target[np.arange(few.sum()), columns] = 0.5
        images.append(function(train[few]))
        shares.append(target)
    return torch.tensor(np.concatenate(images)), torch.tensor(np.concatenate(shares)).float()


torch.manual_seed(0)
hidden = nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2)
image_module = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 32))
text_module = nn.Linear(len(TOKENS), 32, bias=False)
log_scale = nn.Parameter(torch.tensor(2.0))
weights = [*image_module.parameters(), *text_module.parameters(), log_scale]
optimizer = torch.optim.Adam(weights, 3e-3)
images, shares = captioned()
texts = torch.tensor(counts(CAPTIONS))
for _ in range(600):
    rows = torch.randint(len(images), (256,))
    z = nn.functional.normalize(image_module(images[rows]), dim=1)
    t = nn.functional.normalize(text_module(texts), dim=1)
    loss = nn.functional.cross_entropy(log_scale.exp() * z @ t.T, shares[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
image_module.eval()
temperature = 1 / log_scale.exp().item()
print(f"learned temperature: {temperature:.3f}")

# %%
# Detectors
# ---------
# The detectors take the names of the classes and the two towers. ``fit`` sets the threshold, on
# digits as they are. The candidates of ``NegLabel`` are all other captions. The published 15 % of
# 70 000 words would be 3 of these 24, so all are negative labels. ``CSP`` makes phrases of its own,
# of adjectives and nouns that fit any class. The prompts are the bare words, since the towers know
# no others.
pair = {"features": FeatureExtractor(image_module), "text_features": TextTower(text_module)}
words = [caption for caption in CAPTIONS if caption not in NAMES]
negatives = {"n_negatives": 1.0, "n_groups": 1, "temperature": temperature}
detectors = {
    "MCM, T = 1": MCM(NAMES, template="{}", **pair),
    "MCM, learned T": MCM(NAMES, template="{}", temperature=temperature, **pair),
    "NegLabel": NegLabel(NAMES, words, template="{}", **negatives, **pair),
    "CSP": CSP(
        NAMES,
        words,
        template="{}",
        adjectives=list(CHANGES),
        adjective_template="{}",
        superclasses=["{} digit"],
        **negatives,
        **pair,
    ),
    "KNN": KNN(FeatureExtractor(image_module), normalize=True, n_neighbors=5),
}
for detector in detectors.values():
    detector.fit(train)
named = detectors["NegLabel"].predict_class(test)
accepted = named != "-1"
right = (named == np.array(NAMES)[y_test])[accepted].mean()
print(
    f"{100 * accepted.mean():.1f} % of new digits accepted, {100 * right:.1f} % of them named right"
)

# %%
# Which words help
# ----------------
# Three kinds of OOD images: changes that are among the negative labels; changed digits from seven
# to nine, whose captions the pair has never read; and changes that no word describes.
shuffled = np.random.default_rng(0).permuted(test.reshape(len(test), -1), axis=1)
ood = {
    **{f"{change} 0 to 6": function(test[y_test < 7]) for change, function in CHANGES.items()},
    **{f"{change} 7 to 9": function(test[y_test > 6]) for change, function in CHANGES.items()},
    "upside down": test[:, ::-1],
    "halves exchanged": np.roll(test, 4, axis=2),
    "shuffled pixels": shuffled.reshape(test.shape),
}
ood = {name: np.ascontiguousarray(images, dtype=np.float32) for name, images in ood.items()}
figure, axes = plt.subplots(2, 5, figsize=(8, 3.8), layout="constrained")
for ax, (name, images) in zip(axes.flat, {"known digits": test, **ood}.items(), strict=True):
    ax.imshow(images[1], cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_title(name, fontsize=10)

# %%
# AUROC of the five detectors against each of them:
print(f"{'':16}", *(f"{name:>16}" for name in detectors))
for name, images in ood.items():
    row = []
    for detector in detectors.values():
        scores = np.concatenate([detector.score_samples(test), detector.score_samples(images)])
        row.append(auroc(np.repeat([1, -1], [len(test), len(images)]), scores))
    print(f"{name:16}", *(f"{area:16.3f}" for area in row))

# %%
# Negative labels separate every change that a word describes, for combinations of words that the
# pair has not read, too, and two changes without words. But digits that are upside down are near
# the names of digits and of no other caption: here the negative labels are useless, and ``MCM`` is
# better. ``KNN`` on the image vectors needs no words, but training images.
#
# Distribution of the scores
# --------------------------
# The score is the log-odds of the share that the class names have in the softmax.
shown = {"new digits": test, **{name: ood[name] for name in ("rotated 7 to 9", "upside down")}}
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for ax, name in zip(axes, ("MCM, learned T", "NegLabel"), strict=True):
    ScoreDistributionDisplay.from_estimator(detectors[name], shown, ax=ax)
    ax.set_title(name)
plt.show()
