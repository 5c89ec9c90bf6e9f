"""Tell what became of one entry of a difference: what a reader sees who opens a layer."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.diff.difference import Change, Difference, Entry, Factored, Layer, Part, Reweighed
from surgery.diff.page.wording import WORDS, count, limited, shaped, share
from surgery.page import Child, Markup, element, fragment
from surgery.page.chart import Axis, Mark, Point, Series, chart

Facts = tuple[tuple[str, str], ...]

SPECTRUM_POINTS = 64
CHART_SIZE = (330, 190)


def article(difference: Difference, number: int) -> Markup:
    """Return what is to be told of the entry of that number, as an <article> that is hidden where nothing differs."""
    entry = difference.entries[number]
    return element(
        "article",
        element("h2", name(entry), tabindex=-1),
        element("p", _verdict(entry)),
        *_parts(difference, entry),
        *([_changes("What changed", entry.changes)] if entry.changes else []),
        *([_changes("What changed for training only", entry.training)] if entry.training else []),
        *([_weights(entry.weights)] if entry.weights else []),
        *_numbers(difference, entry),
        element("div", *_stated(difference, entry), class_="stated"),
        id=f"entry-{number}",
        class_=f"entry {entry.kind}",
        hidden=entry.kind == "same",
    )


def name(entry: Entry) -> str:
    """Return what an entry is called: the layers that are whole, "old → new" of a pair, or a layer's one name."""
    whole = {"split": entry.a, "merged": entry.b}.get(entry.kind)
    return _names(whole or entry.a or entry.b) + (f" → {_names(entry.b)}" if entry.is_renamed else "")


def _names(keys: Sequence[str]) -> str:
    return limited(", ".join(keys))


def gist(entry: Entry) -> str:
    """Return what is most worth knowing of an entry, in a line: form, rank and error, or what differs."""
    told = [_made(part.factored) for part in entry.parts]
    told += [limited(change.field) for change in entry.changes]
    told += [
        f"{blob.blob} by {blob.relative_error:.2g}" if blob.relative_error else blob.blob for blob in entry.weights
    ]
    return _names(list(dict.fromkeys(told)))


def _made(made: Factored) -> str:
    ranks = f", rank {' × '.join(map(str, made.ranks))}" if made.ranks else ""
    return f"{made.shape}{ranks}" + ("" if made.relative_error is None else f", error {made.relative_error:.2g}")


def _verdict(entry: Entry) -> Markup:
    beside = [word for word, holds in (("renamed", entry.is_renamed), ("moved", entry.is_moved)) if holds]
    where = {
        "added": " in B only",
        "removed": " in A only",
        "split": f" into {_names(entry.b)}",
        "merged": f" from {_names(entry.a)}",
    }
    sign = element("span", WORDS[entry.kind], class_=f"kind {entry.kind}")
    also = (f" and {word}" for word in beside if word != WORDS[entry.kind])
    return fragment(sign, *also, where.get(entry.kind, ""))


def _parts(difference: Difference, entry: Entry) -> list[Markup]:
    return [x for part in entry.parts for x in _part(difference, entry, part)]


def _part(difference: Difference, entry: Entry, part: Part) -> list[Markup]:
    whole, chain = (difference.a, difference.b) if entry.kind == "split" else (difference.b, difference.a)
    made = part.factored
    error = "unknown" if made.relative_error is None else f"{made.relative_error:.3g}"
    ranks = " × ".join(map(str, made.ranks)) or "none"
    facts: list[Child] = [
        _term("Form", made.shape),
        _term("Rank" if len(made.ranks) == 1 else "Ranks", ranks),
        _term("Relative weight error", error + (f" ({made.reason})" if made.reason else "")),
    ]
    facts += [_term("Only −1, 0, 1", _names(made.ternary))] if made.ternary else []
    facts += [_term("Shared with others", _names(made.shared))] if made.shared else []
    layers = [chain.by_key[key] for key in part.chain]
    told = [element("h3", limited(part.whole))] if len(entry.parts) > 1 else []
    return [*told, element("dl", *facts), _costs(whole.by_key[part.whole], layers), *_spectra(part)]


def _term(name: str, value: str) -> Markup:
    return element("div", element("dt", limited(name)), element("dd", limited(value)))


def _costs(whole: Layer, chain: Sequence[Layer]) -> Markup:
    """Return the layer and its chain with what they cost."""
    counted = (element("th", text, scope="col", class_="number") for text in ("Parameters", "MACs"))
    head = element("tr", element("th", "Layer", scope="col"), *counted)
    rows = [_cost(layer) for layer in (whole, *chain)]
    params, macs = (_sum([getattr(layer, name) for layer in chain]) for name in ("params", "macs"))
    changes = (share(whole.params, params), share(whole.macs, macs))
    total = element(
        "tr",
        element("th", "Chain against layer", scope="row"),
        *(element("td", text or "=", class_="number") for text in changes),
    )
    return _table(head, [*rows, total])


