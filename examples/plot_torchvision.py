"""
=============================
A network of torchvision
=============================

Any trained torch module is a classifier here, one of torchvision's with the normalisation that it
was trained with::

    classifier = PretrainedClassifier.from_torchvision("resnet18")

That downloads weights. **This page is built without a network, so its ResNet-18 has random
weights** and knows no class. Its features still tell textures apart, which is enough to show how
the parts fit together; with trained weights not a line would change.

The images are patches of scikit-learn's two photographs: those of a Chinese temple are
in-distribution, those of a flower are not.
"""

# %%
# Patches, and a network
# ----------------------
# A seed makes the random weights the same each time. ``mean`` and ``std`` are those of torchvision.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torchvision.models import resnet18

from skood import KNN, MSP, Gram, PretrainedClassifier, evaluate, share_forward_pass
from skood.inspection import EvaluationDisplay

rng = np.random.default_rng(0)


def patches(name, n, size=64):
    """Random patches of a photograph, (n, 64, 64, 3), uint8."""
    photograph = load_sample_image(name)
    rows = rng.integers(0, photograph.shape[0] - size, n)
    columns = rng.integers(0, photograph.shape[1] - size, n)
    return np.stack(
        [photograph[r : r + size, c : c + size] for r, c in zip(rows, columns, strict=True)]
    )


torch.manual_seed(0)
classifier = PretrainedClassifier(
    resnet18(weights=None).eval(), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
train, test, flower = patches("china.jpg", 300), patches("china.jpg", 80), patches("flower.jpg", 80)

# %%
# Detectors on its features
# -------------------------
# The classifier is trained already, so ``fit`` passes the patches through it once and learns what
# their features look like.
train = share_forward_pass(train)
detectors = {
    "MSP": MSP(classifier).fit(train),
    "KNN": KNN(classifier).fit(train),
    "Gram": Gram(classifier).fit(train),
}
dark = (test * 0.3).astype(np.uint8)
table = evaluate(detectors, test, {"flower": flower, "temple, darkened": dark})
print(table)
EvaluationDisplay.from_table(table, vmin=0.5, vmax=1)
plt.show()

# %%
# ``Gram`` compares how the channels of every layer go together, which is what texture is, and finds
# both sets. ``KNN`` brings features to length 1, so that a darker patch looks to it much like a
# bright one. What all of them find is style. Whether it is a temple or a flower, a network with
# random weights cannot know.
