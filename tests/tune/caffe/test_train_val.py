"""What the files to train from say: the network that runs, as it is written, with data in front and losses behind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate.data import Data
from surgery.errors import ModelError, PlanError
from surgery.formats import Source
from surgery.formats.caffe import lint_text, text
from surgery.formats.caffe.netstate import NetState
from surgery.formats.caffe.targets import CAFFES, TARGETS
from surgery.tune.caffe import Goal, Solver, Stored, Task, run, trained_blobs, write
from surgery.tune.caffe.solver import Rounds, solver_text
from tests.engines import require_caffe
from tests.nets import Blobs, conv_blobs, dense_blobs, write_net
from tests.schema import parse_message
from tests.tune.caffe.digits import ORIGINAL, cut_digits, samples

INPUT = 'name: "t"\ninput: "data"\ninput_shape { dim: 2 dim: 3 dim: 6 dim: 6 }\n'
CONV = (
    'layer { name: "c" type: "Convolution" bottom: "data" top: "c" # odd\n'
    "  convolution_param { num_output: 4 kernel_size: 3 } }\n"
)
RELU = 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n'
DENSE = 'layer { name: "f" type: "InnerProduct" bottom: "c" top: "f" inner_product_param { num_output: 5 } }\n'
SOFTMAX = 'layer { name: "p" type: "Softmax" bottom: "f" top: "p" }\n'
BLOBS: Blobs = {"c": conv_blobs(4, 3, 3, 3), "f": dense_blobs(5, 64)}
LABELS = Goal(labels=1)
# Statistics that stand for a hundred batches.
NORMS: Blobs = {"b": [np.full(4, 50, np.float32), np.full(4, 200, np.float32), np.full(1, 100, np.float32)]}


def feed(shape: tuple[int, ...] = (3, 6, 6), count: int = 20, *, is_labelled: bool = True) -> Stored:
    """Return random samples for the networks here."""
    pytest.importorskip("h5py", reason="Caffe's samples are HDF5: h5py is not installed")
    x = np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)
    labels = np.arange(count, dtype=np.int64) % 5 if is_labelled else None
    data = Data(Path("x"), count, "digest", None, lambda i: {"data": x[i]})
    return Stored(data, labels, list(range(count - 5)), list(range(count - 5, count)))


def trained(tmp_path: Path, layers: str, goal: Goal = LABELS, blobs: Blobs = BLOBS, **options: object) -> str:
    """Return the prototxt that trains a network of these layers."""
    source = Source(write_net(tmp_path, INPUT + layers, blobs))
    write(Task(source, feed(), goal, Solver(batch=5), teacher=source, **options), tmp_path / "run")  # type: ignore[arg-type]
    return (tmp_path / "run" / "train_val.prototxt").read_text()


def block(found: str, name: str) -> str:
    """Return the text of the layer of that name."""
    start = found.rindex("layer {", 0, found.index(f'name: "{name}"'))
    depth = 0
    for i in range(start, len(found)):
        depth += {"{": 1, "}": -1}.get(found[i], 0)
        if found[i] == "}" and not depth:
            return found[start : i + 1]
    raise AssertionError(name)


def test_all_that_runs_stays_as_it_is_written(tmp_path: Path) -> None:
    found = trained(tmp_path, CONV + RELU + "# between\n" + DENSE.replace("bottom", "param { } bottom", 1) + SOFTMAX)
    rest = re.sub(
        r"^  param \{ lr_mult: \d decay_mult: \d \}\n|param \{ lr_mult: \d decay_mult: \d \} ", "", found, flags=re.M
    )
    assert CONV.splitlines()[0] in rest
    assert RELU + "# between\n" + DENSE.replace("bottom", "param { } bottom", 1) in rest
    assert 'Softmax" bottom' not in rest
    assert "input" not in rest.replace("inner_product", "")


@pytest.mark.parametrize(
    "goal",
    [LABELS, Goal(distil=1), Goal(responses=1, layers=("conv2", "ip1")), Goal(1, 1, 1, layers=("ip1",))],
    ids=["labels", "distil", "responses", "all"],
)
def test_every_caffe_reads_the_files(goal: Goal, tmp_path: Path) -> None:
    cut = cut_digits(tmp_path / "cut")
    write(Task(cut, samples(tmp_path, 40), goal, Solver(), teacher=ORIGINAL), tmp_path / "run")
    prototxt = tmp_path / "run" / "train_val.prototxt"
    parse_message(prototxt.read_text(), "NetParameter")
    parse_message((tmp_path / "run" / "solver.prototxt").read_text(), "SolverParameter")
    document = text.read(prototxt)
    text.check(document, "NetParameter")
    assert lint_text.schema_findings(document, CAFFES) == []
    types = {layer.str("type") for layer in document.message("NetParameter").messages("layer")}
    for target in CAFFES:
        # The Android build is for running networks alone.
        missing = {"HDF5Data"} if target is TARGETS["caffe-android-lib"] else set()
        assert types - target.types == missing


def test_old_networks_are_upgraded(tmp_path: Path) -> None:
    layers = (
        'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2\n'
        "  convolution_param { num_output: 4 kernel_size: 3 } }\n"
        'layers { name: "f" type: INNER_PRODUCT bottom: "c" top: "f" inner_product_param { num_output: 5 } }\n'
    )
    found = trained(tmp_path, layers)
    assert "layers" not in found
    assert "lr_mult: 2" in block(found, "c")


def test_a_response_is_taken_before_what_works_in_place_on_it(tmp_path: Path) -> None:
    goal = Goal(responses=1, labels=1, layers=("c",))
    found = trained(tmp_path, CONV + RELU + DENSE + SOFTMAX, goal)
    assert 'top: "tune_c_response"' in block(found, "c")
    assert 'bottom: "tune_c_response" top: "c"' in block(found, "r")
    assert 'bottom: "tune_c_response"' in block(found, "tune_c")
    assert 'bottom: "c"' in block(found, "f")


def test_a_response_that_nothing_works_on_in_place_changes_no_name(tmp_path: Path) -> None:
    goal = Goal(responses=1, labels=1, layers=("c",))
    found = trained(tmp_path, CONV + DENSE + SOFTMAX, goal)
    assert "response" not in found
    assert 'bottom: "c"' in block(found, "tune_c")


def test_nothing_flows_back_through_cut_layers_where_their_responses_are_all_that_counts(tmp_path: Path) -> None:
    goal = Goal(responses=1, layers=("ip1", "conv2"))
    cut = cut_digits(tmp_path / "cut")
    write(Task(cut, samples(tmp_path, 40), goal, Solver(), teacher=ORIGINAL), tmp_path / "run")
    found = (tmp_path / "run" / "train_val.prototxt").read_text()
    stopped = re.findall(r'name: "(\w+)"(?:(?!\nlayer).)*propagate_down: false', found, flags=re.S)
    assert sorted(stopped) == ["conv2_1", "ip1_1"]
    goal = Goal(responses=1, labels=1, layers=("ip1", "conv2"))
    write(Task(cut, samples(tmp_path, 40), goal, Solver(), teacher=ORIGINAL), tmp_path / "run")
    assert "propagate_down" not in (tmp_path / "run" / "train_val.prototxt").read_text()


def test_weights_decay_and_biases_do_not_unless_the_file_says_so(tmp_path: Path) -> None:
    stated = DENSE.replace("bottom", "param { lr_mult: 3 } bottom", 1)
    found = trained(tmp_path, CONV + stated + SOFTMAX)
    multipliers = re.findall(r"param \{[^}]*\}", block(found, "c"))
    assert multipliers[-2:] == ["param { lr_mult: 1 decay_mult: 1 }", "param { lr_mult: 1 decay_mult: 0 }"]
    assert re.findall(r"[^_]param \{[^}]*\}", block(found, "f")) == [" param { lr_mult: 3 }"]


def test_frozen_layers_have_no_rate_whatever_the_file_says(tmp_path: Path) -> None:
    stated = DENSE.replace("bottom", "param { lr_mult: 3 name: 'w' } bottom", 1)
    found = trained(tmp_path, CONV + stated + SOFTMAX, frozen=["f"])
    rates = parse_message(found, "NetParameter").layer  # type: ignore[attr-defined]
    (frozen,) = (layer for layer in rates if layer.name == "f")
    assert [(param.lr_mult, param.decay_mult) for param in frozen.param] == [(0, 0)] * 2
    assert frozen.param[0].name == "w"


def test_weights_that_layers_share_are_frozen_only_with_all_of_them(tmp_path: Path) -> None:
    twins = "".join(
        f'layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}" param {{ name: "w" }}\n'
        "  convolution_param { num_output: 4 kernel_size: 3 bias_term: false } }\n"
        for name in "cd"
    )
    rest = 'layer { name: "e" type: "Eltwise" bottom: "c" bottom: "d" top: "e" }\n' + DENSE.replace('"c"', '"e"')
    blobs = {**BLOBS, "c": BLOBS["c"][:1], "d": BLOBS["c"][:1]}
    assert "lr_mult: 0" not in trained(tmp_path, twins + rest, blobs=blobs, frozen=["c"])
    assert block(trained(tmp_path, twins + rest, blobs=blobs, frozen=["c", "d"]), "c").count("lr_mult: 0") == 1


def test_names_that_training_adds_are_none_of_the_networks(tmp_path: Path) -> None:
    dense = DENSE.replace('"f"', '"tune_loss"')
    blobs = {**BLOBS, "tune_loss": BLOBS["f"]}
    found = trained(tmp_path, CONV + dense + SOFTMAX.replace('"f"', '"tune_loss"'), blobs=blobs)
    assert block(found, "tune__loss")
    assert 'type: "InnerProduct"' in block(found, "tune_loss")


def test_outputs_that_nothing_learns_from_are_kept_out_of_the_log(tmp_path: Path) -> None:
    second = 'layer { name: "g" type: "Pooling" bottom: "c" top: "g" pooling_param { kernel_size: 2 } }\n'
    found = trained(tmp_path, CONV + second + DENSE + SOFTMAX, logits="f")
    assert 'bottom: "g"' in block(found, "tune_silence")
    with pytest.raises(PlanError, match="several outputs"):
        trained(tmp_path, CONV + second + DENSE + SOFTMAX)


@pytest.mark.parametrize("mode", ["fixed", "batch"])
def test_batch_norm_keeps_to_its_statistics_or_lets_them_follow(mode: str, tmp_path: Path) -> None:
    require_caffe()
    norm = 'layer { name: "b" type: "BatchNorm" bottom: "c" top: "b" batch_norm_param { use_global_stats: true } }\n'
    layers = CONV + norm + DENSE.replace('"c"', '"b"') + SOFTMAX
    source = Source(write_net(tmp_path, INPUT + layers, {**BLOBS, **NORMS}))
    solver = Solver(iterations=3, batch=5, rate=1e-4)
    files = write(Task(source, feed(), LABELS, solver, batchnorm=mode), tmp_path / "run")  # type: ignore[arg-type]
    run(files)
    snapshot = files.folder / "tuned_iter_3.caffemodel"
    changed = trained_blobs(snapshot, source.load(), files.kept)
    assert changed.keys() == {"c", "f"} | ({"b"} if mode == "batch" else set())
    # Where Caffe itself touches what is to stay, it is by weight decay, of all three alike.
    own = dict(enumerate(NORMS["b"])) | trained_blobs(snapshot, source.load()).get("b", {})
    stays = np.allclose([own[0] / own[2], own[1] / own[2]], [[0.5] * 4, [2] * 4], rtol=1e-6, atol=0)
    assert stays == (mode == "fixed")
    if mode == "batch":  # What was stored stands for one batch, and fades as each of three others comes.
        assert own[2].item() == pytest.approx(0.9**3 + 0.9**2 + 0.9 + 1, rel=1e-3)


def test_models_that_caffe_cannot_train_are_refused(tmp_path: Path) -> None:
    prototxt, _ = write_net(tmp_path, INPUT + CONV + DENSE, BLOBS)
    with pytest.raises(ModelError, match="no weights"):
        write(Task(Source((prototxt,)), feed(), LABELS, Solver()), tmp_path / "run")
    source = Source(write_net(tmp_path, INPUT + CONV + DENSE, BLOBS))
    with pytest.raises(PlanError, match="--teacher"):
        write(Task(source, feed(), Goal(distil=1), Solver()), tmp_path / "run")
    with pytest.raises(PlanError, match="no layer is named 'x'"):
        write(Task(source, feed(), LABELS, Solver(), frozen=["x"]), tmp_path / "run")
    with pytest.raises(PlanError, match="no layer of that name"):
        write(Task(source, feed(), Goal(responses=1, layers=("x",)), Solver(), teacher=source), tmp_path / "run")
    assert not (tmp_path / "run" / "request.json").exists()


@pytest.mark.parametrize("policy", ["poly", "step", "fixed"])
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdaGrad"])
def test_the_solver_says_what_was_asked_for(policy: str, kind: str) -> None:
    solver = Solver(rate=0.02, policy=policy, kind=kind, momentum=0.5, seed=7)  # type: ignore[arg-type]
    found = parse_message(solver_text(solver, Rounds(400, 40, 3), NetState(stages=("s",))), "SolverParameter")
    assert (found.max_iter, found.test_interval, found.snapshot, list(found.test_iter)) == (400, 40, 40, [3])  # type: ignore[attr-defined]
    assert found.base_lr == pytest.approx(0.02)  # type: ignore[attr-defined]
    assert (found.type, found.random_seed) == (kind, 7)  # type: ignore[attr-defined]
    assert found.HasField("momentum") == (kind != "AdaGrad")
    assert list(found.stepvalue) == ([200, 300] if policy == "step" else [])  # type: ignore[attr-defined]
    assert list(found.train_state.stage) == ["s"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "asked", [{"kind": "Lion"}, {"policy": "cosine"}, {"epochs": 0}, {"rate": -1.0}, {"momentum": 1.0}, {"batch": 0}]
)
def test_a_solver_that_caffe_does_not_have_is_refused(asked: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        Solver(**asked)  # type: ignore[arg-type]