def _cost(layer: Layer) -> Markup:
    numbers = (element("td", count(number), class_="number") for number in (layer.params, layer.macs))
    return element(
        "tr", element("th", limited(layer.key), element("span", _shapes(layer), class_="shape"), scope="row"), *numbers
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [number for number in counts if number is not None]
    return sum(known) if len(known) == len(counts) else None


def _shapes(layer: Layer) -> str:
    return "; ".join(shaped(shape) if shape else "unknown" for shape in layer.shapes)


def _spectra(part: Part) -> list[Markup]:
    """Return a chart of singular values for each rank, with the rank marked."""
    spectra = zip(part.factored.ranks, part.factored.spectra, strict=False)
    return [_spectrum(limited(part.whole), rank, values) for rank, values in spectra if any(values)]


def _spectrum(name: str, rank: int, values: tuple[float, ...]) -> Markup:
    told = f"Singular values of {name} that rank {rank} cuts, relative to the largest"
    kept = _thinned(len(values), rank)
    points = tuple(Point(i + 1, values[i] / max(values)) for i in kept)
    drawn = chart(
        [Series("singular values", points, dots=False)],
        Axis("number of the singular value"),
        Axis("relative size", include=(0.0, 1.0)),
        title=told,
        mark=Mark(rank, f"rank {rank}"),
        size=CHART_SIZE,
    )
    return element("figure", drawn, element("figcaption", told))


def _thinned(length: int, rank: int) -> list[int]:
    """Return at most about `SPECTRUM_POINTS` indices: evenly spread, the ends and those at the rank among them."""
    step = max(1, length // SPECTRUM_POINTS)
    return sorted({*range(0, length, step), length - 1, *(i for i in (rank - 1, rank) if 0 <= i < length)})


def _changes(title: str, changes: Sequence[Change]) -> Markup:
    head = element("tr", *(element("th", text, scope="col") for text in ("Field", "A", "B")))
    rows = [
        element(
            "tr", element("th", limited(change.field), scope="row"), *(_value(x) for x in (change.before, change.after))
        )
        for change in changes
    ]
    return fragment(element("h3", title), _table(head, rows))


def _value(value: str | None) -> Markup:
    return element("td", "not set", class_="muted") if value is None else element("td", limited(value))


def _weights(weights: Sequence[Reweighed]) -> Markup:
    head = element("tr", *(element("th", text, scope="col") for text in ("Blob", "A", "B", "Relative error")))
    rows = []
    for blob in weights:
        shapes = (" × ".join(map(str, shape)) if shape is not None else "none" for shape in (blob.before, blob.after))
        error = "" if blob.relative_error is None else f"{blob.relative_error:.3g}"
        cells = [*(element("td", shape) for shape in shapes), element("td", error, class_="number")]
        rows.append(element("tr", element("th", limited(blob.blob), scope="row"), *cells))
    return fragment(element("h3", "Weights"), _table(head, rows))


def _numbers(difference: Difference, entry: Entry) -> list[Markup]:
    """Return the errors of the outputs, where both networks were run."""
    blobs = difference.numeric.blobs if difference.numeric else ()
    terms = [
        _term(blob.blob, f"{blob.relative_error:.3g} relative, {blob.max_abs:.3g} at most")
        for blob in blobs
        if blob.layer in entry.a
    ]
    return [element("h3", "Error of the output"), element("dl", *terms)] if terms else []


def _stated(difference: Difference, entry: Entry) -> list[Markup]:
    """Return all that the layers state: a table of a pair or of a single layer, else one to unfold for each."""
    before = [difference.a.by_key[key] for key in entry.a]
    after = [difference.b.by_key[key] for key in entry.b]
    if len(before) == len(after) == 1:
        return [_pair(before[0], after[0])]
    tables = [
        (layer.key, _table(None, [_row(*fact) for fact in _facts(layer) + layer.fields])) for layer in (*before, *after)
    ]
    if len(tables) == 1:
        return [tables[0][1]]
    return [element("details", element("summary", limited(key)), table) for key, table in tables]


def _pair(before: Layer, after: Layer) -> Markup:
    rows = _joined(_facts(before), _facts(after)) + _joined(before.fields, after.fields)
    if all(a == b for _, a, b in rows):
        return _table(None, [_row(name, a) for name, a, _ in rows])
    head = element("tr", element("td"), *(element("th", text, scope="col") for text in ("A", "B")))
    return _table(head, [_row(*row) for row in rows])


def _joined(before: Facts, after: Facts) -> list[tuple[str, str, str]]:
    """Return name, text of A and text of B of all that either side states."""
    a, b = dict(before), dict(after)
    return [(name, a.get(name, ""), b.get(name, "")) for name in dict.fromkeys([*a, *b])]


def _facts(layer: Layer) -> Facts:
    return (
        ("type", layer.type),
        ("reads", ", ".join(layer.bottoms)),
        ("makes", ", ".join(layer.tops)),
        ("output", _shapes(layer)),
        ("parameters", count(layer.params)),
        ("MACs", count(layer.macs)),
    )


def _row(name: str, *values: str) -> Markup:
    differs = len(set(values)) > 1
    return element(
        "tr",
        element("th", limited(name), scope="row"),
        *(element("td", limited(value)) for value in values),
        class_="differs" if differs else None,
    )


def _table(head: Markup | None, rows: Sequence[Markup]) -> Markup:
    top = [element("thead", head)] if head else []
    return element("div", element("table", *top, element("tbody", *rows)), class_="scroll")
