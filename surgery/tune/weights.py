"""The constants of a program as torch tensors: blobs that are trained, statistics, the rest; and back into files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from surgery.model import Model, Overwrite
from surgery.tune.program import Place, Program

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Constants(nn.Module):
    """The tensors that a program knows before it runs, by name.

    Blobs are parameters, with gradients where `trained` has their layer; statistics of BatchNorms are buffers that are
    saved with them, other real numbers buffers that are not; whole numbers, most of them shapes, stay on the CPU.
    """

    def __init__(self, program: Program, trained: Collection[str], dtype: torch.dtype) -> None:
        super().__init__()
        self._program = program
        self._dtype = dtype
        self._blobs = nn.ParameterList()
        self._numbers: dict[Place, int] = {}  # of parameters, by the blob
        self._names: dict[str, str] = {}  # of buffers, by the tensor
        self._whole: dict[str, Tensor] = {}
        for name in dict.fromkeys((*program.places, *program.constants)):
            place, array = program.places.get(name), program.constants[name]
            if array.dtype.kind != "f":
                self._whole[name] = torch.from_numpy(np.array(array, copy=True))
            elif place is None or name in program.statistics:
                self._names[name] = f"{'other' if place is None else 'statistic'}_{len(self._names)}"
                self.register_buffer(self._names[name], self._start(name), persistent=place is not None)
            elif place not in self._numbers:
                self._numbers[place] = len(self._numbers)
                self._blobs.append(nn.Parameter(self._start(name), requires_grad=place.key in trained))

    def __getitem__(self, name: str) -> Tensor:
        """Return a constant in the shape in which the program reads it."""
        if name in self._whole:
            return self._whole[name]
        if name in self._names:
            return self.get_buffer(self._names[name])
        return self.shaped(name, self._blobs[self._numbers[self._program.places[name]]])

    def shaped(self, name: str, blob: Tensor) -> Tensor:
        """Return a blob in the shape of the constant `name`, which holds it."""
        shape = self._program.constants[name].shape
        return blob if blob.shape == shape else blob.reshape(shape)

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters by the names of their blobs."""
        for place, number in self._numbers.items():
            yield str(place), self._blobs[number]

    def changed(self) -> dict[Place, Array]:
        """Return the blobs that are not as the files have them, in float32 or what the network computes in."""
        found = {}
        for name, place in self._program.places.items():
            tensor = self[name].detach().cpu()
            if place not in found and not torch.equal(tensor, self._start(name)):
                found[place] = tensor.numpy()
        scaled = {place.key for place in found if place.key in self._program.scaled}
        for name in self._program.statistics:
            place = self._program.places[name]
            if place.key in scaled and place.blob < 2:
                # What the file holds of them is times blob 2, whatever that was.
                found[place] = self[name].detach().cpu().numpy()
                found[Place(place.key, 2)] = np.ones(1, np.float32)
        return found

    def _start(self, name: str) -> Tensor:
        """Return a constant as the files have it, in a memory of its own."""
        kind = np.float64 if self._dtype == torch.float64 else np.float32
        return torch.from_numpy(np.array(self._program.constants[name], kind)).to(self._dtype)


def written(model: Model, numbers: Mapping[Place, Array]) -> Model:
    """Return the model with other numbers in these blobs, and everything else of its files as it was."""
    layers: dict[str, dict[int, Array]] = {}
    for place, array in numbers.items():
        layers.setdefault(place.key, {})[place.blob] = array
    return model.edit(*(Overwrite(key, blobs) for key, blobs in layers.items()))
