"""
=======================
A trained torch network
=======================

How to detect images of unknown classes with a network that you have trained: a ResNet-18 of
torchvision becomes a detector in one line, without further training.

The weights that torchvision offers for download need one line as well, which also sets the
normalisation of their training::

    classifier = PretrainedClassifier.from_torchvision("resnet18")

Here nothing is downloaded. The script trains the ResNet-18 for some seconds on scikit-learn's
handwritten digits 0 to 7. Images of other kinds are out-of-distribution: the digits 8 and 9, which
are near to the known digits, and patches of a photograph, which are far from them.
"""

# %%
# A network
# ---------
# This part stands for your own training. The digits are enlarged to colour images of 32 x 32
# pixels, with values from 0 to 255.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_image
from sklearn.model_selection import train_test_split
from torchvision.models import resnet18

from skood import MSP, Mahalanobis, PretrainedClassifier, ViM, evaluate, share_forward_pass

digits = load_digits()
images = (255 / 16 * digits.images).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
images = np.stack([images] * 3, axis=-1)
known = digits.target <= 7
X_train, X_test, y_train, y_test = train_test_split(
    images[known], digits.target[known], test_size=0.4, random_state=0
)

torch.manual_seed(0)
network = resnet18(num_classes=8)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
x, y = torch.tensor(X_train).permute(0, 3, 1, 2) / 255, torch.tensor(y_train)
for _ in range(4):
    for rows in torch.randperm(len(x))[:864].split(32):
        loss = torch.nn.functional.cross_entropy(network((x[rows] - 0.5) / 0.5), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %%
# Detectors on the network
# ------------------------
# ``PretrainedClassifier`` wraps the network. ``mean`` and ``std`` are the normalisation of its
# training, for pixels from 0 to 1. ``fit`` of a detector runs the network once over the training
# images and learns statistics of its outputs.
classifier = PretrainedClassifier(network.eval(), mean=(0.5,) * 3, std=(0.5,) * 3)
training = share_forward_pass(X_train)
detectors = {
    "MSP": MSP(classifier).fit(training, y_train),
    "Mahalanobis": Mahalanobis(classifier).fit(training, y_train),
    "ViM": ViM(classifier).fit(training, y_train),
}

# %%
# How well they detect
# --------------------
# An AUROC of 1 means that every known digit has a higher score than every unknown image, and 0.5 is
# chance. FPR95 is the fraction of unknown images that are accepted if 95 % of the known digits are.
# The accuracy comes first: a network that has not learned its classes detects nothing.
photograph = load_sample_image("flower.jpg")
rng = np.random.default_rng(0)
corners = rng.integers(0, np.array(photograph.shape[:2]) - 32, size=(200, 2))
patches = np.stack([photograph[i : i + 32, j : j + 32] for i, j in corners])
unknown = {"digits 8 and 9": images[~known], "patches of a flower": patches}
table = evaluate(detectors, X_test, unknown, y_test, metrics=["auroc", "fpr95"])
print(f"accuracy on new digits 0 to 7: {100 * table[0]['id_accuracy']:.1f} %\n")
for row in table:
    print(
        f"{row['detector']:12}{row['ood_set']:20} "
        f"AUROC {row['auroc']:.3f}, FPR95 {100 * row['fpr95']:4.1f} %"
    )

# %%
# One image at a time
# -------------------
# ``predict_class`` returns the class of an image, or -1 for a rejected image.
shown = np.concatenate([X_test[:6], images[~known][:6], patches[:6]])
answers = detectors["ViM"].predict_class(shown)
figure, axes = plt.subplots(3, 6, figsize=(8, 4.6), layout="constrained")
for axis, image, answer in zip(axes.flat, shown, answers, strict=True):
    axis.imshow(image)
    axis.set(xticks=[], yticks=[])
    axis.set_title("rejected" if answer == -1 else f"accepted as {answer}", fontsize=10)
for axis, name in zip(axes[:, 0], ("digits 0 to 7", "digits 8 and 9", "flower"), strict=True):
    axis.set_ylabel(name)
figure.suptitle("Answers of ViM")
plt.show()

# %%
# ``ViM`` and ``Mahalanobis`` read the features of the network and detect both kinds of images
# better than ``MSP``, the largest softmax probability.
# :ref:`sphx_glr_auto_examples_trained_networks_plot_posthoc.py` compares twenty detectors.
