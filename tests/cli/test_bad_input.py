"""Whatever a user hands over: one clear line and exit 2, in bounded time and memory, and nothing written."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery.cli.main import VERBS
from surgery.formats.wire import encode_bytes, encode_tag, encode_varint
from tests.cli.commands import complaints, end_children, run
from tests.shared import REPOSITORY, shared

NET = """\
name: "good"
input: "data"
input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 10 } }
"""


def blob(*shape: int) -> bytes:
    values = np.random.default_rng(0).standard_normal(shape).astype("<f4").tobytes()
    dims = b"".join(encode_varint(n) for n in shape)
    return encode_bytes(7, encode_bytes(7, encode_bytes(1, dims)) + encode_bytes(5, values))


def layer(name: str, kind: str, *blobs: bytes) -> bytes:
    return encode_bytes(100, encode_bytes(1, name.encode()) + encode_bytes(2, kind.encode()) + b"".join(blobs))


WEIGHTS = layer("conv", "Convolution", blob(8, 3, 3, 3), blob(8)) + layer("ip", "InnerProduct", blob(10, 288), blob(10))

RANDOM = random.Random(0).randbytes(5000)
DEEP_GROUPS = encode_tag(5, 3) * 50_000
DEEP_MESSAGES = b""
for _ in range(3000):
    DEEP_MESSAGES = encode_bytes(2, DEEP_MESSAGES)

# What is bad through and through: exit 2, whatever the verb.
BAD_TEXTS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n\t\r\n",
    "only a comment": b"# nothing here\n",
    "only a name": b'name: "net"\n',
    "truncated in a block": NET.encode()[:150],
    "truncated in a string": NET.encode()[:9],
    "random": RANDOM,
    "zeros": b"\0" * 10_000,
    "a caffemodel": WEIGHTS,
    "an image": b"\x89PNG\r\n\x1a\n" + RANDOM,
    "utf-16": NET.encode("utf-16"),
    "deep blocks": b"layer {" * 1_000_000,
    "deep blocks, closed": b"a{" * 500 + b"}" * 500,
    "deep lists": b"layer: [" * 1_000_000,
    "a closing brace too many": NET.encode() + b"}",
    "crossed braces": b"layer { name: 'a' >",
    "a solver": b'net: "train.prototxt"\nbase_lr: 0.01\nlr_policy: "step"\nsolver_mode: GPU\n',
    "a label map": b'item { name: "background" label: 0 display_name: "none" }\n',
    "HTML": b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n",
    "JSON": b'{"layers": []}\n',
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}
BAD_WEIGHTS: dict[str, bytes] = {
    "truncated": WEIGHTS[:-1],
    "truncated in the first layer": WEIGHTS[:100],
    "truncated in a tag": WEIGHTS[:1],
    "random": RANDOM,
    "zeros": b"\0" * 10_000,
    "a prototxt": NET.encode(),
    "huge length": encode_tag(100, 2) + encode_varint(2**62) + WEIGHTS,
    "huge length inside": encode_bytes(100, encode_tag(7, 2) + encode_varint(2**40)),
    "length past ten bytes": encode_tag(100, 2) + b"\xff" * 20,
    "deep groups": DEEP_GROUPS,
    "an odd number of bytes in a blob": encode_bytes(
        100, encode_bytes(1, b"ip") + encode_bytes(7, encode_bytes(5, b"a"))
    ),
    "HDF5 that ends after its signature": b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
    "a name of 17 MB": layer("a" * 17_000_000, "ReLU"),
}
# What can be read, but fits no network of this kind, or the other file.
MISMATCHED_WEIGHTS: dict[str, bytes] = {
    "another shape": layer("conv", "Convolution", blob(8, 3, 5, 5), blob(8)),
    "another number of axes": layer("ip", "InnerProduct", blob(10, 289), blob(10)),
    "too few blobs": layer("conv", "Convolution", blob(8, 3, 3, 3)),
    "too many blobs": layer("conv", "Convolution", blob(8, 3, 3, 3), blob(8), blob(8)),
    "fewer numbers than the shape says": layer(
        "ip",
        "InnerProduct",
        encode_bytes(7, encode_bytes(7, b"\x0a\x03\x0a\xa0\x02") + encode_bytes(5, b"abcd")),
        blob(10),
    ),
    "a negative dimension": layer(
        "ip", "InnerProduct", encode_bytes(7, encode_bytes(7, b"\x0a\x0a" + encode_varint(2**64 - 1))), blob(10)
    ),
    "a shape of 2^120 numbers": layer(
        "ip", "InnerProduct", encode_bytes(7, encode_bytes(7, encode_bytes(1, encode_varint(2**60) * 2))), blob(10)
    ),
}
WRONG_VALUES: dict[str, bytes] = {
    "num_output is a word": NET.replace("num_output: 8", "num_output: eight").encode(),
    "num_output is negative": NET.replace("num_output: 8", "num_output: -8").encode(),
    "num_output is a block": NET.replace("num_output: 8", "num_output { }").encode(),
    "convolution_param is a number": NET.replace(
        "convolution_param { num_output: 8 kernel_size: 3 }", "convolution_param: 3"
    ).encode(),
    "an input that is a number": NET.replace('input: "data"', "input: 5").encode(),
    "a dim that is a word": NET.replace("dim: 3", "dim: three").encode(),
    "two shapes for one input": (NET + "input_shape { dim: 1 }").encode(),
    "a state that is a number": (NET + "state: 1").encode(),
    "a phase that is a string": NET.replace('type: "ReLU"', 'type: "ReLU" phase: "TEST"').encode(),
    "an include that is a word": NET.replace('type: "ReLU"', 'type: "ReLU" include: TEST').encode(),
    "a lr_mult that is a word": NET.replace('type: "ReLU"', 'type: "ReLU" param { lr_mult: fast }').encode(),
    "a name that is no string": b"layer { name: 5 type: 'ReLU' }",
    "a type that is no string": b"layer { name: 'a' type: RELU }",
    "a layer that is no block": b"layer: 'conv'",
    "a top that is a block": b"layer { name: 'a' type: 'ReLU' top { } }",
}
# Strange, but readable: no traceback, no hang, no memory; whether the answer is yes, no or wrong is not asked here.
ODD_TEXTS: dict[str, bytes] = {
    "dims of 2^31": NET.replace("dim: 8 dim: 8", "dim: 2147483647 dim: 2147483647").encode(),
    "a dim of zero": NET.replace("dim: 8 dim: 8", "dim: 0 dim: 8").encode(),
    "a negative dim": NET.replace("dim: 8 dim: 8", "dim: -8 dim: 8").encode(),
    "33 dims": NET.replace("dim: 8 dim: 8", "dim: 8 " * 33).encode(),
    "a kernel of zero": NET.replace("kernel_size: 3", "kernel_size: 0").encode(),
    "a kernel of 2^31": NET.replace("kernel_size: 3", "kernel_size: 4294967295").encode(),
    "a stride of zero": NET.replace("kernel_size: 3", "kernel_size: 3 stride: 0").encode(),
    "a pad of 2^32": NET.replace("kernel_size: 3", "kernel_size: 3 pad: 4294967295").encode(),
    "group of zero": NET.replace("kernel_size: 3", "kernel_size: 3 group: 0").encode(),
    "group that does not divide": NET.replace("kernel_size: 3", "kernel_size: 3 group: 2").encode(),
    "num_output of zero": NET.replace("num_output: 8", "num_output: 0").encode(),
    "num_output of 2^32": NET.replace("num_output: 8", "num_output: 4294967295").encode(),
    "2^96 weights": NET.replace("num_output: 8", "num_output: 4294967295")
    .replace("dim: 3 dim: 8", "dim: 2147483647 dim: 8")
    .replace("num_output: 10", "num_output: 4294967295")
    .encode(),
    "a negative number of channels": NET.replace("dim: 3", "dim: -3").encode(),
    "an axis far out": NET.replace("num_output: 10", "num_output: 10 axis: 99").encode(),
    "a layer without bottoms": NET.replace('bottom: "data"', "").encode(),
    "a layer without tops": NET.replace('top: "ip"', "").encode(),
    "a layer without a name": NET.replace('name: "conv"', "").encode(),
    "a layer without a type": NET.replace('type: "Convolution"', "").encode(),
    "a layer that reads itself": NET.replace('bottom: "data" top: "conv"', 'bottom: "ip" top: "conv"').encode(),
    "all layers of one name": NET.replace('"conv" type', '"a" type').replace('"ip" type', '"a" type').encode(),
    "a type nobody knows": NET.replace("Convolution", "Konvolution").encode(),
    "both layer and layers": (NET + "layers { name: 'x' type: RELU bottom: 'ip' top: 'x' }").encode(),
    "an empty layer": (NET + "layer {}").encode(),
    "a V0 layer without a type": b"input: 'data' layers { layer { name: 'x' } bottom: 'data' top: 'x' }",
    "a V1 type of a number": b"layers { name: 'x' type: 999999 top: 'x' }",
    "names with line ends and escapes": NET.replace('"conv"', r'"c\n\033[31m\177\"\\"').encode(),
    "a name that is not UTF-8": NET.encode().replace(b'"conv"', b'"c\xff\xed\xa0\x80"'),
    "a name with a slash": NET.replace('"conv"', '"../../conv"').encode(),
    "a thousand levels of in-place": NET.encode() + b"layer { name: 's' type: 'ReLU' bottom: 'ip' top: 'ip' }\n" * 1000,
}
ODD_WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "truncated between layers": WEIGHTS[: len(layer("conv", "Convolution", blob(8, 3, 3, 3), blob(8)))],
    "deep messages": DEEP_MESSAGES,
    "only unknown fields": encode_bytes(5000, b"abc") * 1000,
    "the last of two entries counts": WEIGHTS + layer("ip", "InnerProduct", blob(10, 288), blob(10)),
    "weights of layers that are not there": layer("other", "InnerProduct", blob(10, 288)),
    "names with line ends": WEIGHTS + layer("a\nb\x1b[31m\xff", "x", blob(1)),
    "NaN and inf": WEIGHTS.replace(WEIGHTS[60:68], b"\x00\x00\xc0\x7f\x00\x00\x80\x7f"),
}
# Large, where a reader that is not careful takes minutes or gigabytes: for the verbs whose memory is bounded.
HUGE_TEXTS: dict[str, bytes] = {
    "a million fields": b"layer{}" * 1_000_000,
    "a million list elements": b"layer: [" + b"{}," * 1_000_000 + b"{}]",
    "a name of a megabyte": NET.replace('"relu"', '"' + "r" * 1_000_000 + '"').encode()
    + b"layer { name: 's' type: 'ReLU' bottom: 'ip' top: 'ip' }\n" * 2000,
    "3000 convolutions": NET.encode()
    + b"".join(
        b"layer { name: 'c%d' type: 'Convolution' bottom: 'conv' top: 'c%d' convolution_param { num_output: 4 "
        b"kernel_size: 1 } }\n" % (i, i)
        for i in range(3000)
    ),
    "6000 layers": NET.encode()
    + b"".join(b"layer{name:'r%d'type:'ReLU'bottom:'ip'top:'r%d'}" % (i, i) for i in range(6000)),
    "50000 bottoms of one layer": NET.encode()
    + b"layer { name: 'cat' type: 'Concat' top: 'cat' "
    + b"bottom: 'ip' " * 50_000
    + b"}",
}
HUGE_WEIGHTS: dict[str, bytes] = {
    "half a million empty blobs": encode_bytes(100, b"\x3a\x00" * 500_001),
    "20001 empty layers": encode_bytes(100, b"") * 20_001,
    "12000 layers of weights": WEIGHTS + b"".join(layer(f"l{i}", "ReLU") for i in range(12_000)),
}
for seed in range(12):  # Bits turned over anywhere.
    turned = bytearray(WEIGHTS if seed % 2 else NET.encode())
    for _ in range(1 + seed // 4):
        turned[random.Random(seed).randrange(len(turned) if seed % 2 == 0 else 60)] ^= 1 << seed % 8
    (ODD_WEIGHTS if seed % 2 else ODD_TEXTS)[f"bit-flipped {seed}"] = bytes(turned)

# Verb -> what follows it, for a definition, weights, a plan, a good model and a folder for results.
COMMANDS: dict[str, Callable[[str, str, str, Sequence[str], str], list[str]]] = {
    "inspect": lambda p, w, plan, good, out: [p, w],
    "lint": lambda p, w, plan, good, out: [p, w],
    "compress": lambda p, w, plan, good, out: [p, w, "-o", out, "--params", "0.5", "--verify", "none"],
    "plan": lambda p, w, plan, good, out: [p, w, "-o", out, "--params", "0.5"],
    "apply": lambda p, w, plan, good, out: [p, w, plan, "-o", out, "--verify", "none"],
    "verify": lambda p, w, plan, good, out: [p, w, *good, "--runtime", "opencv"],
    "diff": lambda p, w, plan, good, out: [p, w, *good],
    "tune": lambda p, w, plan, good, out: [
        *(p, w, "-o", out, "--teacher", *good, "--data", good[0].replace("good.prototxt", "x.npy"), "--epochs", "1"),
    ],
    "package": lambda p, w, plan, good, out: [p, w, "-o", out, "--target", "caffe-1.0"],
    "bench": lambda p, w, plan, good, out: [p, w, "--runtime", "opencv", "--repeat", "1"],
    "upgrade": lambda p, w, plan, good, out: [p, w, "-o", out],
    "deploy": lambda p, w, plan, good, out: [p, w, "-o", out],
    "convert": lambda p, w, plan, good, out: [p, w, "-o", out],
    "extract": lambda p, w, plan, good, out: [p, w, "-o", out, "--outputs", "conv", "--verify", "none"],
    "fold": lambda p, w, plan, good, out: [p, w, "-o", out, "--verify", "none"],
    "fc-to-conv": lambda p, w, plan, good, out: [p, w, "-o", out, "--verify", "none"],
    "merge": lambda p, w, plan, good, out: [p, w, "-o", out, "--verify", "none"],
    "calibrate": lambda p, w, plan, good, out: [p, w, "-o", out, "--data", good[0].replace("good.prototxt", "x.npy")],
    "advise": lambda p, w, plan, good, out: [p, w, "--layer", "ip", "--params", "0.1", "--runtime", "opencv"],
}
LENIENT = {"upgrade", "deploy"}  # They rework the text; whether weights fit is not theirs to say.
MEASURED = {"inspect", "lint"}


def test_every_verb_is_tried() -> None:
    assert {*COMMANDS, "batch"} == set(VERBS)  # It takes a folder, and what is wrong there is a row: tests/batch.


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good model, a plan for it, and every bad file."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "good.prototxt").write_text(NET)
    (folder / "good.caffemodel").write_bytes(WEIGHTS)
    np.save(folder / "x.npy", np.ones((2, 3, 8, 8), np.float32))
    for group in (BAD_TEXTS, ODD_TEXTS, WRONG_VALUES, HUGE_TEXTS):
        for name, raw in group.items():
            (folder / f"{name}.prototxt").write_bytes(raw)
    for group in (BAD_WEIGHTS, ODD_WEIGHTS, MISMATCHED_WEIGHTS, HUGE_WEIGHTS):
        for name, raw in group.items():
            (folder / f"{name}.caffemodel").write_bytes(raw)
    with (folder / "300 MB of zeros.prototxt").open("wb") as sparse:
        sparse.truncate(3 * 10**8)
    (folder / "300 MB of zeros.caffemodel").symlink_to("300 MB of zeros.prototxt")
    (folder / "a folder.prototxt").mkdir()
    (folder / "a folder.caffemodel").mkdir()
    (folder / "not allowed.prototxt").write_text(NET)
    (folder / "a loop.prototxt").symlink_to("a loop.prototxt")
    os.mkfifo(folder / "a pipe.prototxt")
    os.mkfifo(folder / "a pipe.caffemodel")
    good = [str(folder / "good.prototxt"), str(folder / "good.caffemodel")]
    (ran,) = run([["plan", *good, "--params", "0.5", "-o", str(folder / "plan.json")]])
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture(scope="module", autouse=True)
def _children_end() -> Iterator[None]:
    yield
    end_children()


def assert_refused(verb: str, pairs: Sequence[tuple[str, str]], folder: Path, codes: set[int], out: Path) -> None:
    """Each pair of files ends with one of `codes`, as it should, and leaves nothing behind unless it ends with 0."""
    good = [str(folder / "good.prototxt"), str(folder / "good.caffemodel")]
    commands, results = [], []
    for i, (prototxt, caffemodel) in enumerate(pairs):
        # The only endings that these two take; the other verbs take any.
        results.append(out / f"{i}.{'zip' if verb == 'package' else 'onnx'}")
        arguments = COMMANDS[verb](prototxt, caffemodel, str(folder / "plan.json"), good, str(results[-1]))
        commands.append([verb, *(argument for argument in arguments if argument)])
    wrong = []
    options = ["--measured"] if verb in MEASURED else []
    for pair, ran, result in zip(pairs, run(commands, *options), results, strict=True):
        found = list(complaints(ran, codes, pair))
        if ran.code and result.exists():
            found.append("left something at the destination")
        wrong += [f"{[Path(file).name for file in pair]}: {complaint}" for complaint in found]
    left = {path.name for path in out.iterdir()} - {result.name for result in results}
    assert not left, f"staging folders are left: {left}"
    assert not wrong, f"{len(wrong)} of {len(pairs)}:\n" + "\n".join(wrong)


def paths(folder: Path, names: Sequence[str], ending: str) -> list[str]:
    return [str(folder / f"{name}.{ending}") for name in names]


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_bad_definition_is_one_line_and_exit_2(verb: str, files: Path, tmp_path: Path) -> None:
    names = [*BAD_TEXTS, "300 MB of zeros", "missing", "a folder", "a loop", "a pipe"]
    weights = str(files / "good.caffemodel")
    assert_refused(verb, [(p, weights) for p in paths(files, names, "prototxt")], files, {2}, tmp_path)


@pytest.mark.parametrize("verb", COMMANDS)
def test_bad_weights_are_one_line_and_exit_2(verb: str, files: Path, tmp_path: Path) -> None:
    names = [*BAD_WEIGHTS, "300 MB of zeros", "missing", "a folder", "a pipe"]
    good = str(files / "good.prototxt")
    assert_refused(verb, [(good, w) for w in paths(files, names, "caffemodel")], files, {2}, tmp_path)


@pytest.mark.parametrize("verb", ["inspect", "lint", "upgrade"])
def test_bad_weights_alone_are_one_line_and_exit_2(verb: str, files: Path, tmp_path: Path) -> None:
    names = [*BAD_WEIGHTS, "300 MB of zeros", "missing", "a folder", "a pipe"]
    assert_refused(verb, [("", w) for w in paths(files, names, "caffemodel")], files, {2}, tmp_path)


@pytest.mark.parametrize("verb", COMMANDS)
def test_files_that_do_not_belong_together_are_refused(verb: str, files: Path, tmp_path: Path) -> None:
    good = str(files / "good.prototxt")
    codes = {0} if verb in LENIENT else {1} if verb == "lint" else {2}
    pairs = [(good, w) for w in paths(files, list(MISMATCHED_WEIGHTS), "caffemodel")]
    assert_refused(verb, pairs, files, codes, tmp_path)


@pytest.mark.parametrize("verb", COMMANDS)
def test_values_of_another_type_are_refused_with_their_place(verb: str, files: Path, tmp_path: Path) -> None:
    weights = str(files / "good.caffemodel")
    pairs = [(p, weights) for p in paths(files, list(WRONG_VALUES), "prototxt")]
    codes = {0, 2} if verb in LENIENT else {1, 2} if verb == "lint" else {2}
    assert_refused(verb, pairs, files, codes, tmp_path)


@pytest.mark.parametrize("verb", COMMANDS)
def test_odd_files_end_in_an_answer(verb: str, files: Path, tmp_path: Path) -> None:
    good = [str(files / "good.prototxt"), str(files / "good.caffemodel")]
    pairs = [(p, good[1]) for p in paths(files, list(ODD_TEXTS), "prototxt")]
    pairs += [(good[0], w) for w in paths(files, list(ODD_WEIGHTS), "caffemodel")]
    if verb in (
        "verify",
        "bench",
        "advise",
        "package",
        "tune",
    ):  # What can be read goes on into a runtime, which takes a process of its own.
        pairs = pairs[::4]
    assert_refused(verb, pairs, files, {0, 1, 2}, tmp_path)


@pytest.mark.parametrize("verb", sorted(MEASURED))
def test_huge_files_end_in_an_answer_within_time_and_memory(verb: str, files: Path, tmp_path: Path) -> None:
    good = [str(files / "good.prototxt"), str(files / "good.caffemodel")]
    pairs = [(p, good[1]) for p in paths(files, list(HUGE_TEXTS), "prototxt")]
    pairs += [(good[0], w) for w in paths(files, list(HUGE_WEIGHTS), "caffemodel")]
    pairs += [("", w) for w in paths(files, list(HUGE_WEIGHTS), "caffemodel")]
    assert_refused(verb, pairs, files, {0, 1, 2}, tmp_path)


@pytest.mark.parametrize("verb", ["inspect", "lint", "plan", "upgrade", "deploy"])
def test_odd_definitions_alone_end_in_an_answer(verb: str, files: Path, tmp_path: Path) -> None:
    pairs = [(p, "") for p in paths(files, [*ODD_TEXTS, "good"], "prototxt")]
    assert_refused(verb, pairs, files, {0, 1, 2}, tmp_path)


def test_names_that_are_not_utf8_do_not_break_json(files: Path, tmp_path: Path) -> None:
    raw = NET.encode().replace(b'"conv"', b'"c\xff"')
    (tmp_path / "net.prototxt").write_bytes(raw)
    (tmp_path / "net.caffemodel").write_bytes(WEIGHTS.replace(b"\x0a\x04conv", b"\x0a\x02c\xff\x12\x00"))
    model = [str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")]
    plan, out = str(tmp_path / "plan.json"), str(tmp_path / "out")
    commands = [
        ["inspect", *model, "--json"],
        ["inspect", model[1], "--json"],
        ["inspect", *model],
        ["lint", *model, "--json"],
        ["lint", *model],
        ["plan", *model, "--rank", "1"],
        ["plan", *model, "--rank", "1", "-o", plan],
        ["apply", *model, plan, "-o", out, "--verify", "none", "--json"],
        ["compress", *model, "--rank", "1", "-o", out, "--verify", "none", "--json"],
        ["compress", *model, "--rank", "1", "-o", out, "--verify", "none"],
    ]
    wrong = []
    for command, ran in zip(commands, run(commands), strict=True):
        shown = [Path(argument).name for argument in command]
        wrong += [f"{shown}: {complaint}" for complaint in complaints(ran, {0})]
        if "--json" in command and ran.code == 0:
            json.loads(ran.out)
    assert not wrong, "\n".join(wrong)
    assert b'"c\xff_1"' in (tmp_path / "out" / "net.prototxt").read_bytes()


@pytest.mark.parametrize("verb", ["inspect", "lint"])
def test_odd_weights_alone_end_in_an_answer(verb: str, files: Path, tmp_path: Path) -> None:
    pairs = [("", w) for w in paths(files, [*ODD_WEIGHTS, *MISMATCHED_WEIGHTS], "caffemodel")]
    assert_refused(verb, pairs, files, {0, 1, 2}, tmp_path)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_real_file_that_is_no_network_is_refused(verb: str, files: Path, tmp_path: Path) -> None:
    found = sorted(map(str, shared("zoo/prototxt_invalid").iterdir()))
    assert len(found) > 40
    weights = "" if verb != "verify" else str(files / "good.caffemodel")
    assert_refused(verb, [(file, weights) for file in found], files, {2}, tmp_path)


# --- Where results cannot be written


WRITERS = {
    "compress": ["--params", "0.5", "--verify", "none"],
    "plan": ["--params", "0.5"],
    "apply": ["plan.json", "--verify", "none"],
    "upgrade": [],
    "deploy": [],
}


def writing(verb: str, folder: Path, destination: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a verb that writes, in its own process as a user does."""
    command = [sys.executable, "-m", "surgery", verb, "good.prototxt", "good.caffemodel", *WRITERS[verb]]
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*command, "-o", str(destination)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        **options,
    )


