"""A network, what is asked of it, and the tables that are measured for that once and serve every plan of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from surgery.choose import Evidence, Request
from surgery.choose.policies import policy_of
from surgery.choose.prediction import tried_ranks
from surgery.choose.selecting import Choice, select
from surgery.choose.tables import Sensitivity
from surgery.formats import Source
from surgery.measure.labels import labels_for
from surgery.measure.parts import measured_apart
from surgery.measure.sensitivity import sensitivity
from surgery.model import Model
from surgery.planning.means import Means
from surgery.survey import Survey

Progress = Callable[[str, float], None]

MEASURED = ("knapsack", "energies")  # Policies that weigh layers against each other.


@dataclass(frozen=True, eq=False)
class Case:
    """A network, what is asked of it, and what it may be measured with."""

    source: Source
    model: Model
    surveyed: Survey
    request: Request
    means: Means
    progress: Progress

    @cached_property
    def evidence(self) -> Evidence:
        """What a choice rests on that bounds no time."""
        return Evidence(self.sensitivity, is_made_up_for=self.means.data is not None and not self.means.symmetric)

    @cached_property
    def digest(self) -> str:
        """The model's digest."""
        return self.model.format.digest(self.model)

    @cached_property
    def choices(self) -> list[Choice]:
        """The layers that a policy chooses ranks for."""
        return [choice for choice in select(self.surveyed, self.request)[0] if not choice.amount]

    @cached_property
    def sensitivity(self) -> Sensitivity | None:
        """What cuts of each layer do; None without data, or where the policy does not ask."""
        means, request = self.means, self.request
        if means.data is None or policy_of(request) not in MEASURED or request.share:
            return None
        asks = {
            choice.site.key: [(method, rank) for method in choice.methods for rank in tried_ranks(choice.site, method)]
            for choice in self.choices
        }
        return sensitivity(
            self.model,
            means.data,
            asks,
            seed=request.seed,
            labels=labels_for(means.data, means.labels) if means.labels and not means.tests else None,
            threads=request.threads,
            progress=self.progress,
            apart=None if means.runner is None else partial(measured_apart, self.source, means.runner),
            **means.reading,
        )
