"""The Python interface: load, plan, rewrite, save, and the two conversions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal

from surgery import formats
from surgery.choose import Amount, Request, parse_options, parse_selector
from surgery.choose.request import DEFAULT_METHODS, parse_methods, parse_rank
from surgery.errors import PlanError
from surgery.model import Model, Shape
from surgery.output import staged, staged_file
from surgery.pipeline import check_calibration, make_plan
from surgery.plans import Plan
from surgery.rewriting import rewrite as _rewrite


def load(*files: str | PathLike[str], phase: str = "TEST", shapes: Mapping[str, Shape] | None = None) -> Model:
    """Read a model: a prototxt and, where there are any, its weights; or an ONNX file.

    `shapes` gives input shapes that the file does not state. Raises SurgeryError.
    """
    return formats.load([Path(file) for file in files], phase=phase, input_shapes=shapes)


def plan(
    model: Model,
    layers: str | Sequence[str] = (),
    method: str | None = None,
    *,
    rank: int | str | None = None,
    energy: float | None = None,
    params: float | None = None,
    macs: float | None = None,
    options: Mapping[str, str] | None = None,
    share: bool = False,
    force: bool = False,
) -> Plan:
    """Choose cuts: `layers` as the command line's --layer takes them, amounts as its --rank, --energy and so on.

    Ratios (`params`, `macs`) are what may remain of the whole network. `options` are the methods' own; with `share`,
    layers that read the same value share all factors but the last. Raises PlanError.
    """
    selectors = tuple(parse_selector(text) for text in ([layers] if isinstance(layers, str) else layers))
    amount = Amount(parse_rank(str(rank)) if rank is not None else (), energy, params, macs)
    methods = parse_methods(method) if method else DEFAULT_METHODS
    chosen = parse_options([f"{name}={value}" for name, value in (options or {}).items()])
    return make_plan(model, Request(selectors, methods, amount, force, options=chosen, share=share))[1]


def rewrite(
    model: Model,
    plan: Plan,
    data: str | PathLike[str] | None = None,
    *,
    preprocess: str | PathLike[str] | None = None,
    images: int | None = None,
    symmetric: bool = False,
    refit: bool = True,
) -> Model:
    """Return the model with the plan carried out, fitted to calibration data where there are any.

    `data` and what follows are as the command line's --calibrate, --preprocess and so on; a plan that remembers its
    data takes only `data`, the same again. Raises PlanError when the plan is for other files or fitted to other data,
    DataError for data that cannot be read.
    """
    if plan.digest != model.format.digest(model):
        raise PlanError("the plan was made for other files; plan anew")
    if data is None:
        return _rewrite(model, plan).model
    from surgery import calibrate

    keys = tuple(key for cut in plan.cuts for key in cut.keys)
    if plan.calibration is not None:
        with calibrate.replayed(model, Path(data), keys, plan.calibration) as given:
            check_calibration(plan, given)
            return _rewrite(model, plan, statistics_for=given.statistics_for).model
    read = None if preprocess is None else Path(preprocess)
    with calibrate.calibration(
        model, Path(data), keys, preprocess=read, images=images, symmetric=symmetric, seed=plan.seed
    ) as given:
        fitted = replace(plan, calibration=given.record, refit=refit)
        return _rewrite(model, fitted, statistics_for=given.statistics_for).model


def save(model: Model, folder: str | PathLike[str], stem: str = "model") -> tuple[Path, ...]:
    """Write the model's files into a new folder, whole or not at all; return their paths."""
    target = Path(folder)
    with staged(target) as staging:
        paths = [path.relative_to(staging) for path in model.format.save(model, staging, stem)]
    return tuple(target / path for path in paths)


def to_onnx(
    model: Model, file: str | PathLike[str], *, opset: int = 13, batch: Literal["fixed", "dynamic"] = "fixed"
) -> tuple[Path, ...]:
    """Write a Caffe model as an ONNX file, with a data file beside it above 2 GiB; return the paths.

    Raises ConversionError with every layer that ONNX cannot express, PlanError for an `opset` outside of 13 to 22.
    """
    from surgery.convert.to_onnx import to_onnx as convert

    target = Path(file)
    conversion = convert(model, opset=opset, batch=batch)
    with staged_file(target, ()) as staging:
        names = [path.name for path in conversion.save(staging)]
    return tuple(target.with_name(name) for name in names)


def to_caffe(model: Model, folder: str | PathLike[str], stem: str = "model") -> tuple[Path, ...]:
    """Write an ONNX model as a Caffe network into a new folder, prototxt and caffemodel; return the paths.

    Raises ConversionError with every node that stock Caffe cannot express.
    """
    from surgery.convert.to_caffe import to_caffe as convert

    target = Path(folder)
    conversion = convert(model)
    with staged(target) as staging:
        names = [path.name for path in conversion.save(staging, stem)]
    return tuple(target / name for name in names)
