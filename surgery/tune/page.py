"""The report of a tuning: before and after, the curves of its steps, and how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from surgery.page.chart import Axis, Mark, Point, Series, chart
from surgery.report.blocks import Block, Plot, Plots, Section, Table, Text
from surgery.report.html import page_of
from surgery.report.markdown import text_of
from surgery.report.numbers import NONE, count, figure, share

Facts = Mapping[str, Any]
LARGE = (620, 340)
BATCHNORMS = {"batch": "by the statistics of each batch", "fixed": "by those stored"}
ROWS = {"original": "original", "cut": "cut", "tuned": "cut and tuned"}
_XMLNS = 'xmlns="http://www.w3.org/2000/svg"'  # A drawing outside of a page must say what it is.


def render_html(facts: Facts) -> str:
    """Return the page; equal facts give equal text."""
    return page_of(_title(facts), _summary(facts), _sections(facts))


def render_markdown(facts: Facts) -> str:
    """Return the same as Markdown, curves as tables."""
    return text_of(_title(facts), _summary(facts), _sections(facts))


def curve(facts: Facts) -> str:
    """Return the drawing of the losses as a file of its own."""
    plot = _losses(facts)
    drawn = chart(plot.series, plot.x, plot.y, title=f"{plot.title}. {plot.caption}", mark=plot.mark, size=plot.size)
    return drawn.text.replace("<svg", f"<svg {_XMLNS}", 1) + "\n"


def _title(facts: Facts) -> str:
    return f"Tuning: {', '.join(facts['source']['files'])}"


def _summary(facts: Facts) -> str:
    epochs = sum(len(step["epochs"]) for step in facts["steps"])
    told = [f"{epochs} epochs in {len(facts['steps'])} step{'s' * (len(facts['steps']) > 1)}."]
    for of, rows in facts["scores"].items():
        for name in ("accuracy", "agreement"):
            if rows["tuned"][name] is not None:
                values = [share(rows[row][name]) for row in ROWS]
                what = name if name == "accuracy" else "agreement with the original"
                told.append(f"On {_samples(of)}, {what}: {values[0]} original, {values[1]} cut, {values[2]} tuned.")
                break
    return " ".join(told)


def _sections(facts: Facts) -> Sequence[Section]:
    made: list[tuple[str, list[Block]]] = [
        ("Before and after", [_before_after(of, rows) for of, rows in facts["scores"].items()]),
        ("Steps", [_steps(facts)]),
        ("Epochs", [Plots((_losses(facts), *_classes(facts))), _epochs(facts)]),
        ("How it was made", [_made(facts), Text(_verified(facts))]),
    ]
    return [Section(name, tuple(blocks)) for name, blocks in made if blocks]


def _before_after(of: str, rows: Facts) -> Table:
    heading = (_samples(of), "loss", "accuracy", "class as the original's")
    told = tuple(
        (label, figure(rows[name]["loss"]), share(rows[name]["accuracy"]), share(rows[name]["agreement"]))
        for name, label in ROWS.items()
    )
    return _known(Table(heading, told, frozenset({1, 2, 3})))


def _samples(of: str) -> str:
    return f"{of.replace(' ', '-')} samples"


def _known(table: Table) -> Table:
    """Return a table without the columns of which nothing is known."""
    kept = [i for i in range(len(table.heading)) if any(row[i] != NONE for row in table.rows)]
    rows = tuple(tuple(row[i] for i in kept) for row in table.rows)
    numbers = frozenset(at for at, i in enumerate(kept) if i in table.numbers)
    return Table(tuple(table.heading[i] for i in kept), rows, numbers)


@dataclass(frozen=True)
class _Moment:
    """When a network was tested: behind so many epochs, and what that is called; `loss` is that of the epoch."""

    at: int
    name: str
    loss: float | None
    held: Facts


def _moments(facts: Facts) -> Iterator[_Moment]:
    """Yield each step's beginning and its epochs, these numbered throughout."""
    for number, (step, first) in enumerate(zip(facts["steps"], _begins(facts), strict=True), 1):
        yield _Moment(first, "before" if number == 1 else f"before step {number}", None, step["before"])
        for at, epoch in enumerate(step["epochs"], first + 1):
            yield _Moment(at, str(at), epoch["loss"], epoch["held_back"])


def _begins(facts: Facts) -> list[int]:
    """Return how many epochs are behind before each step."""
    return list(accumulate((len(step["epochs"]) for step in facts["steps"]), initial=0))[:-1]


def _best(facts: Facts) -> int:
    """Return the epoch whose weights were kept in the end, numbered throughout."""
    best: int = _begins(facts)[-1] + facts["steps"][-1]["best"]
    return best


def _losses(facts: Facts) -> Plot:
    moments = list(_moments(facts))
    held = tuple(_point(each, each.held["loss"], figure) for each in moments)
    trained = tuple(_point(each, each.loss, figure) for each in moments if each.loss is not None)
    series = (Series(_tests(facts), held), Series("in training", trained))
    axes = Axis("epoch", include=(0,), whole=True), Axis("loss", include=(0,))
    return Plot("Loss by epoch", _caption(facts), series, *axes, LARGE, Mark(_best(facts), "kept"))


