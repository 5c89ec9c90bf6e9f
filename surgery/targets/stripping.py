"""Take away what a network's text says only to those who train it or to other builds of Caffe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from surgery.formats.caffe.schema import quote, unquote
from surgery.targets.tree import Entry, Tree, mapped, named

# Of the whole network: what the solver and the rules of layers read; the rules are resolved. Then what tells NVCaffe
# and Intel's Caffe how to compute, not what.
_OF_NETS = {
    *("force_backward", "debug_info", "state"),
    *("default_forward_type", "default_backward_type", "default_forward_math", "default_backward_math"),
    *("global_grad_scale", "global_grad_scale_adaptive", "default_conv_algos_override", "reduce_buckets"),
    *("default_cudnn_math_override", "eltwise_mem_sharing", "compile_net_state", "engine", "bn_stats_batch_size"),
    "multinode",
}
# Of any layer: what the solver, the losses and the choice of layers read. `phase` goes where it is TEST, which is what
# it then is anyway.
_OF_LAYERS = {
    *("loss_weight", "loss_param", "propagate_down", "transform_param", "include", "exclude"),
    *("forward_type", "backward_type", "forward_math", "backward_math", "debug", "cudnn_math_override", "engine"),
    "multinode",
}
_OF_PARAMS = {"lr_mult", "decay_mult"}
# Which implementation a build takes; CUDNN stops builds without a GPU, and none changes what is computed.
_OF_BUILDS = {"engine", "cudnn_convolution_algo_seeker", "conv_algos_override", "conv_algorithm"}
# What starts weights that a file then replaces; elsewhere, as in NVCaffe's BatchNorm, a filler says more.
_FILLERS = {"weight_filler", "bias_filler", "filler", "scale_filler"}
_FILLED = {
    *("bias_param", "convolution_param", "embed_param", "inner_product_param", "norm_param", "prelu_param"),
    *("recurrent_param", "scale_param"),
}
# Fillers that say what a layer computes where no file ever holds its weight: interpolation, or one number everywhere.
_MEANT = (Entry("type", quote("bilinear")), Entry("type", quote("constant")))


def stripped(tree: Tree, weighted: Collection[str] | None) -> tuple[Tree, tuple[str, ...]]:
    """Return a deployed network without what only training or other builds need, and what went, counted.

    `weighted` names the layers that the weights file holds numbers for: their fillers go, others' stay since they are
    all that says what the layers compute. Without such a file (None) all go but those that may be meant.
    """
    gone = Counter[str]()
    kept = _without(tree, gone, lambda entry: entry.name in _OF_NETS)
    result = mapped(kept, "layer", lambda fields: _layer(fields, _droppable(fields, weighted), gone))
    said = ", ".join(f"{count} {name}" for name, count in gone.items())
    return result, (f"stripped: {said}",) if gone else ()


def _droppable(fields: Tree, weighted: Collection[str] | None) -> Callable[[Entry], bool]:
    """Return which fillers of a layer can go."""
    if weighted is None:
        return lambda entry: not (entry.name == "weight_filler" and any(kind in entry.value for kind in _MEANT))
    names = {unquote(entry.value) for entry in named(fields, "name") if isinstance(entry.value, str)}
    return lambda entry: not names.isdisjoint(weighted)


def _layer(fields: Tree, droppable: Callable[[Entry], bool], gone: Counter[str]) -> Tree:
    fields = _without(fields, gone, lambda entry: entry.name in _OF_LAYERS or entry == Entry("phase", "TEST"))
    fields = mapped(fields, "param", lambda own: _without(own, gone, lambda entry: entry.name in _OF_PARAMS))
    result = []
    for name, value in fields:
        if isinstance(value, str) or name in ("param", "blobs"):
            result.append(Entry(name, value))
            continue
        inner = _without(value, gone, lambda entry: entry.name in _OF_BUILDS)
        if name in _FILLED:
            inner = _without(inner, gone, lambda entry: entry.name in _FILLERS and droppable(entry))
        result += [Entry(name, inner)] if inner else []
    # What a param says counts by its place: only those behind the last that shares a blob can go.
    params = [i for i, entry in enumerate(result) if entry.name == "param"]
    while params and not result[params[-1]].value:
        del result[params.pop()]
    return tuple(result)


def _without(fields: Tree, gone: Counter[str], drops: Callable[[Entry], bool]) -> Tree:
    """Return the fields that stay, and count those that go."""
    gone.update(entry.name for entry in fields if drops(entry))
    return tuple(entry for entry in fields if not drops(entry))
