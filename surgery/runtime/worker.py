"""Run jobs for one engine; started as a script in the engine's own Python, and never imported by surgery.

The only argument is a folder of numbered job folders. Of each, `request.json` says what to do and
`in-<set>-<number>.npy` are the inputs; `result.json`, `out-<set>-<number>.npy`, `log.txt` (standard error) and
`position.txt` (the layer that is running) come out. Only the standard library and NumPy may be imported here,
besides the engine itself, inside the functions.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Request = dict[str, Any]  # As jobs.py writes it.
Blobs = dict[str, Any]  # Blob -> array


class RefusalError(Exception):
    """The request cannot be met; the message is for the user."""


class Folder:
    """One job's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.request: Request = json.loads((path / "request.json").read_text(encoding="utf-8"))
        self.blobs: list[list[str]] = []  # Names of what was written, for each input set.
        self.facts: dict[str, Any] = {}
        self._position: int | None = None

    def inputs(self, number: int) -> Blobs:
        """Return input set `number`."""
        names = self.request["inputs"][number]
        return {name: np.load(self.path / f"in-{number}-{j}.npy") for j, name in enumerate(names)}

    def write(self, blobs: Blobs) -> None:
        """Write what the next input set gave."""
        for j, array in enumerate(blobs.values()):
            np.save(self.path / f"out-{len(self.blobs)}-{j}.npy", np.asarray(array, dtype=np.float32))
        self.blobs.append(list(blobs))

    def at_layer(self, name: str) -> None:
        """Note, in a way that outlives an abort, that layer `name` is about to run."""
        if self._position is None:
            self._position = os.open(self.path / "position.txt", os.O_CREAT | os.O_WRONLY)
        os.pwrite(self._position, name.encode() + b"\n", 0)  # The reader takes the first line.

    def between_layers(self) -> None:
        """Note that no layer is running."""
        if self._position is not None:
            os.pwrite(self._position, b"\n", 0)

    def finish(self, **extra: Any) -> None:
        """Write `result.json` last, so that it is there only when all else is."""
        result = {"blobs": self.blobs, "facts": self.facts, **extra}
        (self.path / "result.json").write_text(json.dumps(result), encoding="utf-8")


def caffe_run(folder: Folder) -> None:
    """Run a Caffe net."""
    request = folder.request
    net = _caffe_net(request)
    recurrent = any(layer.type in ("LSTM", "RNN") for layer in net.layers)
    for number in range(len(request["inputs"])):
        # These layers carry their state into the next forward pass; nothing but a new net clears it.
        if recurrent and number:
            net = _caffe_net(request)
        _caffe_set_inputs(net, folder.inputs(number))
        # Layer by layer to know where it aborts. Each reshapes itself first, so no net.reshape() is needed.
        for i, name in enumerate(net._layer_names):
            folder.at_layer(name)
            net._forward(i, i)
        folder.between_layers()
        names = list(net.blobs) if request["all_blobs"] else request["outputs"]
        if names is None:
            names = net.outputs
        _check_known("blob", names, net.blobs)
        folder.write({name: net.blobs[name].data for name in names})


def caffe_shapes(folder: Folder) -> None:
    """Report how Caffe sets a net up, without running it."""
    net = _caffe_net(folder.request)
    if folder.request["inputs"][0]:
        _caffe_set_inputs(net, folder.inputs(0))
        net.reshape()
    names = list(net._blob_names)
    folder.facts = {
        "inputs": list(net.inputs),
        "outputs": list(net.outputs),
        "blobs": [[name, list(blob.shape)] for name, blob in net.blobs.items()],
        "layers": [
            {
                "name": name,
                "type": layer.type,
                "bottoms": [names[k] for k in net._bottom_ids(i)],
                "tops": [names[k] for k in net._top_ids(i)],
                "params": [list(blob.shape) for blob in layer.blobs],
            }
            for i, (name, layer) in enumerate(zip(net._layer_names, net.layers, strict=True))
        ],
    }


