"""Measured times are read as `surgery bench` and `compress` write them; anything else is refused in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import DataError
from surgery.report import read_timings
from tests.engines import require_onnxruntime
from tests.report.digits import FILES, compressed, run
from tests.report.test_pages import TIMES

PATH = Path("timings.json")


def changed(place: str, value: Any) -> str:
    """The times with what a dotted place names replaced."""
    times = copy.deepcopy(TIMES)
    *way, last = place.split(".")
    inner: Any = times
    for step in way:
        inner = inner[int(step) if step.isdigit() else step]
    inner[last] = value
    return json.dumps(times)


def test_what_compress_and_bench_write_is_read(tmp_path: Path) -> None:
    require_onnxruntime()
    compressed(tmp_path / "out", "--rank", "6")
    text = (tmp_path / "out" / "timings.json").read_text()
    assert read_timings(text, PATH) == json.loads(text)
    text = run("bench", *FILES, "--repeat", "1", "--warmup", "1", "--json")
    assert read_timings(text, PATH) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds no times"),
        ('{"format": 1}', "holds no times"),
        (changed("rewrite", "soon"), "rewrite is 'soon'; expected a time"),
        (changed("rewrite", float("nan")), "rewrite is 'nan'; expected a time"),
        (changed("rewrite", -1), "rewrite is '-1'"),
        (changed("layers", []), "layers is '[]'; expected an object"),
        (changed("layers.conv2.solve", None), "layers['conv2'].solve is 'None'"),
        (changed("models", {}), "models is '{}'; expected a list"),
        (changed("models.0.runtime", 3), "models[0].runtime is 3; expected text"),
        (changed("models.0.milliseconds.p90", True), "models[0].milliseconds.p90 is 'True'"),
        (changed("models.0.ratio", 1.0), "models[0].ratio is '1.0'; expected an object"),
    ],
)
def test_other_files_are_refused_with_what_was_found(text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_timings(text, PATH)
    assert said in str(caught.value)
    assert str(caught.value).startswith("timings.json: ")
    assert "\n" not in str(caught.value)