def assert_one_line(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("surgery: ")
    assert ran.stderr.count("\n") == 1
    assert ran.stdout == ""


@pytest.mark.parametrize("verb", WRITERS)
def test_a_missing_parent_folder_is_one_line(verb: str, files: Path, tmp_path: Path) -> None:
    assert_one_line(writing(verb, files, tmp_path / "missing" / "out"))


@pytest.mark.parametrize("verb", [verb for verb in WRITERS if verb != "plan"])
def test_a_folder_that_cannot_be_written_in_is_one_line(verb: str, files: Path) -> None:
    before = set(files.iterdir())
    assert_one_line(writing(verb, files, Path("/proc/surgery")))  # Not even root can make a folder there.
    assert set(files.iterdir()) == before


@pytest.mark.parametrize("verb", [verb for verb in WRITERS if verb != "plan"])
def test_a_full_disk_is_one_line_and_leaves_nothing(verb: str, files: Path, tmp_path: Path) -> None:
    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # Every write past 500 bytes fails.

    assert_one_line(writing(verb, files, tmp_path / "out", preexec_fn=fill_up))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", [verb for verb in WRITERS if verb != "plan"])
def test_the_folder_of_the_input_and_foreign_folders_are_refused(verb: str, files: Path, tmp_path: Path) -> None:
    assert_one_line(writing(verb, files, files))
    (tmp_path / "notes.txt").write_text("mine")
    assert_one_line(writing(verb, files, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_plan_over_an_input_is_refused(files: Path) -> None:
    assert_one_line(writing("plan", files, files / "good.prototxt"))
    assert (files / "good.prototxt").read_text() == NET


# --- Plans, requests and inputs that are wrong

PLANS: dict[str, str] = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "a number": "1",
    "no fields": "{}",
    "deep": "[" * 100_000,
    "a huge number": '{"format": 1' + "0" * 5000 + "}",
    "a digest that is a number": '{"format": 1, "digest": 5, "cuts": []}',
    "cuts that are no list": '{"format": 1, "digest": "x", "cuts": {"a": 1}}',
    "a cut that is no object": '{"format": 1, "digest": "x", "cuts": [1]}',
    "random": RANDOM.decode("latin-1"),
    "another model": '{"format": 1, "seed": 0, "digest": "0000", "cuts": [], "left": []}',
}
RANKS = [0, -1, 10**30, 1.5, "1", None, [], [1, 1, 1, 1, 1], ["a"], {}, True, [True], [1e300], ["NaN"]]


def test_a_bad_plan_is_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    good = [str(files / "good.prototxt"), str(files / "good.caffemodel")]
    plans = dict(PLANS)
    true = json.loads((files / "plan.json").read_text())
    for i, rank in enumerate(RANKS):
        cuts = [{**true["cuts"][0], "rank": rank}]
        plans[f"rank {i}"] = json.dumps({**true, "cuts": cuts})
    for key, value in (
        ("method", "magic"),
        ("method", 5),
        ("method", None),
        ("layer", "nobody"),
        ("layer", 5),
        ("price", 5),
        ("error", "x"),
    ):
        plans[f"{key} {value}"] = json.dumps({**true, "cuts": [{**true["cuts"][0], key: value}]})
    for key in {*true["cuts"][0]} - {"price", "error"}:  # Those are for a reader.
        plans[f"without {key}"] = json.dumps({**true, "cuts": [{k: v for k, v in true["cuts"][0].items() if k != key}]})
    plans["a cut twice"] = json.dumps({**true, "cuts": true["cuts"] * 2})
    commands = []
    for i, text in enumerate(plans.values()):
        (tmp_path / f"{i}.json").write_text(text)
        commands.append(
            ["apply", *good, str(tmp_path / f"{i}.json"), "-o", str(tmp_path / f"out{i}"), "--verify", "none"]
        )
    wrong = []
    for name, ran in zip(plans, run(commands), strict=True):
        wrong += [f"{name}: {complaint}" for complaint in complaints(ran, {2})]
    assert not wrong, "\n".join(wrong)
    assert not list(tmp_path.glob("out*"))


REQUESTS = [
    ["--rank", "0"],
    ["--rank", "x"],
    ["--rank", "1x"],
    ["--rank", "9" * 40],
    ["--energy", "2"],
    ["--energy", "nan"],
    ["--params", "-1"],
    ["--params", "inf"],
    ["--params", "nan"],
    ["--macs", "0"],
    ["--method", "magic", "--rank", "1"],
    ["--layer", "nobody", "--rank", "1"],
    ["--layer", "conv=magic:rank=1"],
    ["--layer", "conv=svd-channel:rank=999"],
    ["--layer", "conv=svd-channel:rank=two"],
    ["--layer", "conv=svd-channel:speed=2"],
    ["--layer", '"conv'],
    ["--layer", "[", "--rank", "1"],
    ["--layer", "", "--rank", "1"],
    ["--rank", "1", "--energy", "0.5"],
    ["--shape", "data", "--rank", "1"],
    ["--shape", "data=1,2", "--rank", "1"],
    ["--shape", "nobody=1,2,3,4", "--rank", "1"],
    ["--shape", "data=" + "9" * 40, "--rank", "1"],
    [],
]


def test_a_request_that_cannot_be_met_is_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    good = [str(files / "good.prototxt"), str(files / "good.caffemodel")]
    commands = [["compress", *good, "-o", str(tmp_path / "out"), "--verify", "none", *asked] for asked in REQUESTS]
    wrong = []
    for asked, ran in zip(REQUESTS, run(commands), strict=True):
        shown = " ".join(asked)[:60]
        wrong += [f"{shown}: {complaint}" for complaint in complaints(ran, {2})]
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "out").exists()


def test_wrong_numbers_of_files_are_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    p, w = str(files / "good.prototxt"), str(files / "good.caffemodel")
    out = ["-o", str(tmp_path / "out")]
    commands = [
        *(["inspect", *given] for given in ([p, p], [w, w], [p, w, w], [p, w, p, w])),
        *(["lint", *given] for given in ([p, p], [w, w], [p, w, w])),
        *(["compress", *given, *out, "--rank", "1"] for given in ([p, p], [w], [w, w], [p, w, w])),
        *(["plan", *given, "--rank", "1"] for given in ([p, p], [w], [w, w])),
        *(["apply", *given, *out] for given in ([p, w], [p, w, str(files / "plan.json"), str(files / "plan.json")])),
        *(["verify", *given] for given in ([p], [p, w], [w, w], [p, p, p], [w, p, w, p])),
        *(["upgrade", *given, *out] for given in ([p, p], [w, w])),
        *(["deploy", *given, *out] for given in ([p, p], [w], [w, w])),
    ]
    wrong = []
    for command, ran in zip(commands, run(commands), strict=True):
        shown = [Path(argument).name for argument in command]
        wrong += [f"{shown}: {complaint}" for complaint in complaints(ran, {2})]
    assert not wrong, "\n".join(wrong)


INPUTS: dict[str, bytes] = {
    "empty.npz": b"",
    "random.npz": RANDOM,
    "zip.npz": b"PK\x03\x04" + RANDOM,
    "text.npy": b"1 2 3",
    "header.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }",
    "pickle.npy": b"\x80\x04K\x01.",
}


def test_bad_inputs_for_verify_are_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    for name, raw in INPUTS.items():
        (tmp_path / name).write_bytes(raw)
    np.save(tmp_path / "shape.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "words.npy", np.full((1, 3, 8, 8), "a"))
    np.save(tmp_path / "objects.npy", np.array([{}]))
    np.savez(tmp_path / "names.npz", other=np.zeros((1, 3, 8, 8)))
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "no samples.npy", np.zeros((0, 1, 3, 8, 8), np.float32))
    good = [str(files / "good.prototxt"), str(files / "good.caffemodel")]
    names = sorted([*(path.name for path in tmp_path.iterdir()), "missing.npz"])
    commands = [["verify", *good, *good, "--runtime", "opencv", "--inputs", str(tmp_path / name)] for name in names]
    wrong = []
    for name, ran in zip(names, run(commands), strict=True):
        wrong += [f"{name}: {complaint}" for complaint in complaints(ran, {2})]
    assert not wrong, "\n".join(wrong)
