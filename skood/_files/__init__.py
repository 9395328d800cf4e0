"""Files that hold a fitted estimator, and that are safe to load."""

from skood._files._api import inspect_file, load, save

__all__ = ["inspect_file", "load", "save"]
