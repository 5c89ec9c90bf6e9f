from __future__ import annotations

from typing import Any

from surgery.calibrate import Preprocess
from surgery.package.examples import EXAMPLES
from surgery.package.words import readme

HOSTILE = "a`b\n# <script>|[x](y)"


def facts(name: str) -> dict[str, Any]:
    return {
        "target": "caffe-1.0",
        "version": "1",
        "source": {"files": [{"name": name}]},
        "model": {"inputs": {name: {"shape": [1, 3]}}, "outputs": {name: {"shape": []}}},
        "golden": {"samples": 3, "from": name, "reference": "R", "tolerances": {name: 1e-5}, "distances": {}},
        "original": {"runtime": None, "reason": name},
        "sizes": {"params": 1234, "macs": None, "weight_bytes": 4936, "memory": None},
        "changes": [name],
        "notes": [name],
    }


def told(name: str, how: Preprocess | None = None) -> str:
    return readme(facts(name), how, EXAMPLES["caffe-1.0"], ["README.md", "golden/index.txt", "golden/0.f32"], note=name)


def test_names_from_files_add_no_lines_and_no_markup() -> None:
    text = told(HOSTILE)
    assert len(text.splitlines()) == len(told("plain").splitlines())
    assert "<script>" not in text.replace("\\<script\\>", "").replace("`a'b?# <script>|[x](y)`", "")
    assert "\n# <" not in text


def test_every_command_and_every_step_is_told() -> None:
    text = told("x", Preprocess(scale=0.5))
    for line in (
        *EXAMPLES["caffe-1.0"].commands,
        EXAMPLES["caffe-1.0"].time,
        "2. Multiply by 0.5.",
        "sha256sum -c SHA256SUMS",
    ):
        assert line in text
    assert "did not say how pictures become inputs" in told("x")
