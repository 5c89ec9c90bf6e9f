"""The layers that training puts before and behind a network, as lines of a prototxt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from surgery.formats.caffe.schema import quote
from surgery.model import Shape
from surgery.tune.caffe.settings import Goal

Lines = list[str]


@dataclass(frozen=True)
class Names:
    """What the blobs that training adds are called, none of them as a blob or layer of the network.

    Attributes:
        label: the true classes.
        teacher: the teacher's probabilities at the goal's temperature.
        targets: by cut layer, what the teacher's layer makes.
        prefix: begins the names of layers and of all other blobs.
    """

    label: str
    teacher: str
    targets: Mapping[str, str]
    prefix: str


def layer(name: str, kind: str, bottoms: Iterable[str], tops: Iterable[str], *more: str) -> Lines:
    """Return one layer; `more` are further fields, each a line."""
    fields = [f"name: {quote(name)}", f'type: "{kind}"']
    fields += [f"bottom: {quote(bottom)}" for bottom in bottoms]
    fields += [f"top: {quote(top)}" for top in tops]
    return ["layer {", *(f"  {line}" for line in (*fields, *more)), "}"]


def in_phase(phase: str) -> str:
    """Return the rule that keeps a layer to a phase."""
    return f"include {{ phase: {phase} }}"


def label_loss(logits: str, names: Names, weight: float) -> Lines:
    """Return the softmax loss of the logits against the label."""
    name = f"{names.prefix}loss"
    return layer(name, "SoftmaxWithLoss", [logits, names.label], [name], f"loss_weight: {weight:g}")


def accuracy(logits: str, names: Names) -> Lines:
    """Return what tells, in tests, the share of samples whose class is right."""
    name = f"{names.prefix}accuracy"
    return layer(name, "Accuracy", [logits, names.label], [name], in_phase("TEST"))


def distillation(logits: str, shape: Shape, names: Names, goal: Goal) -> Lines:
    """Return the divergence of the logits (batch, classes, ...) from the teacher's probabilities p.

    With q = softmax(logits / T) it is -w T² mean(sum(p (log q - log p))), the sum over classes, the mean over all else;
    the gradient by a logit is w T (q - p) / (the number of things averaged). T² makes up for the 1/T² by which softer
    probabilities shrink it. Reduction's own mean is over the classes too, whose number its weight therefore holds.
    """
    own, kept = f"{names.prefix}distil", goal.temperature
    weight = -goal.distil * kept * kept * shape[1]
    # Below the shift a probability is not told from 0, so that its logarithm and that one's slope stay float32 numbers.
    shift = "log_param { shift: 1e-30 }"
    steps = (
        ("scaled", "Power", [logits], f"power_param {{ scale: {1 / kept:.9g} }}"),
        ("prob", "Softmax", [f"{own}_scaled"], ""),
        ("log", "Log", [f"{own}_prob"], shift),
        ("teacher_log", "Log", [names.teacher], shift),
        ("gap", "Eltwise", [f"{own}_log", f"{own}_teacher_log"], "eltwise_param { operation: SUM coeff: 1 coeff: -1 }"),
        ("product", "Eltwise", [f"{own}_gap", names.teacher], "eltwise_param { operation: PROD }"),
    )
    made = (
        layer(f"{own}_{name}", kind, bottoms, [f"{own}_{name}"], *filter(None, [more]))
        for name, kind, bottoms, more in steps
    )
    total = ("reduction_param { operation: MEAN }", f"loss_weight: {weight:.9g}")
    return [
        "# -w T^2 sum(p (log q - log p)), the mean over samples; p is the teacher's softmax(logits / T), q the own.",
        *(line for lines in made for line in lines),
        *layer(own, "Reduction", [f"{own}_product"], [own], *total),
    ]


def response(key: str, blob: str, names: Names, weight: float) -> Lines:
    """Return the squared distance of a layer's output from the teacher's, half its mean over samples, weighted."""
    name = f"{names.prefix}{key}"
    return layer(name, "EuclideanLoss", [blob, names.targets[key]], [name], f"loss_weight: {weight:.9g}")


def silence(blobs: Sequence[str], names: Names) -> Lines:
    """Return what keeps outputs that nothing is made of out of Caffe's log; nothing where there are none."""
    return layer(f"{names.prefix}silence", "Silence", blobs, []) if blobs else []
