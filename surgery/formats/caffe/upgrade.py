"""Old spellings of networks and solvers brought up to date as Caffe does on reading, with comments and lines kept."""

from __future__ import annotations

from collections.abc import Iterator

from surgery.errors import ModelError
from surgery.formats.caffe import upgrade_v0 as v0
from surgery.formats.caffe import upgrade_v1 as v1
from surgery.formats.caffe.edit import appended, flat, margin, newline, removals, renamed, unit, without_lists
from surgery.formats.caffe.network import Layer, inputs, is_mixed, layers
from surgery.formats.caffe.schema import quote
from surgery.formats.caffe.text import Document, Splice, replacement

_MULTIPLIERS = ("lr_mult", "decay_mult")
_OLD_INPUTS = ("input", "input_shape", "input_dim")
_LISTS = {"layer", "layers", "bottom", "top", *_OLD_INPUTS, *v1.PARAM_FIELDS}
_SOLVERS = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


def upgrade(document: Document) -> Document:
    """Return a network in Caffe's present spelling (V2); what is in it already stays as it is, byte for byte.

    The steps are those of BVLC's UpgradeNetAsNeeded: V0 to V1, data transformations, V1 to V2, input fields, BatchNorm.
    `input` without any shape stays, because Caffe would drop it. Raises ModelError where Caffe aborts or reads
    nonsense: types it does not know, `layer` beside `layers`, shapes or dimensions that do not fit the inputs.
    """
    if not needs_upgrade(document):
        return document
    return _with_fixed_batch_norms(_with_input_layer(_as_v2(without_lists(document, _LISTS))))


def upgrade_v0(document: Document) -> Document:
    """Return a V0 network as V2, input fields and all else as they were; other networks come back unchanged."""
    return _as_v2(without_lists(document, _LISTS)) if _is_v0(document) else document


def needs_upgrade(document: Document) -> list[str]:
    """Return what `upgrade` would change, as phrases; empty for a network in V2's spelling.

    Raises ModelError for a network that has both `layer` and `layers`, which Caffe refuses to upgrade.
    """
    if is_mixed(document):
        raise ModelError(f"{document.path}: has both `layer` and `layers`; Caffe takes one, rename the `layers`")
    found = layers(document)
    is_v0 = _is_v0(document)
    steps = {
        "V0 layers": is_v0,
        "V1 layers": not is_v0 and any(layer.generation == 1 for layer in found),
        "data transform fields": not is_v0 and v1.has_old_transforms(document),
        "input fields": _has_old_inputs(document),
        "BatchNorm params": any(True for layer in found for _ in _batch_norm_splices(document, layer)),
    }
    return [name for name, is_needed in steps.items() if is_needed]


def upgrade_solver(document: Document) -> Document:
    """Return a solver with `type: "Adam"` for `solver_type: ADAM`; networks inside it stay.

    Raises ModelError where both are given, which Caffe refuses, and for a solver it does not have.
    """
    solver = document.message("SolverParameter")
    if not solver.has("solver_type"):
        return document
    if solver.has("type"):
        raise ModelError(f"{document.path}: has both type and solver_type; Caffe takes one, remove solver_type")
    kind = solver.str("solver_type")
    if kind not in _SOLVERS:
        raise ModelError(f"{document.path}: solver_type is {kind}; expected one of {', '.join(_SOLVERS)}")
    return document.edited(
        [Splice(f.start, f.value_end, f"type: {quote(_SOLVERS[kind])}") for f in solver.named("solver_type")]
    )


def _is_v0(document: Document) -> bool:
    return any(layer.generation == 0 for layer in layers(document))


def _as_v2(document: Document) -> Document:
    if _is_v0(document):
        document = v0.to_v1(document)
    if any(layer.generation == 1 for layer in layers(document)):
        return v1.to_v2(v1.with_transform_param(document))
    return document


def _has_old_inputs(document: Document) -> bool:
    net = document.message("NetParameter")
    return net.has("input") and (net.has("input_shape") or net.has("input_dim"))


def _with_input_layer(document: Document) -> Document:
    """Return the network with one Input layer, named "input" and first of all, for its `input` fields."""
    if not _has_old_inputs(document):
        return document
    inputs(document)  # Refuses counts that do not fit.
    net = document.message("NetParameter")
    old = sorted((f for name in _OLD_INPUTS for f in net.named(name)), key=lambda f: f.start)
    found = layers(document)
    made = _input_layer(document, list(_shapes(document)))
    if not found or old[0].start < found[0].field.start:
        return document.edited([Splice(old[0].start, old[0].value_end, made), *removals(document, old[1:])])
    first = found[0].field.start
    above = made + newline(document) + (margin(document, first) or "")
    return document.edited([Splice(first, first, above), *removals(document, old)])


def _shapes(document: Document) -> Iterator[str]:
    """Yield the `shape {}` of every input with its dims as spelt; input_dim does not count beside input_shape."""
    net, step = document.message("NetParameter"), unit(document)
    for field in net.named("input_shape"):
        if "#" in document.slice(field):
            yield renamed(document, field, "shape").replace("\n", "\n" + step + step)
        else:
            yield flat(document, field).replace("input_shape", "shape", 1)
    if not net.has("input_shape"):
        dims = [document.text[f.value_start : f.value_end] for f in net.named("input_dim")]
        for start in range(0, len(dims), 4):
            yield f"shape {{ {' '.join(f'dim: {dim}' for dim in dims[start : start + 4])} }}"


def _input_layer(document: Document, shapes: list[str]) -> str:
    step = unit(document)
    tops = [document.text[f.value_start : f.value_end] for f in document.message("NetParameter").named("input")]
    lines = [
        "layer {",
        f'{step}name: "input"',
        f'{step}type: "Input"',
        *(f"{step}top: {top}" for top in tops),
        f"{step}input_param {{",
        *(f"{step}{step}{shape}" for shape in shapes),
        f"{step}}}",
        "}",
    ]
    return newline(document).join(lines)


def _with_fixed_batch_norms(document: Document) -> Document:
    splices = [splice for layer in layers(document) for splice in _batch_norm_splices(document, layer)]
    return document.edited(splices) if splices else document


def _batch_norm_splices(document: Document, layer: Layer) -> Iterator[Splice]:
    """Yield what sets the multipliers of a BatchNorm with three `param` to zero: its blobs are no weights to train."""
    params = layer.message.named("param")
    if layer.generation != 2 or layer.type != "BatchNorm" or len(params) != 3:
        return
    for field, message in zip(params, layer.message.messages("param"), strict=True):
        unset = [name for name in _MULTIPLIERS if not message.has(name)]
        if unset:
            yield appended(document, field, " ".join(f"{name}: 0" for name in unset))
        for name in _MULTIPLIERS:
            if message.float(name) != 0 and message.has(name):
                yield replacement(message.named(name)[-1], "0")
