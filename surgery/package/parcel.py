"""Make a parcel: the network made ready for its target, and all that whoever ships it needs beside it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from surgery.calibrate import Preprocess
from surgery.calibrate.data import open_data
from surgery.errors import DataError, ModelError, PlanError
from surgery.formats import Source, named
from surgery.model import Model, Shape
from surgery.output import check_file, staged_file
from surgery.package import budget, preprocessing
from surgery.package.archive import Content, chunks_of, measured, write
from surgery.package.asked import Asked, Beside, read
from surgery.package.examples import EXAMPLES
from surgery.package.golden import LEAST_SAMPLES, Golden, Twin, compared, compute
from surgery.package.manifest import MANIFEST, SUMS, facts_of
from surgery.package.words import readme
from surgery.report import as_json, described, render_html, render_markdown
from surgery.runtime import ENGINES, Inputs
from surgery.survey import Survey, survey
from surgery.targets import Prepared, prepare
from surgery.verify import SAMPLES, random_inputs

Progress = Callable[[str, float], None]


def package(asked: Asked, output: Path, progress: Progress = lambda text, share: None) -> Mapping[str, Any]:
    """Write the parcel `output`, a zip, and return the facts of its MANIFEST.json.

    Equal inputs give equal bytes on one machine: nothing in it is measured but distances between runtimes, each on one
    thread. Raises TargetError with every reason why the target cannot run the network, and whatever else stops it as
    another SurgeryError; then nothing is written.
    """
    if output.suffix.lower() != ".zip":
        raise PlanError(f"-o {output}: expected a name that ends in .zip")
    check_file(output, asked.files)
    progress("preparing", 0.0)
    original = asked.source.load()
    beside = read(asked, original)
    with tempfile.TemporaryDirectory(prefix="surgery-") as name:
        scratch = Path(name)
        ready = prepare(asked.source, asked.target, scratch, batch=asked.batch, allow=asked.allow)
        model = _loaded(ready)
        twin = _twin(model, scratch) if asked.has_twin else None
        progress("computing golden vectors", 0.2)
        golden = compute(model, ready.files, _inputs(asked, model, beside.how), _runtime(asked.target), twin)
        _check_labels(asked.labels, beside, golden)
        progress("comparing with the original", 0.6)
        same = compared(original, asked.source.files, golden)
        progress("writing", 0.8)
        surveyed = survey(model, ())
        facts = {
            **facts_of(asked.target, asked.source, surveyed, ready, golden),
            "plan": beside.plan and {"source": beside.plan.digest, "cuts": len(beside.plan.cuts)},
            "twin": twin and twin.facts(list(golden.outputs[0])),
            "golden": {"from": asked.inputs.name if asked.inputs else f"random, seed {asked.seed}", **golden.facts()},
            "original": same,
        }
        members: dict[str, Content] = {**beside.texts, **preprocessing.files(beside.how), **golden.files()}
        members |= named(ready.files) | ({} if twin is None else {path.name: path for path in twin.files})
        members |= _told(asked, surveyed, beside, facts, ready.files[-1].name, list(members))
        members[SUMS] = sums(members)
        with staged_file(output, asked.files) as staging:
            write(staging, members)
    progress("done", 1.0)
    return facts


def sums(members: Mapping[str, Content]) -> bytes:
    """Return what `sha256sum` prints of the members, by name."""
    lines = (f"{measured(chunks_of(members[name])).sha256}  {name}\n" for name in sorted(members))
    return "".join(lines).encode()


def _loaded(ready: Prepared) -> Model:
    """Return the network as the target will read it; raises ModelError where it cannot be run at all."""
    model = Source(ready.files).load()
    run = model.format.runnable(model)
    if run.unready:
        raise ModelError(f"cannot be run, so it gets no golden vectors: {run.unready}")
    if model.format.name == "caffe" and len(ready.files) == 1:
        raise ModelError(f"{ready.files[0].name}: has no weights; a parcel is of a trained network: give its weights")
    return model


def _twin(model: Model, folder: Path) -> Twin:
    from surgery.convert.to_onnx import to_onnx

    if model.format.name == "onnx":
        raise PlanError("--onnx-twin: the network in the parcel is an ONNX file already; leave it out")
    conversion = to_onnx(model)
    return Twin(conversion.save(folder / "deploy.onnx"), conversion.tensors)


def _runtime(target: str) -> str:
    """Return the runtime that the target is; most are Caffes."""
    return target if target in ENGINES else "caffe"


def _inputs(asked: Asked, model: Model, how: Preprocess | None) -> Sequence[Inputs]:
    shapes = model.format.runnable(model).inputs
    if asked.samples < LEAST_SAMPLES:
        raise PlanError(f"{asked.samples} golden vectors show too little; expected at least {LEAST_SAMPLES}")
    if asked.inputs is None:
        # Three at a time, since each of three has a spread of its own.
        drawn = (random_inputs(shapes, asked.seed + i) for i in range(-(-asked.samples // SAMPLES)))
        return [inputs for three in drawn for inputs in three][: asked.samples]
    return _given(asked.inputs, shapes, how, asked.samples)


def _given(path: Path, shapes: Mapping[str, Shape], how: Preprocess | None, samples: int) -> list[Inputs]:
    """Return samples of the data at `path`, spread over it, each a whole batch."""
    batches = {name: shape[0] for name, shape in shapes.items() if shape}
    if len(batches) != len(shapes) or len(set(batches.values())) != 1:
        raise DataError(path, "the network's inputs have no batch in common; leave --inputs out for random ones")
    batch = next(iter(batches.values()))
    data = open_data(path, shapes, how, lambda: None, samples * batch)
    if data.count < samples * batch:
        raise DataError(path, f"holds {data.count} samples; {samples} golden vectors take {samples * batch}")
    return [{name: array.astype(np.float32) for name, array in blobs.items()} for blobs in data.batches(batch)]


def _check_labels(labels: Path | None, beside: Beside, golden: Golden) -> None:
    """Raise DataError where there is one output with a number for each class, and not as many labels."""
    shapes = [blob.shape for blob in golden.outputs[0].values()]
    if labels is None or len(shapes) != 1 or len(shapes[0]) < 2 or prod(shapes[0][2:]) != 1:
        return
    try:
        count = len(beside.texts["labels.txt"].decode("utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise DataError(labels, "is no text; expected the names of the classes, one a line, as UTF-8") from error
    if count != shapes[0][1]:
        raise DataError(labels, f"holds {count} labels; the network's output has {shapes[0][1]} classes")


def _told(
    asked: Asked, surveyed: Survey, beside: Beside, facts: Mapping[str, Any], weights: str, others: Sequence[str]
) -> dict[str, bytes]:
    """Return what is told of the network, whose weights are in the file `weights`, and the example that loads them."""
    example = EXAMPLES[asked.target]
    names = sorted(
        {*others, MANIFEST, SUMS, example.file, "README.md", "budget.csv", "report.html", "report.json", "report.md"}
    )
    report = dict(beside.report or described(surveyed, beside.plan, names, asked.source))
    report |= {"files": names, "notes": [*report["notes"], *facts["changes"], *facts["notes"]]}
    texts = {
        MANIFEST: json.dumps(facts, indent=2, ensure_ascii=False) + "\n",
        "README.md": readme(facts, beside.how, example, names, note=asked.note),
        "budget.csv": budget.table(surveyed),
        "report.html": render_html(report, beside.timings),
        "report.json": as_json(report),
        "report.md": render_markdown(report, beside.timings),
    }
    # A name that is not UTF-8 holds lone surrogates: \udcff, as this writes them, is JSON's spelling too.
    told = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
    return told | {example.file: example.text(weights)}
