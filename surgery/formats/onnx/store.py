"""Where the tensors of a written file go: into the file itself, or into one data file beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.formats.onnx import encode, write
from surgery.formats.onnx.tensor import External, Tensor

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from surgery.formats.onnx.write import Message, Part

ALIGNMENT = 64  # bytes: what a vector register or a cache line holds


@dataclass(eq=False)
class Store:
    """Gathers the data file while the model file is put together; `location` is its name beside the model."""

    location: str
    _pieces: list[tuple[int, Tensor | NDArray[Any]]] = field(default_factory=list)
    _known: dict[External, int] = field(default_factory=dict)
    _end: int = 0

    def moved(self, tensor: Tensor) -> Message:
        """Return the field of a tensor whose data comes along into the data file; equal data comes once."""
        assert tensor.external is not None
        start, end = tensor.span()
        if tensor.external not in self._known:
            self._known[tensor.external] = self._reserve(end - start)
            self._pieces.append((self._known[tensor.external], tensor))
        offset = self._known[tensor.external]
        return write.patched_external(tensor.source, tensor.record, self.location, offset, end - start)

    def added(self, name: str, array: NDArray[Any], data_type: int) -> tuple[Part, ...]:
        """Return a new TensorProto whose numbers are in the data file."""
        offset = self._reserve(array.nbytes)
        self._pieces.append((offset, array))
        return (encode.external_tensor(name, array.shape, data_type, self.location, offset, array.nbytes),)

    def write(self, path: Path) -> None:
        """Write the data file."""
        with path.open("wb") as file:
            for offset, piece in self._pieces:
                file.write(bytes(offset - file.tell()))
                if isinstance(piece, Tensor):
                    assert piece.external is not None
                    data = piece.source.data(piece.external.location, piece.name)
                    for block in write.blocks(data, *piece.span()):
                        file.write(block)
                else:
                    for numbers in write.array_blocks(piece):
                        file.write(numbers)

    def _reserve(self, length: int) -> int:
        offset = -(-self._end // ALIGNMENT) * ALIGNMENT
        self._end = offset + length
        return offset
