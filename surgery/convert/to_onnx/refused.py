"""Why types of layers that are known have no equivalent in ONNX."""

from __future__ import annotations

from collections.abc import Mapping

UNKNOWN = "what this type computes is not known to this tool"
_ELSEWHERE = "what it computes stands in Python code outside the file"
_TRAINING = "it serves training; cut it off (surgery deploy, or surgery extract --outputs)"

REASONS: Mapping[str, str] = {
    "CTCGreedyDecoder": "its output's length depends on the data in a way of its fork's own",
    "CenterLoss": _TRAINING,
    "CtcLoss": _TRAINING,
    "DetectionEvaluate": _TRAINING,
    "L1Loss": _TRAINING,
    "MultiBoxLoss": _TRAINING,
    "Proposal": "forks make, round and sort its regions differently, and the file does not tell which fork it is for",
    "Python": _ELSEWHERE,
    "ROIAlign": "forks differ in how they sample, and the file does not tell which fork it is for",
    "Reorg": "forks order the channels in two ways, and the file does not tell which fork it is for",
    "SmoothL1Loss": _TRAINING,
    "WarpCTCLoss": _TRAINING,
}
