"""Pictures, in the manner of scikit-learn's displays; needs matplotlib."""

from skood.inspection._boundary_samples import BoundarySamplesDisplay

__all__ = ["BoundarySamplesDisplay"]
