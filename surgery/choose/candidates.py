"""What may become of a layer: every method at ranks that suit the hardware, each with its price."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from surgery.choose.costs import Milliseconds, costs, priced
from surgery.choose.prediction import Predict
from surgery.choose.request import stored_options
from surgery.choose.selecting import Choice
from surgery.choose.tables import Candidate, Menu
from surgery.factor import Method, Rank
from surgery.survey import Site

STEPS = 96  # ranks of one method on one layer at most: a step is then about a hundredth of what is at stake
# What no cut may add to unless it is forced; inner maps add to the activations always.
NEVER_MORE = ("macs", "bytes", "ms")


def menu(
    choice: Choice, predict: Callable[[Method], Predict], *, multiple: int, force: bool, timed: Milliseconds | None
) -> Menu:
    """Return what may become of a layer; a cut that takes more of anything than the layer is left out unless forced.

    `predict` gives for each method what a rank adds to the output's error. With `timed` every candidate has its
    milliseconds, and what they are not known for is left out.
    """
    site = choice.site
    kept = Candidate("", (), (), priced(site, site.op, timed) or costs(site, site.op), 0.0)
    found = [kept]
    for method in choice.methods:
        predicted = predict(method)
        for rank in ranks_of(site, method, multiple):
            price = priced(site, method.template(site.op, rank), timed)
            if price is None or ("ms" in price and "ms" not in kept.costs):
                continue
            if force or all(price[name] < kept.costs[name] for name in NEVER_MORE if name in price):
                found.append(Candidate(method.name, rank, stored_options(method), price, predicted(rank)))
    return Menu((site.key, *site.others), tuple(found))


def ranks_of(site: Site, method: Method, multiple: int) -> Iterator[Rank]:
    """Yield ranks on the method's path, smallest first, that are multiples of `multiple`.

    A number below it stays as it is, and so does one that is the most the layer has.
    """
    largest = method.max_rank(site.op)
    last = max(largest)
    step = multiple * max(1, -(-last // (multiple * STEPS)))
    sizes = [*range(1, min(multiple, last)), *range(multiple, last, step), last]
    seen = set()
    for size in sizes:
        rank = tuple(
            given if given < multiple or given == most else given - given % multiple
            for given, most in zip(method.rank_at(site.op, size), largest, strict=True)
        )
        if rank not in seen:
            seen.add(rank)
            yield rank
