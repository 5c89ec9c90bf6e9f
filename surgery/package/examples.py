"""What shows how a target's runtime loads a parcel and checks its golden vectors, and the command that times it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Example:
    """A program in a parcel: its file, how it is made ready and run, and how the runtime is timed on the network."""

    file: str
    commands: tuple[str, ...]
    time: str

    def text(self, weights: str) -> bytes:
        """Return the program, which loads the weights of that name."""
        folder = resources.files("surgery.package") / "programs"
        return (folder / self.file).read_bytes().replace(b"deploy.caffemodel", weights.encode())


_CAFFE = Example(
    "check_golden.cpp",
    (
        "g++ -std=c++11 -O2 -DCPU_ONLY check_golden.cpp -o check_golden \\",
        "    -I$CAFFE/include -L$CAFFE/lib -Wl,-rpath,$CAFFE/lib -lcaffe -lglog -lprotobuf -lboost_system",
        "./check_golden .",
    ),
    "caffe time -model deploy.prototxt -phase TEST -iterations 50",
)
_OPENCV = Example(
    "check_golden_opencv.py",
    ("python3 check_golden_opencv.py .",),
    "surgery bench deploy.prototxt deploy.caffemodel --runtime opencv",
)
_ONNXRUNTIME = Example(
    "check_golden_onnxruntime.py",
    ("python3 check_golden_onnxruntime.py .",),
    "surgery bench deploy.onnx --runtime onnxruntime",
)

EXAMPLES = {
    "caffe-1.0": _CAFFE,
    "caffe-master": _CAFFE,
    "caffe-android-lib": _CAFFE,
    "caffe-ssd": _CAFFE,
    "opencv": _OPENCV,
    "onnxruntime": _ONNXRUNTIME,
}
