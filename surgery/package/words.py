"""The README of a parcel: what it holds, how the network is fed and checked, and what was done to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from surgery.calibrate.preprocess import Preprocess
from surgery.package.examples import Example
from surgery.package.preprocessing import JSON_FILE, steps

# What a file of a parcel is, by its name or how that begins; the first that fits counts.
_KINDS = {
    "LICENSE": "the licence of the original network",
    "MANIFEST.json": "all facts of this parcel, for programs",
    "SHA256SUMS": "the digest of every other file",
    "SOURCE": "where the original network comes from",
    "budget.csv": "what each layer takes: parameters, multiply-accumulates, bytes",
    "check_golden": "the program that loads the network and checks the golden vectors",
    "deploy.onnx": "the network as ONNX",
    "deploy.prototxt": "the network",
    "deploy": "its weights",
    "golden/index.txt": "the list of the golden vectors",
    "golden": "the golden vectors, raw and as .npy",
    "labels.txt": "the names of the classes, one a line, the first that of number 0",
    "mean.binaryproto": "the mean image, as Caffe reads it",
    "plan.json": "the cuts that the network comes from",
    "preprocess.json": "how a picture becomes the input",
    "report": "what was done to the network",
    "timings.json": "measured times",
}
_RAW = (
    "A raw file (`.f32`) is little-endian: the number of axes as uint32, the axes as uint32 each, then float32, the "
    "last axis running fastest. `golden/index.txt` has a line for each: `input` or `output`, the number of the sample, "
    "the file, the tolerance, and the blob's name, which is the rest of the line."
)
_UNTOLD = "Whoever made this parcel did not say how pictures become inputs; ask before you feed it any."
_OLD_CAFFE = "A Caffe of before mid-2016 may not know `-phase`; leave it out there."


def readme(
    facts: Mapping[str, Any],
    preprocess: Preprocess | None,
    example: Example,
    members: Iterable[str],
    *,
    note: str | None,
) -> str:
    """Return the README of a parcel as Markdown; `facts` are those of its MANIFEST.json."""
    sections = {
        f"A network for {facts['target']}": list(_head(facts)),
        "Files": [f"- {names}: {told}" for names, told in _files(members)],
        "Input": [*_numbered(steps(preprocess)), "", f"`{JSON_FILE}` has the same."] if preprocess else [_UNTOLD],
        "Golden vectors": [*_golden(facts), "", "```sh", *example.commands, "```", "", _RAW],
        "Time and memory": list(_costs(facts, example)),
        "What was done to the network": [*(f"- {_plain(line)}" for line in facts["changes"]), "", _same(facts)],
        "To know": [f"- {_plain(line)}" for line in facts["notes"]],
        "Source": [_plain(note)] if note else [],
    }
    told = [f"{'#' * (1 + (i > 0))} {title}\n\n" + "\n".join(s) for i, (title, s) in enumerate(sections.items()) if s]
    return "\n\n".join(told) + "\n"


def _head(facts: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("inputs", "outputs"):
        for name, blob in facts["model"][kind].items():
            yield f"- {kind[:-1]} {_code(name)}: {_by(blob['shape'])}"
    sources = ", ".join(_code(file["name"]) for file in facts["source"]["files"])
    yield f"- made by surgery {facts['version']} from {sources}"
    yield ""
    yield "Check that nothing was lost or changed on the way, without or with surgery:"
    yield ""
    yield "```sh\nsha256sum -c SHA256SUMS\nsurgery package --check PARCEL.zip\n```"


def _files(members: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the files and what they are, those of a kind together."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(set(members)):
        if kind := next((kind for kind in _KINDS if name.startswith(kind)), None):
            kinds.setdefault(kind, []).append(name)
    for kind, names in kinds.items():
        yield "`golden/*`" if kind == "golden" else ", ".join(map(_code, names)), _KINDS[kind]


def _golden(facts: Mapping[str, Any]) -> Iterator[str]:
    golden = facts["golden"]
    yield (
        f"{golden['samples']} inputs ({_plain(golden['from'])}) and what {golden['reference']} computes from them on "
        "one thread. An output agrees where ||computed - golden|| / ||golden|| is at most its tolerance:"
    )
    yield ""
    for name, tolerance in golden["tolerances"].items():
        yield f"- {_code(name)}: {tolerance:g}"
    yield ""
    others = ", ".join(golden["distances"])
    yield (
        f"That is ten times the largest distance from {others}, rounded up."
        if others
        else "No second runtime was there to measure it; it is what float32 needs in general."
    )


def _costs(facts: Mapping[str, Any], example: Example) -> Iterator[str]:
    sizes = facts["sizes"]
    counts = {
        "parameters": sizes["params"],
        "multiply-accumulates": sizes["macs"],
        "bytes of weights": sizes["weight_bytes"],
    }
    if sizes["memory"]:
        counts |= {"bytes to run it, weights, blobs and buffers": sizes["memory"]["total"]}
    yield from (f"- {name}: {'not known' if count is None else f'{count:,}'}" for name, count in counts.items())
    yield from ("", "`budget.csv` has them layer by layer. To time the network on the device:", "")
    yield f"```sh\n{example.time}\n```"
    if example.time.startswith("caffe "):
        yield from ("", _OLD_CAFFE)


def _same(facts: Mapping[str, Any]) -> str:
    original = facts["original"]
    if original["runtime"] is None:
        return f"It was not compared with the network as it was given: {_plain(original['reason'])}."
    worst = max(original["distances"].values())
    return f"The network as it was given computes the same from the golden inputs: within {worst:.1e} in that measure."


def _numbered(lines: Iterable[str]) -> list[str]:
    return [f"{i}. {line}" for i, line in enumerate(lines, 1)]


def _plain(text: str) -> str:
    """Return text whose names from files cannot become markup or more lines."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#&" else c for c in shown)


def _code(name: str) -> str:
    return f"`{''.join(c if c.isprintable() else '?' for c in name).replace('`', chr(39))}`"


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "one number"
