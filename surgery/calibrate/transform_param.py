"""The preprocessing that a training network's own data layer states."""

from __future__ import annotations

from typing import Any

from surgery.calibrate.preprocess import Preprocess, with_mean_file
from surgery.formats.caffe.network import Layer
from surgery.model import Model


def stated(model: Model) -> Preprocess | None:
    """Return what the first data layer that runs, else the first of all, states; None where there is none.

    What only training does, as mirroring, does not count. A mean file is looked for beside the prototxt. Raises
    DataError where it is not there.
    """
    if model.format.name != "caffe":
        return None
    net = model.native
    for layer in (*net.active, *net.layers):
        if layer.message.has("transform_param") or layer.type == "ImageData":
            return _of(layer, model)
    return None


def _of(layer: Layer, model: Model) -> Preprocess:
    transform = layer.message.message("transform_param")
    fields: dict[str, Any] = {"scale": transform.float("scale")}
    if size := transform.int("crop_size"):
        fields["crop"] = (size, size)
    if values := [float(value) for value in transform.all("mean_value")]:
        fields["mean"] = tuple(values)
    elif name := transform.str("mean_file"):
        fields |= with_mean_file(model.native.files[0].parent / name)
    is_grey = transform.bool("force_gray")
    if layer.type == "ImageData":
        own = layer.message.message("image_data_param")
        is_grey = is_grey or not own.bool("is_color")
        if height := own.int("new_height"):
            fields["resize"] = (height, own.int("new_width") or height)
    return Preprocess(channels="grey" if is_grey else "bgr", **fields)
