"""
==========================
A network from torchvision
==========================

A detector takes any trained torch module as its classifier. For a network from torchvision, this
line also sets the normalisation of its training::

    classifier = PretrainedClassifier.from_torchvision("resnet18")

It downloads weights. **This page is built without internet access, so its ResNet-18 has random
weights** and cannot classify. Its features still separate textures, which is enough to show the
code; with trained weights the code would be the same.

The images are patches of scikit-learn's two photographs: patches of a Chinese temple are
in-distribution, patches of a flower are out-of-distribution.
"""

# %%
# Patches, and a network
# ----------------------
# A seed makes the random weights reproducible. ``mean`` and ``std`` are torchvision's values.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torchvision.models import resnet18

from skood import KNN, MSP, Gram, PretrainedClassifier, evaluate, share_forward_pass
from skood.inspection import EvaluationDisplay

rng = np.random.default_rng(0)


def patches(name, n, size=64):
    """Draw random patches of a photograph, (n, 64, 64, 3), uint8."""
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
# Detectors on the network
# ------------------------
# The classifier is already trained: ``fit`` runs it once over the patches and learns statistics of
# their features.
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
# ``Gram`` compares the correlations between the channels of every layer, which describe texture, and
# separates both sets from the test patches. ``KNN`` scales features to length 1, so that the features
# of a darker patch resemble the features of a bright patch. All detectors respond to style: a network
# with random weights cannot recognise a temple or a flower.
