"""ONNX to Caffe: layers of stock Caffe 1.0 that compute the same numbers, or all the reasons why there are none."""

from surgery.convert.to_caffe.conversion import to_caffe
from surgery.convert.to_caffe.writing import ToCaffe

__all__ = ["ToCaffe", "to_caffe"]
