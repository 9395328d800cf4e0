"""Classifiers: the networks of the literature as scikit-learn estimators."""

from skood._torch.settings import multi_step
from skood.classifiers._airbench import Airbench
from skood.classifiers._base import NeuralClassifier
from skood.classifiers._convnet import ConvNet
from skood.classifiers._densenet import DenseNet
from skood.classifiers._feature_extractor import FeatureExtractor
from skood.classifiers._lenet import LeNet
from skood.classifiers._mlp import MLP
from skood.classifiers._mnist_convnet import MNISTConvNet
from skood.classifiers._pretrained import PretrainedClassifier
from skood.classifiers._resnet import ResNet
from skood.classifiers._shallow_convnet import ShallowConvNet
from skood.classifiers._vgg import VGG
from skood.classifiers._wide_resnet import WideResNet

__all__ = [
    "MLP",
    "VGG",
    "Airbench",
    "ConvNet",
    "DenseNet",
    "FeatureExtractor",
    "LeNet",
    "MNISTConvNet",
    "NeuralClassifier",
    "PretrainedClassifier",
    "ResNet",
    "ShallowConvNet",
    "WideResNet",
    "multi_step",
]
