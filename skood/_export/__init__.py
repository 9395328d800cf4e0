"""Export of fitted detectors as graphs of ONNX and of torch."""

from skood._export._export import export, exportable

__all__ = ["export", "exportable"]
