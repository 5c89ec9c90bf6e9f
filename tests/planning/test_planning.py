"""Plans that are measured: by what cuts do to the outputs, by recorded times, and by how far accuracy falls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from surgery.choose import Amount, Request
from surgery.choose.latency import LatencyTable, Shape
from surgery.errors import PlanError
from surgery.formats import Source
from surgery.measure.evaluation import evaluate
from surgery.planning import Means, accurate, make_plan, sweep, timed
from surgery.plans import Plan
from surgery.timing import Spread
from tests.cli.test_cut import run

DIGITS = Path(__file__).parents[2] / "models" / "digits"
SOURCE = Source((DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel"))
READING: dict[str, Any] = {"preprocess": None, "images": 100, "positions": 16, "scratch": None}
MEANS = Means(data=DIGITS / "calibration.npz", reading=READING)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test worker measures for itself, once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "planning-cache"))


def test_a_plan_by_measurements_loses_less_than_one_by_weights(tmp_path: Path) -> None:
    """Both are carried out with the data: what differs is which layer is cut how far."""
    files, asked = SOURCE.files, ["--macs", "0.1", "--images", "100", "--calibrate", str(MEANS.data)]
    run("plan", *files, "-o", tmp_path / "weights.json", "--macs", "0.1")
    run("plan", *files, "-o", tmp_path / "data.json", *asked)
    fitted = json.loads((tmp_path / "data.json").read_text())
    by_weights = json.loads((tmp_path / "weights.json").read_text())
    by_weights |= {name: fitted[name] for name in ("calibration", "refit")}
    (tmp_path / "weights.json").write_text(json.dumps(by_weights))
    lost = {}
    for name in ("weights", "data"):
        out = tmp_path / name
        result = run("apply", *files, tmp_path / f"{name}.json", "-o", out, "--calibrate", MEANS.data)
        assert result.exit_code == 0, result.stderr
        cut = Source((out / "deploy.prototxt", out / "deploy.caffemodel")).load()
        lost[name] = evaluate(SOURCE.load(), cut, DIGITS / "calibration.npz", unseen=True).divergence or 0.0
    assert lost["data"] < lost["weights"]


def recorded(milliseconds: Callable[[Shape], float]) -> Callable[..., LatencyTable]:
    def table(shapes: Sequence[Shape], runtime: str, *, threads: int, **_: Any) -> LatencyTable:
        return LatencyTable(runtime, threads, "recorded", {shape: milliseconds(shape) for shape in shapes})

    return table


def always(milliseconds: float) -> Callable[..., Spread]:
    return lambda *_: Spread(*[milliseconds] * 4)


def by_macs(shape: Shape) -> float:
    return shape.macs / 1e6


@pytest.mark.parametrize("overhead", [0.0, 0.3])
def test_the_plan_is_corrected_until_the_network_takes_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, overhead: float
) -> None:
    """Every new layer costs the network `overhead` ms that no layer's own time tells of."""
    asked: list[float] = []
    model = SOURCE.load()
    whole = 3.7 + 1.0

    def ratio(case: Any, plan: Plan) -> float:
        saved = sum(before - after for cut in plan.cuts for name, before, after in cut.price if name == "ms")
        asked.append((whole - saved + overhead * len(plan.cuts)) / whole)
        return asked[-1]

    monkeypatch.setattr(timed, "measure_table", recorded(by_macs))
    monkeypatch.setattr(timed, "network_ms", always(whole))
    monkeypatch.setattr(timed, "_ratio", ratio)
    plan = make_plan(SOURCE, model, Request(amount=Amount(speedup=1.5), multiple=1))
    assert plan.predicted is not None
    before, after = plan.predicted["timed"]
    assert before / after == pytest.approx(1.5, rel=0.03)
    assert len(asked) == (1 if overhead == 0 else len(asked))
    assert overhead == 0 or len(asked) > 1


