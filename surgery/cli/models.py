"""Several models on one command line: which files belong together, and in which runtimes to run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.cli import options
from surgery.errors import ModelError, PlanError

if TYPE_CHECKING:
    from surgery.formats import Source
    from surgery.model import Model, Shape

RUNTIMES = ("caffe", "onnxruntime", "opencv")


def split_models(files: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Return the files of each model; a prototxt or an ONNX file begins one, and weights belong to the one before."""
    from surgery.formats import is_weights

    models: list[tuple[Path, ...]] = []
    for file in files:
        if not is_weights(file):
            models.append((file,))
        elif not models:
            raise ModelError(f"{file}: weights without a model; each model begins with its prototxt or is an ONNX file")
        else:
            models[-1] += (file,)
    return models


def read_models(models: Sequence[tuple[Path, ...]], network: dict[str, Any]) -> list[tuple[Source, Model]]:
    """Read the models, with the shapes that were asked for given to those that have such inputs."""
    sources = [options.source(files, (), network["phase"], network["level"], network["stages"]) for files in models]
    loaded = [source.load() for source in sources]
    for shape in (options.parse_shape(text) for text in network["shapes"]):
        wider = [_with_shape(source, shape) for source in sources]
        refusals = [result for result in wider if isinstance(result, ModelError)]
        if len(refusals) == len(wider):
            raise refusals[0]
        for i, result in enumerate(wider):
            if not isinstance(result, ModelError):
                sources[i], loaded[i] = result
    return list(zip(sources, loaded, strict=True))


def _with_shape(source: Source, shape: tuple[str, Shape]) -> tuple[Source, Model] | ModelError:
    """Return the model read with one more shape, or why it does not take it: the input may be another model's."""
    wider = replace(source, shapes=(*source.shapes, shape))
    try:
        return wider, wider.load()
    except ModelError as error:
        return error


def parse_runtimes(text: str, known: Sequence[str]) -> list[str]:
    """Read `onnxruntime` or `caffe,opencv`; raises PlanError for a name that is not known."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise PlanError(f"--runtime {text[:60]}: no runtime '{name[:60]}'; expected {', '.join(known)}")
    return names
