"""Caffe to ONNX and ONNX to Caffe: the same numbers, spelled in the other format."""
