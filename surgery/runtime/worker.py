"""Run jobs for one engine; started as a script in the engine's own Python, and never imported by surgery.

The only argument is a folder of numbered job folders. Of each, `request.json` says what to do and
`in-<set>-<number>.npy` are the inputs; `result.json`, `out-<set>-<number>.npy`, `log.txt` (standard error) and
`position.txt` (the layer that is running) come out. A job that is timed takes orders on standard input and answers on
standard output. Only the standard library and NumPy may be imported here, besides the engine itself, inside the
functions.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

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
        self.answers: IO[str] = sys.stdout  # Where a job that is timed answers.
        self._position: int | None = None

    def inputs(self, number: int) -> Blobs:
        """Return input set `number`."""
        self.time_limit()
        names = self.request["inputs"][number]
        return {name: np.load(self.path / f"in-{number}-{j}.npy") for j, name in enumerate(names)}

    def time_limit(self) -> None:
        """Let the system end this process unless it comes here again in time: a file may make an engine loop."""
        if hasattr(signal, "alarm"):
            signal.alarm(self.request["limit_s"])

    def no_time_limit(self) -> None:
        """Wait for as long as it takes."""
        if hasattr(signal, "alarm"):
            signal.alarm(0)

    def write(self, blobs: Blobs) -> None:
        """Write what the next input set gave."""
        for j, array in enumerate(blobs.values()):
            np.save(self.path / f"out-{len(self.blobs)}-{j}.npy", array, allow_pickle=False)
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
    prototxt, weights = _definition_and_weights(request)
    return caffe.Net(
        prototxt, getattr(caffe, request["phase"]), level=request["level"], stages=request["stages"], weights=weights
    )


def _definition_and_weights(request: Request) -> tuple[str, str | None]:
    files = request["files"]
    return files[0], files[1] if len(files) > 1 else None


def _caffe_set_inputs(net: Any, arrays: Blobs) -> None:
    _check_known("input", arrays, net.inputs)
    for name in net.inputs:
        if name not in arrays:
            raise RefusalError(f"input '{name}' has no array; the net's inputs are {_quoted(net.inputs)}")
    for name, array in arrays.items():
        net.blobs[name].reshape(*array.shape)
        net.blobs[name].data[...] = array


def caffe_time(folder: Folder) -> None:
    """Time Caffe's forward pass."""
    net = _caffe_net(folder.request)
    _caffe_set_inputs(net, folder.inputs(0))
    net.reshape()
    last = len(net.layers) - 1
    _take_orders(folder, lambda: net._forward(0, last))


def opencv_run(folder: Folder) -> None:
    """Run a net in OpenCV; names of outputs are `layer` or `layer`, tab, number of the top, or an ONNX output."""
    request = folder.request
    net = _opencv_net(request)
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
        _opencv_set_inputs(net, folder.inputs(number))
        tops = dict(zip(layers, net.forwardAndRetrieve(layers), strict=True))
        for layer, top in wanted:
            if top >= len(tops[layer]):
                raise RefusalError(f"layer '{layer}' has {len(tops[layer])} outputs, not a number {top} (from 0)")
        folder.write({name: tops[layer][top] for name, (layer, top) in zip(names, wanted, strict=True)})


def opencv_time(folder: Folder) -> None:
    """Time OpenCV's forward pass, its inputs handed over each time."""
    net = _opencv_net(folder.request)
    names = list(net.getUnconnectedOutLayersNames())
    inputs = folder.inputs(0)

    def forward() -> None:
        _opencv_set_inputs(net, inputs)
        net.forward(names)

    _take_orders(folder, forward)


def _opencv_net(request: Request) -> Any:
    import cv2

    cv2.setNumThreads(request["threads"])
    definition, weights = _definition_and_weights(request)
    if definition.lower().endswith(".onnx"):
        net = cv2.dnn.readNetFromONNX(definition)
    else:
        net = cv2.dnn.readNetFromCaffe(definition, weights or "")
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    return net


def _opencv_set_inputs(net: Any, arrays: Blobs) -> None:
    for name, array in arrays.items():
        net.setInput(np.ascontiguousarray(array, np.float32).reshape(array.shape), name)


def _layer_and_top(name: str) -> tuple[str, int]:
    layer, _, top = name.partition("\t")
    return layer, int(top or 0)


# What ONNX Runtime calls the types of tensors that NumPy has too.
_ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "bool")},
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_ONNX_ERRORS = 3  # The severity from which it logs.


def onnxruntime_run(folder: Folder) -> None:
    """Run an ONNX model as its graph is written: no optimisation fuses nodes or changes what they round."""
    request = folder.request
    session = _onnxruntime_session(request, "ORT_DISABLE_ALL")
    made = [output.name for output in session.get_outputs()]
    for number in range(len(request["inputs"])):
        feed = _onnxruntime_feed(session, folder.inputs(number))
        names = made if request["outputs"] is None else request["outputs"]
        _check_known("tensor", names, [*made, *feed])
        fetched = [name for name in dict.fromkeys(names) if name not in feed]
        values = {**feed, **dict(zip(fetched, session.run(fetched, feed), strict=True))}
        wanted = {name: values[name] for name in names if request["outputs"] is not None or _is_array(values[name])}
        for name, value in wanted.items():
            if not _is_array(value):
                raise RefusalError(f"'{name}' is no tensor of numbers")
        folder.write(wanted)


def onnxruntime_time(folder: Folder) -> None:
    """Time ONNX Runtime with all of its optimisations; what it returns is copied out each time, as for any caller."""
    session = _onnxruntime_session(folder.request, "ORT_ENABLE_ALL")
    feed = _onnxruntime_feed(session, folder.inputs(0))
    _take_orders(folder, lambda: session.run(None, feed))


def _onnxruntime_session(request: Request, level: str) -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(_ONNX_ERRORS)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONNX_ERRORS
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    # Idle threads would go on spinning into the turn of whatever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(request["files"][0], options, providers=["CPUExecutionProvider"])


def _onnxruntime_feed(session: Any, arrays: Blobs) -> Blobs:
    types = {value.name: value.type for value in session.get_inputs()}
    _check_known("input", arrays, types)
    for name, kind in types.items():
        if name not in arrays:
            raise RefusalError(f"input '{name}' has no array; the net's inputs are {_quoted(types)}")
        if kind not in _ONNX_TYPES:
            raise RefusalError(f"input '{name}' is {kind}; only tensors of numbers can be given")
    return {
        name: np.ascontiguousarray(array, _ONNX_TYPES[types[name]]).reshape(array.shape)
        for name, array in arrays.items()
    }


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _take_orders(folder: Folder, forward: Callable[[], object]) -> None:
    """Answer each number on standard input with the seconds that so many forward passes take."""
    print("loaded", file=folder.answers)
    folder.no_time_limit()
    for order in sys.stdin:
        folder.time_limit()
        start = time.perf_counter()
        for _ in range(int(order)):
            forward()
        folder.no_time_limit()
        print(time.perf_counter() - start, file=folder.answers)


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
    ("caffe", "time"): caffe_time,
    ("onnxruntime", "run"): onnxruntime_run,
    ("onnxruntime", "time"): onnxruntime_time,
    ("opencv", "run"): opencv_run,
    ("opencv", "time"): opencv_time,
}
MODULES = {"caffe": "caffe", "onnxruntime": "onnxruntime", "opencv": "cv2"}


def run_job(folder: Folder) -> None:
    """Do one job in this process, its standard error going into the job's log."""
    log = os.open(folder.path / "log.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    folder.answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(log, 2)
    os.dup2(log, 1)  # What the engine prints is not an answer.
    folder.time_limit()
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
