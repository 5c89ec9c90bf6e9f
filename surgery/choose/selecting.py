"""Find the layers that a request means, and the methods that may cut each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from surgery.choose.request import Amount, Request, Selector
from surgery.choose.sharing import joined, together
from surgery.errors import PlanError
from surgery.factor import Method
from surgery.model import Refusal
from surgery.plans import Left
from surgery.survey import Site, Survey


@dataclass(frozen=True, eq=False)
class Choice:
    """A site, the methods that may cut it in order of preference, and how much of it is to remain where that is set."""

    site: Site
    methods: tuple[Method, ...]
    amount: Amount

    @property
    def method(self) -> Method:
        """The preferred method."""
        return self.methods[0]


def select(survey: Survey, request: Request) -> tuple[list[Choice], list[Left]]:
    """Return what may be cut, and what was named and cannot be; raises PlanError for a name that no layer has."""
    kept = {key for cut in request.pinned for key in cut.keys}
    choices, left, used = [], [Left(key, "forbidden", forbidden=True) for key in request.forbidden], set()
    for entry in survey.entries:
        selector = next((s for s in reversed(request.selectors) if s.matches(entry.key)), None)
        if request.selectors and selector is None:
            continue
        used.add(selector)
        if entry.key in kept or entry.key in request.forbidden:
            continue
        if isinstance(entry, Refusal):
            left += [Left(entry.key, entry.reason)] if selector is not None else []
            continue
        methods, reasons = _able(entry, request, selector)
        if methods:
            choices.append(Choice(entry, methods, selector.amount if selector else Amount()))
        else:
            left.append(Left(entry.key, reasons))
    _check_names(survey, request, used)
    return (_shared(survey, choices) if request.share else choices), left


def _able(site: Site, request: Request, selector: Selector | None) -> tuple[tuple[Method, ...], str]:
    """Return the methods that can cut a site; where there are none, why."""
    names = (selector.methods if selector else ()) or request.methods
    reasons = [f"{name}: {site.refusals[name]}" for name in names if name in site.refusals]
    able = []
    for method in (request.method(name, selector) for name in names if name in site.break_even):
        reason = method.refusal(site.op)  # Its options may refuse what the method by itself would take.
        if reason:
            reasons.append(f"{method.name}: {reason}")
        else:
            able.append(method)
    return tuple(able), "; ".join(reasons)


def _check_names(survey: Survey, request: Request, used: set[Selector | None]) -> None:
    keys = {entry.key for entry in survey.entries}
    for selector in request.selectors:
        if selector not in used and not any(selector.matches(key) for key in keys):
            raise PlanError(f"no layer is named '{selector.pattern}'; `surgery inspect` lists the names")
    for key in (*request.forbidden, *(key for cut in request.pinned for key in cut.keys)):
        if key not in keys:
            raise PlanError(f"no layer is named '{key}'; `surgery inspect` lists the names")


def _shared(survey: Survey, choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices with those joined that are cut alike and can be cut as one layer."""
    by_key = {choice.site.key: choice for choice in choices}
    result = []
    for group in together(survey.model, [choice.site for choice in choices]):
        members = [by_key[site.key] for site in group]
        alike = len(members) > 1 and len({(choice.methods, choice.amount) for choice in members}) == 1
        result += [replace(members[0], site=joined(group))] if alike else members
    return result