def test_a_machine_that_is_busy_now_and_then_makes_no_other_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's usual turn took twice its fastest; so would its layers', of which the fastest are known."""
    monkeypatch.setattr(timed, "measure_table", recorded(by_macs))
    monkeypatch.setattr(timed, "_ratio", lambda case, plan: plan.predicted["ms"][1] / plan.predicted["ms"][0])
    request, plans = Request(amount=Amount(speedup=2)), []
    for times in (Spread(4.7, 4.7, 4.7, 4.7), Spread(4.7, 6.0, 9.4, 12.0)):
        monkeypatch.setattr(timed, "network_ms", lambda *_, times=times: times)
        plans.append(make_plan(SOURCE, SOURCE.load(), request))
    assert [[cut.rank for cut in plan.cuts] for plan in plans] == [[cut.rank for cut in plans[0].cuts]] * 2
    assert (plans[1].predicted or {})["ms"] == pytest.approx([2 * ms for ms in (plans[0].predicted or {})["ms"]])


def test_layers_whose_cuts_take_longer_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_when_thin(shape: Shape) -> float:
        return (
            5.0 if shape.kind == "convolution" and min(shape.in_channels, shape.out_channels) < 32 else by_macs(shape)
        )

    monkeypatch.setattr(timed, "measure_table", recorded(slow_when_thin))
    monkeypatch.setattr(timed, "network_ms", always(10.0))
    monkeypatch.setattr(timed, "_ratio", lambda case, plan: plan.predicted["ms"][1] / 10.0)
    plan = make_plan(SOURCE, SOURCE.load(), Request(amount=Amount(latency=9.8)))
    assert "conv1" not in {cut.key for cut in plan.cuts}
    assert all(after < before for cut in plan.cuts for name, before, after in cut.price if name == "ms")


def test_an_imported_table_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed here: the times are another machine's."""
    monkeypatch.setattr(timed, "network_ms", None)
    monkeypatch.setattr(timed, "measure_table", recorded(by_macs))
    from surgery.planning.case import Case
    from surgery.survey import survey

    model, request = SOURCE.load(), Request(amount=Amount(speedup=2))
    case = Case(SOURCE, model, survey(model), request, Means(), lambda text, share: None)
    means = Means(table=timed.table_of(case))
    plan = make_plan(SOURCE, model, request, means)
    assert plan.predicted is not None
    before, after = plan.predicted["ms"]
    assert after <= before / 2
    assert "timed" not in plan.predicted
    pinned = replace(plan.cuts[0], pinned=True, price=())
    again = make_plan(SOURCE, model, replace(request, pinned=(pinned,)), means)
    assert (again.predicted or {})["ms"] == pytest.approx([before, after])


