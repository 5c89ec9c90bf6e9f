"""What a chain of linear layers amounts to, told from shapes alone, and what such a chain is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from surgery.ops import Conv2d, Linear, Op, Scale, Stage

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Form:
    """The shape of a linear layer. Axes on which the kernel has one tap have dilation 1: it says nothing there."""

    kind: type[Op]
    inputs: int
    outputs: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


def form_of(op: Op) -> Form:
    """Return the shape of an operation."""
    if isinstance(op, Linear):
        return Form(Linear, op.in_channels, op.out_channels)
    dilation = tuple(d if k > 1 else 1 for d, k in zip(op.dilation, op.kernel, strict=True))
    return Form(
        Conv2d,
        op.in_channels,
        op.out_channels,
        op.kernel,
        op.stride,
        op.padding,
        (dilation[0], dilation[1]),
        op.groups,
    )


def composed(stages: Sequence[Stage]) -> Form | None:
    """Return the shape of the one layer that a chain amounts to by the rules of `surgery.ops.collapse`, None for none.

    Scales may stand between two layers.
    """
    if isinstance(stages[0], Scale) or isinstance(stages[-1], Scale):
        return None
    whole = form_of(stages[0])
    for stage in stages[1:]:
        if isinstance(stage, Scale):
            if stage.channels not in (1, whole.outputs):
                return None
            continue
        joined = _joined(whole, form_of(stage))
        if joined is None:
            return None
        whole = joined
    return whole


def _joined(first: Form, second: Form) -> Form | None:
    finer, coarser = max(first.groups, second.groups), min(first.groups, second.groups)
    if first.kind is not second.kind or first.outputs != second.inputs or finer % coarser:
        return None
    axes = [_axis(first, second, axis) for axis in (0, 1)]
    if axes[0] is None or axes[1] is None:
        return None
    (kh, sh, ph, dh), (kw, sw, pw, dw) = axes[0], axes[1]
    return Form(first.kind, first.inputs, second.outputs, (kh, kw), (sh, sw), (ph, pw), (dh, dw), groups=coarser)


def _axis(first: Form, second: Form, axis: int) -> tuple[int, int, int, int] | None:
    """Return kernel, stride, padding and dilation of two layers on an axis, None where both act on it."""
    one, other = (
        (form.kernel[axis], form.stride[axis], form.padding[axis], form.dilation[axis]) for form in (first, second)
    )
    if one[:3] == (1, 1, 0):
        return other
    if other[0] == 1 and other[2] == 0:
        return one[0], one[1] * other[1], one[2], one[3]
    return None


def ranks(stages: Sequence[Stage]) -> tuple[int, ...]:
    """Return the inner widths of a chain in running order, per group of the whole, each once.

    Those of a core between two thin layers come in the order in which `surgery`'s methods have them: output first.
    """
    forms = _linear(stages)
    groups = _groups(forms)
    new = [form for form in forms[:-1] if form.groups == groups or form.inputs != form.outputs]
    widths = tuple(form.outputs // groups for form in new)
    return widths[::-1] if name(stages) in _OUTPUT_FIRST else widths


def name(stages: Sequence[Stage]) -> str:
    """Return what a chain looks like; several methods give chains of one look."""
    forms = _linear(stages)
    return next((look for look, fits in _LOOKS.items() if fits(forms)), f"chain of {len(forms)}")


def _linear(stages: Sequence[Stage]) -> list[Form]:
    return [form_of(stage) for stage in stages if not isinstance(stage, Scale)]


def _groups(forms: Sequence[Form]) -> int:
    return min(form.groups for form in forms)


def _alone(forms: Sequence[Form]) -> list[bool]:
    """Return of each layer whether it is cut into more groups than the whole: as a rule one for each channel."""
    return [form.groups > _groups(forms) for form in forms]


def _separate(first: Form, second: Form) -> bool:
    """Return whether one filters along one axis only and the next along the other only."""
    axes = {tuple(size > 1 for size in form.kernel) for form in (first, second)}
    return axes == {(True, False), (False, True)}


def _points(forms: Sequence[Form], *places: int) -> bool:
    return all(forms[place].kernel == (1, 1) for place in places)


# Tried in this order.
_LOOKS: dict[str, Callable[[Sequence[Form]], bool]] = {
    "svd": lambda forms: len(forms) == 2 and forms[0].kind is Linear,
    "svd-spatial": lambda forms: _alone(forms) == [False] * 2 and _separate(*forms),
    "svd-channel": lambda forms: _alone(forms) == [False] * 2 and _points(forms, 1),
    "channel first": lambda forms: _alone(forms) == [False] * 2 and _points(forms, 0),
    "depthwise separable": lambda forms: _alone(forms) == [True, False] and _points(forms, 1),
    "response-3d": lambda forms: _alone(forms) == [False] * 3 and _separate(*forms[:2]) and _points(forms, 2),
    "three factors": lambda forms: _alone(forms) == [False] * 3 and _points(forms, 1, 2),
    "tucker2": lambda forms: _alone(forms) == [False] * 3 and _points(forms, 0, 2),
    "cp": lambda forms: _alone(forms) == [False, True, False] and _points(forms, 0, 2),
    "cp4": lambda forms: _alone(forms) == [False, True, True, False] and _points(forms, 0, 3),
}
_OUTPUT_FIRST = frozenset({"tucker2", "three factors"})
