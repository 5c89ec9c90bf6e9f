"""Load deploy.onnx with ONNX Runtime, run the golden inputs, compare with the golden outputs.

check_golden_onnxruntime.py [FOLDER]     of the unpacked parcel; exit code 0 where every output agrees, else 1
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
samples: dict[str, Any] = {}  # By sample, then "input" or "output": blob, array, tolerance.
for line in (folder / "golden/index.txt").read_text(encoding="utf-8").split("\n")[:-1]:
    kind, sample, file, tolerance, blob = line.split(" ", 4)
    array = np.load((folder / file).with_suffix(".npy"))
    samples.setdefault(sample, {"input": [], "output": []})[kind].append((blob, array, float(tolerance)))

session = onnxruntime.InferenceSession(str(folder / "deploy.onnx"), providers=["CPUExecutionProvider"])
types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(double)": np.float64, "tensor(bool)": np.bool_}
wanted = {value.name: types.get(value.type, np.float32) for value in session.get_inputs()}
all_agree = bool(samples)
for sample, vectors in samples.items():
    fed = {blob: array.astype(wanted[blob]) for blob, array, _ in vectors["input"]}
    names = [blob for blob, _, _ in vectors["output"]]
    for computed, (blob, golden, tolerance) in zip(session.run(names, fed), vectors["output"], strict=True):
        error = np.linalg.norm(computed.astype(float) - golden)
        agrees = computed.shape == golden.shape and error <= tolerance * np.linalg.norm(golden.astype(float))
        all_agree &= agrees
        print("ok   " if agrees else "WRONG", f"sample {sample}, {blob}: off by {error:.1e} in all")
sys.exit(0 if all_agree else 1)
