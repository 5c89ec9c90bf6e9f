"""Caffe: prototxt and caffemodel, read and written without touching what is not cut."""
