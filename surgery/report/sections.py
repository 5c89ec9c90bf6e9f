"""What a report says, section by section, from the facts alone: the page and the Markdown both say this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from surgery.choose import ERROR_NAMES
from surgery.report.blocks import Block, Code, Section, Table, Text
from surgery.report.drawings import drawn_spectra, trade_off
from surgery.report.numbers import NONE, count, figure, milliseconds, ranks, share, size
from surgery.report.times import times

Facts = Mapping[str, Any]

_ASKED: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "policy": ("how ranks are chosen", str),
    "rank": ("rank of every layer, at most", ranks),
    "energy": ("squares of singular values kept in each layer", share),
    "params": ("parameters that may remain", share),
    "macs": ("MACs that may remain", share),
    "size": ("what the weights may take", size),
    "activations": ("bytes of all maps that may remain", share),
    "speedup": ("times as fast", figure),
    "latency": ("what a forward pass may take", milliseconds),
    "max_drop": ("accuracy that may be lost", share),
}
_TOTALS = {"params": ("parameters", count), "macs": ("MACs", count), "weight_bytes": ("weights", size)}
_FORESEEN = {
    "activations": ("all maps", size),
    "ms": ("milliseconds, summed over layers", figure),
    "timed": ("forward pass when the plan was made", milliseconds),
}
_REMAINS = ("parameters", "after", "remains", "MACs", "after", "remains")


def title(facts: Facts) -> str:
    """Return what the report is about."""
    return f"Report: {', '.join(facts['source']['files'])}"


def summary(facts: Facts) -> str:
    """Return the report in a sentence or two."""
    cuts, totals = len(facts["layers"]), facts["totals"]
    if not cuts:
        known = facts["command"] is not None
        return "Nothing was cut: the network is as it was." if known else "The network as it was found."
    told = [f"{cuts} {'cut was' if cuts == 1 else 'cuts were'} made."]
    before, after = totals["before"], totals["after"]
    kept = [f"{share(after[n], before[n])} of the {label}" for n, (label, _) in list(_TOTALS.items())[:2] if before[n]]
    told += [f"{' and '.join(kept)} remain."] if kept else []
    return " ".join(told)


def sections(facts: Facts, timings: Mapping[str, Any] | None = None) -> tuple[Section, ...]:
    """Return all that there is to say; sections that would be empty are left out."""
    made = (
        ("What was asked for", _asked(facts)),
        ("What it came to", _totals(facts)),
        ("What it loses", _lost(facts)),
        ("Layers", _layers(facts)),
        ("Singular values", drawn_spectra(facts["layers"])),
        ("Trade-off", trade_off(facts["predicted"] or {}, ERROR_NAMES)),
        ("Times", times(timings)),
        ("Left alone", _left(facts)),
        ("How it was made", _made(facts)),
    )
    return tuple(Section(name, tuple(blocks)) for name, blocks in made if blocks)


def _asked(facts: Facts) -> list[Block]:
    given = facts["asked"]
    if given is None:
        named = "The layers were named one by one, each with its rank or energy."
        return [Text(named)] if facts["layers"] else []
    told = [(_ASKED.get(name, (name, str)), value) for name, value in given.items()]
    return [Table(("", ""), tuple((label, shown(value)) for (label, shown), value in told))]


def _totals(facts: Facts) -> list[Block]:
    totals, predicted = facts["totals"], facts["predicted"] or {}
    rows: list[tuple[str, ...]] = []
    if totals is not None:
        before, after = totals["before"], totals["after"]
        rows = [_before_after(label, shown, before[name], after[name]) for name, (label, shown) in _TOTALS.items()]
    rows += [
        _before_after(f"{label}, predicted", shown, *predicted[name])
        for name, (label, shown) in _FORESEEN.items()
        if name in predicted
    ]
    return [Table(("", "before", "after", "remains"), tuple(rows), frozenset({1, 2, 3}))] if rows else []


def _before_after(label: str, shown: Any, before: float | None, after: float | None) -> tuple[str, ...]:
    return (label, shown(before), shown(after), share(after, before))


def _lost(facts: Facts) -> list[Block]:
    predicted, measured, blocks = facts["predicted"] or {}, facts["measured"] or {}, list[Block]()
    rows = []
    for name, label in ERROR_NAMES.items():
        foreseen = predicted.get("error") if predicted.get("of") == name else None
        if foreseen is not None or measured.get(name) is not None:
            rows.append((label, figure(foreseen), figure(measured.get(name))))
    if measured.get("accuracy") is not None:
        rows.append(("accuracy of the original", NONE, share(measured["original"])))
        rows.append(("accuracy", NONE, share(measured["accuracy"])))
    if measured.get("agreement") is not None:
        rows.append(("best class as the original's", NONE, share(measured["agreement"])))
    if predicted.get("drop") is not None:
        rows.append(("accuracy lost, found when the plan was made", share(predicted["drop"]), NONE))
    if rows:
        blocks.append(Table(("", "predicted", "measured"), tuple(rows), frozenset({1, 2})))
    return [*blocks, Text(_verified(facts))] if facts["layers"] else blocks


def _verified(facts: Facts) -> str:
    verified = facts["verified"]
    if verified is None:
        return "The files were not compared with the original here."
    why = f" ({verified['reason']})" if verified["reason"] else ""
    over = "1 blob" if verified["blobs"] == 1 else f"{verified['blobs']} blobs"
    return (
        f"The files were read back and run in {verified['runtime']}{why}, beside the original with each cut weight "
        f"replaced by the product of its factors: over {over} the largest relative error (L2) is "
        f"{figure(verified['worst_rel_l2'])}, of '{verified['worst_blob']}'."
    )


def _layers(facts: Facts) -> list[Block]:
    if not facts["layers"]:
        return []
    has_response = any(row["response_error"] is not None for row in facts["layers"])
    heading = ("layer", "method", "rank", *_REMAINS, "weight error")
    rows = [_layer(row, has_response=has_response) for row in facts["layers"]]
    rest = _rest(facts)
    rows += [(*cells, *("",) * (len(rows[0]) - len(cells))) for cells in rest]
    last = (*(("output error",) if has_response else ()), "became")
    table = Table((*heading, *last), tuple(rows), frozenset(range(2, len(heading) + len(last) - 1)))
    told = "The weight error is that of the product of all factors, relative to the weight (Frobenius norm)."
    if has_response:
        told += " The output error is that of what the layer puts out on samples held out, relative to its spread."
    left = [
        f"{row['layer']}: {count(row['multiplications'])} multiplications"
        for row in facts["layers"]
        if row["multiplications"] is not None
    ]
    return [
        table,
        Text(told),
        *([Text(f"The rest being additions, there are left in {'; '.join(left)}.")] if left else []),
    ]


def _layer(row: Facts, *, has_response: bool) -> tuple[str, ...]:
    (p0, p1), (m0, m1) = row["params"], row["macs"]
    method = " ".join([row["method"], *(f"{name}={value}" for name, value in row["options"].items())])
    errors = [row["weight_error"], *([row["response_error"]] if has_response else [])]
    became = ", ".join(row["became"]) or NONE
    counts = (count(p0), count(p1), share(p1, p0), count(m0), count(m1), share(m1, m0))
    return (row["layer"], method, ranks(row["rank"]), *counts, *map(figure, errors), became)


def _rest(facts: Facts) -> list[tuple[str, ...]]:
    """Return what all other layers take, and the whole, so that the columns add up."""
    rest, whole = list[str](), list[str]()
    for name in ("params", "macs"):
        before, after = (facts["totals"][when][name] for when in ("before", "after"))
        parts = [row[name][1] for row in facts["layers"]]
        others = None if after is None or None in parts else after - sum(parts)
        rest += [count(others), count(others), NONE if others is None else share(1)]
        whole += [count(before), count(after), share(after, before)]
    return [("all other layers", "", "", *rest), ("all", "", "", *whole)]


def _left(facts: Facts) -> list[Block]:
    """Return the layers by the reason why they are as they were."""
    layers: dict[str, list[str]] = {}
    for left in facts["left"]:
        layers.setdefault(left["reason"], []).append(left["layer"])
    rows = tuple((", ".join(names), reason) for reason, names in layers.items())
    return [Table(("layers", "why"), rows)] if rows else []


def _made(facts: Facts) -> list[Block]:
    data, source = facts["calibration"], facts["source"]
    rows = [("files", ", ".join(source["files"])), ("SHA-256 of the files", source["digest"])]
    rows += [(name, version) for name, version in facts["versions"].items()]
    rows += [("verified in", facts["verified"]["runtime"])] if facts["verified"] else []
    rows += [("seed", str(facts["seed"])), ("BLAS threads", str(facts["threads"]))]
    if data is not None:
        rows.append(("fitted to", f"{data.get('data')}, {data.get('images')} samples"))
        rows.append(("all factors refitted", "yes" if facts["refit"] else "no"))
    rows += [("note", note) for note in facts["notes"]]
    blocks: list[Block] = [Table(("", ""), tuple(rows))]
    if facts["command"] is not None:
        blocks += [Text("The same files are made again, where they and plan.json lie, by"), Code(facts["command"])]
    return blocks
