"""The runtimes that can run a network's files, by name."""

from surgery.runtime.caffe import Caffe, LayerTimes, NetLayer, NetShapes
from surgery.runtime.engine import Array, Engine, Inputs, Job, Passes, Phase, job_of
from surgery.runtime.onnxruntime import OnnxRuntime
from surgery.runtime.opencv import OpenCV

ENGINES: dict[str, Engine] = {
    "caffe": Caffe(),
    "onnxruntime": OnnxRuntime(),
    "opencv": OpenCV(),
}

__all__ = [
    "ENGINES",
    "Array",
    "Caffe",
    "Engine",
    "Inputs",
    "Job",
    "LayerTimes",
    "NetLayer",
    "NetShapes",
    "OnnxRuntime",
    "OpenCV",
    "Passes",
    "Phase",
    "job_of",
]