def test_only_plans_that_bound_the_time_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for what the accuracy allows tries plans with fewer MACs; of these no time is asked."""
    timings: list[Plan] = []

    def ratio(case: Any, plan: Plan) -> float:
        timings.append(plan)
        return 1 / 2

    monkeypatch.setattr(timed, "measure_table", recorded(by_macs))
    monkeypatch.setattr(timed, "network_ms", always(4.7))
    monkeypatch.setattr(timed, "_ratio", ratio)
    monkeypatch.setattr(accurate, "drop_of", lambda probe: 1.0)
    with pytest.raises(PlanError, match="cannot be met with the other budgets"):
        make_plan(SOURCE, SOURCE.load(), Request(amount=Amount(max_drop=0.5, speedup=2)), MEANS)
    assert len(timings) == 1


def test_the_accuracy_asked_for_is_kept_and_little_is_given_away() -> None:
    model = SOURCE.load()
    request = Request(amount=Amount(max_drop=0.05))
    plan = make_plan(SOURCE, model, request, MEANS)
    assert plan.predicted is not None
    assert plan.predicted["drop"] <= 0.05
    assert plan.predicted["macs"][1] < 0.5 * plan.predicted["macs"][0]


def test_a_drop_that_other_budgets_force_says_what_can_be_met() -> None:
    request = Request(amount=Amount(max_drop=0.01, macs=0.02))
    with pytest.raises(PlanError, match=r"--max-drop 0.01 cannot be met with the other budgets.*at 0\.\d+ of the MACs"):
        make_plan(SOURCE, SOURCE.load(), request, MEANS)
    with pytest.raises(PlanError, match="--max-drop is measured on samples; give --calibrate or --evaluate"):
        make_plan(SOURCE, SOURCE.load(), replace(request, amount=Amount(max_drop=0.01)), Means())


def test_what_is_wrong_with_the_measuring_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(*_: Any) -> None:
        raise PlanError("--max-drop needs a network with one output, a score for each class")

    monkeypatch.setattr(accurate, "judged", judged)
    with pytest.raises(PlanError, match="one output"):
        make_plan(SOURCE, SOURCE.load(), Request(amount=Amount(max_drop=0.01)), MEANS)


def test_along_a_sweep_less_remains_and_more_is_lost() -> None:
    plans = sweep(SOURCE, SOURCE.load(), Request(), [0.8, 0.5, 0.3, 0.1], MEANS)
    predicted = [plan.predicted or {} for plan in plans]
    macs = [each["macs"][1] / each["macs"][0] for each in predicted]
    assert all(share <= asked for share, asked in zip(macs, [0.8, 0.5, 0.3, 0.1], strict=True))
    errors = [each["error"] for each in predicted]
    assert errors == sorted(errors)
    assert {each["of"] for each in predicted} == {"divergence"}


def test_a_sweep_leaves_plans_table_json_and_plots(tmp_path: Path) -> None:
    out = tmp_path / "curve"
    data = ["--calibrate", MEANS.data, "--images", "100"]
    result = run("plan", *SOURCE.files, "-o", out, "--sweep", "0.8,0.5,0.3", *data)
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in out.iterdir()}
    assert names == {"plan-0.8.json", "plan-0.5.json", "plan-0.3.json", "report.json"} | {
        f"sweep.{x}" for x in ("json", "md", "svg", "png")
    }
    points = json.loads((out / "sweep.json").read_text())["points"]
    assert [point["asked"] for point in points] == [0.8, 0.5, 0.3]
    apply = ["apply", *SOURCE.files, out / "plan-0.5.json", "-o", tmp_path / "cut"]
    assert "the plan is fitted to calibration data" in run(*apply).stderr
    assert run(*apply, "--calibrate", MEANS.data).exit_code == 0
    again = run("plan", *SOURCE.files, "-o", out, "--sweep", "0.7", *data)
    assert again.exit_code == 0, again.stderr
    assert {path.name for path in out.glob("plan-*")} == {"plan-0.7.json"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--sweep", "0.8", "--markdown", "x.md"], "--sweep does not go with --markdown"),
        (["--sweep", "0.8", "--max-drop", "1%"], "--sweep does not go with --max-drop"),
        (["--macs", "0.5", "--labels", "x.txt"], "--labels are of samples, and none are given"),
        (["--macs", "0.5", "--table", "x.csv"], "--table has times, and none is asked for"),
    ],
)
def test_what_would_not_be_heeded_is_refused(tmp_path: Path, asked: list[str], message: str) -> None:
    result = run("plan", *SOURCE.files, "-o", tmp_path / "out", *asked)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_planning_again_keeps_pins_and_what_is_forbidden(tmp_path: Path) -> None:
    first, again = tmp_path / "plan.json", tmp_path / "again.json"
    run("plan", *SOURCE.files, "-o", first, "--macs", "0.4")
    plan = json.loads(first.read_text())
    pinned = next(cut for cut in plan["cuts"] if cut["layer"] == "conv2")
    pinned |= {"rank": 12, "pinned": True}
    plan["left"] = [left | {"forbidden": True} for left in plan["left"]]
    first.write_text(json.dumps(plan))
    result = run("plan", *SOURCE.files, first, "-o", again, "--params", "0.5")
    assert result.exit_code == 0, result.stderr
    found = json.loads(again.read_text())
    assert [cut["rank"] for cut in found["cuts"] if cut["layer"] == "conv2"] == [12]
    assert not {cut["layer"] for cut in found["cuts"]} & {left["layer"] for left in plan["left"]}


def test_the_report_has_what_was_predicted_beside_what_was_measured(tmp_path: Path) -> None:
    asked = ["--macs", "0.3", "--calibrate", DIGITS / "calibration.npz", "--images", "100"]
    result = run("compress", *SOURCE.files, "-o", tmp_path / "out", *asked)
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["predicted"]["of"] == "divergence"
    assert report["measured"]["divergence"] >= 0
    assert 0 <= report["measured"]["agreement"] <= 1
    assert "predicted" in result.stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--size", "12XB"], "--size is '12XB'; expected a number with its unit, like 20MB"),
        (["--latency", "fast"], "--latency is 'fast'"),
        (["--max-drop", "200%"], "max_drop is 2.0; expected a share"),
        (["--speedup", "0.5"], "speedup is 0.5; expected a number above 1"),
        (["--speedup", "2", "--latency", "3ms"], "speedup and latency both bound"),
        (["--speedup", "2", "--table", "no.csv"], "no.csv: no such file"),
        (["--sweep", "0.5"], "--sweep makes several files; give a folder"),
        (["--sweep", "half", "-o", "x"], "--sweep is 'half'"),
        (["--macs", "0.5", "--policy", "vbmf"], "policy vbmf takes no amount"),
    ],
)
def test_what_cannot_be_asked_is_one_line(asked: list[str], said: str) -> None:
    result = run("plan", *SOURCE.files, *asked)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
