"""What a training network's data layers tell of the blobs that a deployed network is fed instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from surgery.errors import PlanError
from surgery.formats.caffe.network import Layer, Shape

Partial = tuple[int | None, ...]  # N, C, H, W; None where the file does not tell

_CROPS = (("crop_size", "crop_size"), ("crop_h", "crop_w"), ("crop_height", "crop_width"))


def shape_of(layer: Layer, top: int, given: Mapping[str, Shape]) -> Shape:
    """Return the shape of a data layer's blob: the one given under its name, else what the layer states.

    The batch is 1, because a deployed network is fed one image where training took many; only an Input layer and a
    DummyData blob without four axes keep the shape they state. Raises PlanError with the `--shape` that is missing.
    """
    name = layer.tops[top]
    if name in given:
        if min(given[name], default=1) < 1:
            raise PlanError(f"the shape given for '{name}' is {given[name]}; expected whole numbers from 1", layer.name)
        return given[name]
    stated = _stated(layer, top)
    known = tuple(size for size in stated if size is not None)
    if layer.type in STATED and len(known) == len(stated):
        return known
    letters = ",".join(letter if size is None else str(size) for letter, size in zip("NCHW", stated, strict=True))
    raise PlanError(f"{layer.type} does not tell the shape of blob '{name}'; give --shape {name}={letters}", layer.name)


def is_reshaped(layer: Layer, given: Mapping[str, Shape]) -> bool:
    """Return whether another shape is given for a blob of the layer than it states."""
    return any(name in given and _stated(layer, top) != given[name] for top, name in enumerate(layer.tops))


def _stated(layer: Layer, top: int) -> Partial:
    return STATED.get(layer.type, _image)(layer, top)


def _image(layer: Layer, top: int) -> Partial:
    """Return the shape of the images of a layer that transforms them; labels are not told."""
    return (1, _channels(layer), *_size(layer)) if top == 0 else (None, None, None, None)


def _size(layer: Layer) -> tuple[int | None, int | None]:
    """Return height and width after transform_param: a crop, else a resize as in SSD."""
    transform = layer.message.message("transform_param")
    for height, width in _CROPS:
        if transform.int(height) and transform.int(width):
            return transform.int(height), transform.int(width)
    resize = transform.message("resize_param")
    return resize.int("height") or None, resize.int("width") or None


def _channels(layer: Layer) -> int | None:
    transform = layer.message.message("transform_param")
    if transform.bool("force_gray"):
        return 1
    if transform.bool("force_color") or layer.message.message("data_param").bool("force_encoded_color"):
        return 3
    means = len(transform.named("mean_value"))
    return means if means > 1 else None  # One value may stand for all channels.


def _image_data(layer: Layer, top: int) -> Partial:
    param = layer.message.message("image_data_param")
    height, width = _size(layer)
    shape = 1, 3 if param.bool("is_color") else 1, height or param.int("new_height"), width or param.int("new_width")
    return tuple(size or None for size in shape) if top == 0 else (None, None, None, None)


def _memory_data(layer: Layer, top: int) -> Partial:
    param = layer.message.message("memory_data_param")
    height, width = _size(layer)
    shape = 1, param.int("channels"), height or param.int("height"), width or param.int("width")
    return tuple(size or None for size in shape) if top == 0 else (None, None, None, None)


def _window_data(layer: Layer, top: int) -> Partial:
    return (1, 3, *_size(layer)) if top == 0 else (None, None, None, None)


def _dummy_data(layer: Layer, top: int) -> Partial:
    param = layer.message.message("dummy_data_param")
    shapes: list[Partial] = [tuple(shape.ints("dim")) for shape in param.messages("shape")]
    if not shapes:
        shapes = list(zip(*(param.ints(name) for name in ("num", "channels", "height", "width")), strict=False))
    if not shapes:
        return None, None, None, None
    shape = shapes[top] if top < len(shapes) else shapes[0]  # One shape stands for all tops.
    return (1, *shape[1:]) if len(shape) == 4 else shape


def _input(layer: Layer, top: int) -> Partial:
    shapes = [tuple(shape.ints("dim")) for shape in layer.message.message("input_param").messages("shape")]
    if not shapes:
        return None, None, None, None
    return shapes[top] if top < len(shapes) else shapes[0]


# Layer types whose files can tell a blob's shape in full; of others a guess only helps to word the error.
STATED: dict[str, Callable[[Layer, int], Partial]] = {
    "AnnotatedData": _image,
    "Data": _image,
    "DummyData": _dummy_data,
    "ImageData": _image_data,
    "Input": _input,
    "MemoryData": _memory_data,
    "WindowData": _window_data,
}
