"""Recommendation of a detector for a user's model and data."""

from skood._recommendation._recommend import recommend
from skood._recommendation._result import Recommendation

__all__ = ["Recommendation", "recommend"]
