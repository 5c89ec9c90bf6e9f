"""Load deploy.prototxt and deploy.caffemodel with OpenCV, run the golden inputs, compare with the golden outputs.

check_golden_opencv.py [FOLDER]     of the unpacked parcel; exit code 0 where every output agrees, 1 where one does not
"""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
outputs = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))["model"]["outputs"]
samples: dict[str, Any] = {}  # By sample, then "input" or "output": blob, array, tolerance.
for line in (folder / "golden/index.txt").read_text(encoding="utf-8").split("\n")[:-1]:
    kind, sample, file, tolerance, blob = line.split(" ", 4)
    array = np.load((folder / file).with_suffix(".npy"))
    samples.setdefault(sample, {"input": [], "output": []})[kind].append((blob, array, float(tolerance)))

net = cv2.dnn.readNetFromCaffe(str(folder / "deploy.prototxt"), str(folder / "deploy.caffemodel"))
all_agree = bool(samples)
for sample, vectors in samples.items():
    for blob, array, _ in vectors["input"]:
        net.setInput(array, blob)
    for blob, golden, tolerance in vectors["output"]:
        layer, top = outputs[blob]["opencv"]  # OpenCV asks for layers, not for blobs.
        computed = net.forwardAndRetrieve([layer])[0][top]
        error = np.linalg.norm(computed.astype(float) - golden)
        agrees = computed.shape == golden.shape and error <= tolerance * np.linalg.norm(golden.astype(float))
        all_agree &= agrees
        print("ok   " if agrees else "WRONG", f"sample {sample}, {blob}: off by {error:.1e} in all")
sys.exit(0 if all_agree else 1)
