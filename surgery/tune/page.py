"""The report of a tuning: before and after, the curves of its steps, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from surgery.page.chart import Axis, Point, Series, chart
from surgery.report.blocks import Block, Plot, Plots, Section, Table, Text
from surgery.report.html import page_of
from surgery.report.markdown import text_of
from surgery.report.numbers import NONE, count, figure, share

Facts = Mapping[str, Any]
LARGE = (620, 340)
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
    drawn = chart(plot.series, plot.x, plot.y, title=f"{plot.title}. {plot.caption}", size=plot.size)
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
                told.append(f"On {of} samples, {what}: {values[0]} original, {values[1]} cut, {values[2]} tuned.")
                break
    return " ".join(told)


def _sections(facts: Facts) -> Sequence[Section]:
    made: list[tuple[str, list[Block]]] = [
        ("Before and after", [_before_after(of, rows) for of, rows in facts["scores"].items()]),
        ("Steps", [_steps(facts)]),
        ("Epochs", [Plots((_losses(facts), *_classes(facts))), _epochs(facts)]),
        ("How it was made", [_made(facts), Text(_verified(facts))]),
    ]
    return [Section(name, tuple(blocks)) for name, blocks in made]


def _before_after(of: str, rows: Facts) -> Table:
    heading = (f"{of} samples", "loss", "accuracy", "class as the original's")
    told = tuple(
        (label, figure(rows[name]["loss"]), share(rows[name]["accuracy"]), share(rows[name]["agreement"]))
        for name, label in ROWS.items()
    )
    return Table(heading, told, frozenset({1, 2, 3}))


def _losses(facts: Facts) -> Plot:
    held = [
        Point(at, epoch["held_back"]["loss"], f"epoch {at}: {figure(epoch['held_back']['loss'])}")
        for at, epoch in _numbered(facts)
    ]
    before = facts["steps"][0]["before"]["loss"]
    held = [Point(0, before, f"before: {figure(before)}"), *held]
    trained = [Point(at, epoch["loss"], f"epoch {at}: {figure(epoch['loss'])}") for at, epoch in _numbered(facts)]
    return Plot(
        "Loss by epoch",
        f"Held-back samples are never trained on.{_parted(facts)}",
        (Series("held back", tuple(held)), Series("in training", tuple(trained))),
        Axis("epoch", include=(0,)),
        Axis("loss", include=(0,)),
        LARGE,
    )


def _classes(facts: Facts) -> list[Plot]:
    told = {"accuracy": "accuracy", "agreement": "class as the original's"}
    series = []
    for name, label in told.items():
        values = [(0, facts["steps"][0]["before"][name])]
        values += [(at, epoch["held_back"][name]) for at, epoch in _numbered(facts)]
        points = tuple(
            Point(at, 100 * value, f"epoch {at}: {share(value)}") for at, value in values if value is not None
        )
        series += [Series(label, points)] if points else []
    if not series:
        return []
    caption = f"Held-back samples.{_parted(facts)}"
    return [Plot("Classes by epoch", caption, tuple(series), Axis("epoch"), Axis("%"), LARGE)]


def _parted(facts: Facts) -> str:
    ends = list(accumulate(len(step["epochs"]) for step in facts["steps"]))[:-1]
    return f" The next step begins behind epoch {', '.join(map(str, ends))}." if ends else ""


def _numbered(facts: Facts) -> list[tuple[int, Facts]]:
    return list(enumerate((epoch for step in facts["steps"] for epoch in step["epochs"]), 1))


def _steps(facts: Facts) -> Table:
    heading = ("step", "cut", "learning rate", "epochs", "best", "loss before", "after", "BatchNorm re-estimated")
    normed = {(False, False): NONE, (True, False): "before", (False, True): "behind", (True, True): "before and behind"}
    rows = tuple(
        (
            str(i),
            step["cut"],
            figure(step["rate"]) + (" (found)" if step["found"] else ""),
            count(len(step["epochs"])),
            count(step["best"]),
            figure(step["before"]["loss"]),
            figure(step["after"]["loss"]),
            normed[tuple(step["normed"])],
        )
        for i, step in enumerate(facts["steps"], 1)
    )
    return Table(heading, rows, frozenset({0, 3, 4, 5, 6}))


def _epochs(facts: Facts) -> Table:
    heading = ("epoch", "loss in training", "held back", "accuracy", "class as the original's")
    rows = tuple(
        (str(at), figure(epoch["loss"]), figure(held["loss"]), share(held["accuracy"]), share(held["agreement"]))
        for at, epoch in _numbered(facts)
        for held in (epoch["held_back"],)
    )
    return Table(heading, rows, frozenset(range(5)))


def _made(facts: Facts) -> Table:
    settings, recipe = facts["settings"], facts["settings"]["recipe"]
    goal = ", ".join(f"{name} {value:g}" for name, value in facts["goal"].items() if value)
    rows = [
        ("cut network", ", ".join(facts["source"]["files"])),
        ("teacher", ", ".join(facts["teacher"]["files"])),
        ("samples trained on, held back", f"{count(facts['data']['trained'])}, {count(facts['data']['held_back'])}"),
        ("data", f"{facts['data']['path']}, SHA-256 {facts['data']['digest'][:12]}"),
        ("targets and their weights", goal),
        ("trained in", settings["engine"]),
        ("schedule", settings["schedule"]),
        ("moved by up to", f"{settings['augment']['crop']} pixels"),
        ("mirrored", "half of the samples" if settings["augment"]["mirror"] else "none"),
        ("optimizer", f"{recipe['optimizer']}, momentum {recipe['momentum']:g}, weight decay {recipe['decay']:g}"),
        ("learning rate falls as", recipe["course"]),
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
