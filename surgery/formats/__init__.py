"""The only code that knows what a file format looks like inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import ModelError
from surgery.model import Model, Shape

WEIGHT_SUFFIXES = (".caffemodel", ".h5", ".hdf5")
ONNX_SUFFIX = ".onnx"

__all__ = [
    "ONNX_SUFFIX",
    "WEIGHT_SUFFIXES",
    "Source",
    "copy",
    "digest",
    "is_onnx",
    "is_weights",
    "load",
    "named",
    "split",
    "stem_of",
    "weights_of",
]


def is_weights(path: Path) -> bool:
    """Return whether a path names weights rather than a definition, by its ending."""
    return path.suffix.lower() in WEIGHT_SUFFIXES


def is_onnx(path: Path) -> bool:
    """Return whether a path names an ONNX model, by its ending."""
    return path.suffix.lower() == ONNX_SUFFIX


def split(files: Sequence[Path], *, needs_definition: bool = True) -> tuple[Path | None, Path | None]:
    """Return a model's definition and its weights, told apart by their endings; either may be missing.

    Behind an ONNX file, which names its data files itself, files of other endings are taken for these and left out.
    Raises ModelError for other numbers of files and for files that are not there.
    """
    definitions = [path for path in files if not is_weights(path)]
    if definitions and is_onnx(definitions[0]):
        definitions = [path for path in definitions if is_onnx(path) or path.suffix.lower() == ".prototxt"]
    stored = [path for path in files if is_weights(path)]
    if len(definitions) > 1 or len(stored) > 1 or (needs_definition and not definitions):
        names = " ".join(str(path) for path in files)
        expected = "one prototxt and at most one file of weights (.caffemodel, .h5), or one .onnx"
        raise ModelError(f"{names}: expected {expected}")
    if definitions and stored and is_onnx(definitions[0]):
        raise ModelError(f"{definitions[0]}: an ONNX model names its weights itself; leave out {stored[0]}")
    for path in files:
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "is not a regular file"
            raise ModelError(f"{path}: {kind}, expected a file" if path.exists() else f"{path}: no such file")
    return next(iter(definitions), None), next(iter(stored), None)


def load(
    files: Sequence[Path],
    *,
    phase: str = "TEST",
    level: int | None = None,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Shape] | None = None,
) -> Model:
    """Read a model from its files: a prototxt, with or without weights, or an ONNX file.

    `phase`, `level` and `stages` choose among a prototxt's layers; an ONNX file has no such choice.

    Raises ParseError for a damaged file, ModelError for files that do not make a model.
    """
    definition, stored = split(files)
    assert definition is not None
    if is_onnx(definition):
        from surgery.formats.onnx import onnx

        return onnx.load(definition, input_shapes)
    from surgery.formats.caffe import caffe

    return caffe.load(
        definition,
        stored,
        phase=phase,
        level=level,
        stages=stages,
        input_shapes=input_shapes,
    )


@dataclass(frozen=True)
class Source:
    """The files of a model and how they are to be read."""

    files: tuple[Path, ...]
    phase: str = "TEST"
    level: int | None = None
    stages: tuple[str, ...] = ()
    shapes: tuple[tuple[str, Shape], ...] = ()

    def load(self) -> Model:
        """Read the model."""
        return load(
            self.files,
            phase=self.phase,
            level=self.level,
            stages=self.stages,
            input_shapes=dict(self.shapes),
        )


def copy(files: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """Read a model's files and write them again, byte for byte, into `folder`; a file of weights alone will do.

    Raises ParseError for a damaged file, ModelError for a text that is no network.
    """
    definition, stored = split(files, needs_definition=False)
    if definition is not None and is_onnx(definition):
        from surgery.formats.onnx import onnx

        return onnx.copy(definition, folder, stem_of(files))
    from surgery.formats.caffe import caffe

    return caffe.copy(definition, stored, folder, stem_of(files))


def stem_of(files: Sequence[Path]) -> str:
    """Return the name, without ending, that results made from these files get: the definition's."""
    definition, stored = split(files, needs_definition=False)
    return (definition or stored or Path("model")).stem


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 over a model's files that plans are bound to."""
    definition, _ = split(files, needs_definition=False)
    if definition is not None and is_onnx(definition):
        from surgery.formats.onnx import onnx

        return onnx.digest(definition)
    from surgery.formats.caffe import weights

    return weights.file_digest(*files)


def named(files: Sequence[Path]) -> dict[str, Path]:
    """Return all files of a model, those that an ONNX file names included, by their paths in a folder of its own.

    Raises ParseError and ModelError for an ONNX file that is damaged or whose data files are not there.
    """
    definition, _ = split(files, needs_definition=False)
    if definition is None or not is_onnx(definition):
        return {path.name: path for path in files}
    from surgery.formats.onnx import graph

    model = graph.read(definition)
    data = {location: model.source.data_file(location, location) for location in model.data_files}
    return {definition.name: definition} | data


def weights_of(path: Path) -> list[tuple[str, str, tuple[Shape, ...]]]:
    """Return name, type ("" where the file does not tell) and blob shapes of every layer in a file of weights."""
    from surgery.formats.caffe import weights

    return [(entry.name, getattr(entry, "type", ""), entry.shapes) for entry in weights.read(path).layers]