def _classes(facts: Facts) -> list[Plot]:
    told = {"accuracy": "accuracy", "agreement": "class as the original's"}
    series = [Series(label, points) for name, label in told.items() if (points := tuple(_shares(facts, name)))]
    if not series:
        return []
    title = f"{series[0].name.capitalize()} by epoch" if len(series) == 1 else "Classes by epoch"
    axes = Axis("epoch", whole=True), Axis("% of the samples")
    return [Plot(title, _caption(facts), tuple(series), *axes, LARGE, Mark(_best(facts), "kept"))]


def _shares(facts: Facts, name: str) -> Iterator[Point]:
    for each in _moments(facts):
        if each.held[name] is not None:
            yield Point(each.at, 100 * each.held[name], f"{_told(each)}: {share(each.held[name])}")


def _point(moment: _Moment, value: float, written: Callable[[float], str]) -> Point:
    return Point(moment.at, value, f"{_told(moment)}: {written(value)}")


def _told(moment: _Moment) -> str:
    return moment.name if moment.name.startswith("before") else f"epoch {moment.name}"


def _is_held_back(facts: Facts) -> bool:
    return facts["data"]["held_back"] is not None


def _tests(facts: Facts) -> str:
    return "held back" if _is_held_back(facts) else "in tests"


def _caption(facts: Facts) -> str:
    on = f"{'Held-back samples are never' if _is_held_back(facts) else 'Tests are on samples that are'} trained on."
    ends = _begins(facts)[1:]
    return on + (f" The next step begins behind epoch {', '.join(map(str, ends))}." if ends else "")


def _steps(facts: Facts) -> Table:
    heading = ("step", "cut", "learning rate", "epochs", "best", "loss before", "after", "BatchNorm re-estimated")
    normed = {(False, False): NONE, (True, False): "before", (False, True): "behind", (True, True): "before and behind"}
    rows = tuple(
        (
            str(i),
            step["cut"],
            figure(step["rate"]) + (" (found)" if step["found"] else ""),
            count(len(step["epochs"])),
            count(first + step["best"]) if step["best"] else "none",
            figure(step["before"]["loss"]),
            figure(step["after"]["loss"]),
            normed[tuple(step["normed"])],
        )
        for i, (step, first) in enumerate(zip(facts["steps"], _begins(facts), strict=True), 1)
    )
    return _known(Table(heading, rows, frozenset({0, 3, 4, 5, 6})))


def _epochs(facts: Facts) -> Table:
    heading = ("epoch", "loss in training", f"loss {_tests(facts)}", "accuracy", "class as the original's")
    rows = tuple(
        (each.name, figure(each.loss), figure(held["loss"]), share(held["accuracy"]), share(held["agreement"]))
        for each in _moments(facts)
        for held in (each.held,)
    )
    return _known(Table(heading, rows, frozenset(range(5))))


def _made(facts: Facts) -> Table:
    settings, recipe = facts["settings"], facts["settings"]["recipe"]
    targets = (f"{name} {value:g}" for name, value in facts["goal"].items() if value and name != "temperature")
    heat = f", at temperature {facts['goal']['temperature']:g}" if facts["goal"]["distil"] else ""
    moved = settings["augment"]["crop"]
    rows = [
        ("cut network", ", ".join(facts["source"]["files"])),
        ("teacher", ", ".join(facts["teacher"]["files"])),
        ("samples trained on, held back", f"{count(facts['data']['trained'])}, {count(facts['data']['held_back'])}"),
        ("data", ", SHA-256 ".join(filter(None, (facts["data"]["path"], facts["data"]["digest"][:12])))),
        ("targets and their weights", ", ".join(targets) + heat),
        ("trained in", settings["engine"]),
        ("schedule", settings["schedule"]),
        ("moved", f"by up to {moved} pixel{'s' * (moved > 1)}" if moved else "not at all"),
        ("mirrored", "half of the samples" if settings["augment"]["mirror"] else "none"),
        ("optimizer", f"{recipe['optimizer']}, momentum {recipe['momentum']:g}, weight decay {recipe['decay']:g}"),
        ("learning rate falls as", recipe["course"]),
        ("BatchNorm in training", BATCHNORMS[recipe["batchnorm"]]),
        ("samples in a step", count(recipe["batch"])),
        ("seed", str(recipe["seed"])),
        ("threads", str(settings["threads"])),
        *((name, version) for name, version in facts["versions"].items()),
        *(("note", note) for note in facts["notes"]),
    ]
    return Table(("", ""), tuple(rows))


def _verified(facts: Facts) -> str:
    verified = facts["verified"]
    if verified is None:
        return "The files were not run here."
    if not verified["blobs"]:
        return f"The files were not run: {verified['reason']}."
    return (
        f"The files compute what was trained: {verified['blobs']} values compared in {verified['runtime']}, the worst, "
        f"{verified['worst_blob']}, {verified['worst_rel_l2']:.1e} away (relative L2)."
    )