def _caffe_net(request: Request) -> Any:
    caffe: Any = importlib.import_module("caffe")  # By name: only the build's own Python has it.
    caffe.set_mode_cpu()
    caffe.set_random_seed(1)  # Fillers and Dropout draw the same numbers in every run.
    return caffe.Net(
        request["prototxt"],
        getattr(caffe, request["phase"]),
        level=request["level"],
        stages=request["stages"],
        weights=request["weights"],
    )


def _caffe_set_inputs(net: Any, arrays: Blobs) -> None:
    _check_known("input", arrays, net.inputs)
    for name in net.inputs:
        if name not in arrays:
            raise RefusalError(f"input '{name}' has no array; the net's inputs are {_quoted(net.inputs)}")
    for name, array in arrays.items():
        net.blobs[name].reshape(*array.shape)
        net.blobs[name].data[...] = array


def opencv_run(folder: Folder) -> None:
    """Run a Caffe net in OpenCV; names of outputs are `layer` or `layer`, tab, number of the top."""
    import cv2

    request = folder.request
    cv2.setNumThreads(request["threads"])
    net = cv2.dnn.readNetFromCaffe(request["prototxt"], request["weights"] or "")
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    # A fused layer's own blob is never computed, and asking for it can crash.
    net.enableFusion(False)
    names = request["outputs"]
    if request["all_blobs"]:
        names = list(net.getLayerNames())
    elif names is None:
        names = list(net.getUnconnectedOutLayersNames())
    wanted = [_layer_and_top(name) for name in names]
    _check_known("layer", [layer for layer, _ in wanted], net.getLayerNames())
    layers = list(dict.fromkeys(layer for layer, _ in wanted))
    for number in range(len(request["inputs"])):
        for name, array in folder.inputs(number).items():
            net.setInput(array, name)
        tops = dict(zip(layers, net.forwardAndRetrieve(layers), strict=True))
        for layer, top in wanted:
            if top >= len(tops[layer]):
                raise RefusalError(f"layer '{layer}' has {len(tops[layer])} outputs, not a number {top} (from 0)")
        folder.write({name: tops[layer][top] for name, (layer, top) in zip(names, wanted, strict=True)})


def _layer_and_top(name: str) -> tuple[str, int]:
    layer, _, top = name.partition("\t")
    return layer, int(top or 0)


def _check_known(kind: str, names: Any, known: Any) -> None:
    for name in names:
        if name not in known:
            raise RefusalError(f"the net has no {kind} '{name}'; it has {_quoted(known)}")


def _quoted(names: Any) -> str:
    listed = [f"'{name}'" for name in names]
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "") or "none"


TASKS: dict[tuple[str, str], Callable[[Folder], None]] = {
    ("caffe", "run"): caffe_run,
    ("caffe", "shapes"): caffe_shapes,
    ("opencv", "run"): opencv_run,
}
MODULES = {"caffe": "caffe", "opencv": "cv2"}


def run_job(folder: Folder) -> None:
    """Do one job in this process, its standard error going into the job's log."""
    log = os.open(folder.path / "log.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 2)
    try:
        TASKS[folder.request["engine"], folder.request["task"]](folder)
    except Exception as error:  # Whatever it is, the caller is another process and has to hear of it.
        traceback.print_exc()
        kind = "" if isinstance(error, (RefusalError, RuntimeError)) else f"{type(error).__name__}: "
        folder.finish(error=f"{kind}{error}")
    else:
        folder.finish()


def run_job_in_fork(folder: Folder) -> None:
    """Do one job in a child, and write down which signal ended the child, if any did."""
    child = os.fork()
    if child == 0:
        try:
            run_job(folder)
        finally:
            os._exit(0)  # The parent's exit handlers are not the child's to run.
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        folder.finish(error=None, signal=signal.Signals(os.WTERMSIG(status)).name)


def main() -> None:
    """Do the jobs of the folder named on the command line."""
    paths = sorted(Path(sys.argv[1]).iterdir(), key=lambda path: int(path.name))
    folders = [Folder(path) for path in paths]
    if len(folders) == 1:
        run_job(folders[0])
        return
    importlib.import_module(MODULES[folders[0].request["engine"]])  # Once, before the forks.
    for folder in folders:
        run_job_in_fork(folder)


if __name__ == "__main__":
    main()
