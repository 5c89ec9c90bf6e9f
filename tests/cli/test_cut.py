"""`compress`, `plan`, `apply` and `inspect` as a person calls them, on the model that ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from surgery.cli import main

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits"
FILES = [str(DIGITS / "deploy.prototxt"), str(DIGITS / "digits.caffemodel")]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def report(output: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((output / "report.json").read_text())


def layer_names() -> dict[str, list[str]]:
    listed = json.loads(run("inspect", *FILES, "--json").stdout)
    return {layer["name"]: list(layer["cuttable"]) for layer in listed["layers"]}


def test_method_none_copies_byte_for_byte(tmp_path: Path) -> None:
    result = run("compress", *FILES, "-o", tmp_path / "copy", "--method", "none")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "copy" / "deploy.prototxt").read_bytes() == Path(FILES[0]).read_bytes()
    assert (tmp_path / "copy" / "deploy.caffemodel").read_bytes() == Path(FILES[1]).read_bytes()


def test_a_prototxt_alone_is_copied_too(tmp_path: Path) -> None:
    assert run("compress", FILES[0], "-o", tmp_path / "copy", "--method", "none").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == [
        "deploy.prototxt",
        "plan.json",
        "report.html",
        "report.json",
        "report.md",
        "timings.json",
    ]
    assert (tmp_path / "copy" / "deploy.prototxt").read_bytes() == Path(FILES[0]).read_bytes()


@pytest.mark.parametrize(("measure", "share"), [("params", 0.3), ("params", 0.6), ("macs", 0.4), ("macs", 0.7)])
def test_a_ratio_is_what_remains_of_the_whole_network(measure: str, share: float, tmp_path: Path) -> None:
    result = run("compress", *FILES, "-o", tmp_path / "out", f"--{measure}", str(share), "--verify", "none")
    assert result.exit_code == 0, result.output
    totals = report(tmp_path / "out")["totals"]
    remains = totals["after"][measure] / totals["before"][measure]
    # No layer could take one more rank: what is missing is less than a rank of each.
    assert share - 0.1 < remains <= share


def test_two_ratios_both_hold(tmp_path: Path) -> None:
    assert run("compress", *FILES, "-o", tmp_path / "o", "--params", "0.5", "--macs", "0.5").exit_code == 0
    totals = report(tmp_path / "o")["totals"]
    assert all(totals["after"][name] <= 0.5 * totals["before"][name] for name in ("params", "macs"))


def test_a_budget_that_cannot_be_met_says_what_can(tmp_path: Path) -> None:
    result = run("compress", *FILES, "-o", tmp_path / "out", "--params", "0.001")
    assert result.exit_code == 2
    assert "--params cannot be met: 0.005 of the network remains at the least" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_plan_replays_to_the_same_files(tmp_path: Path) -> None:
    options = ["--layer", "*", "--energy", "0.9", "--method", "svd,tucker2"]
    assert run("compress", *FILES, "-o", tmp_path / "a", *options).exit_code == 0
    assert run("plan", *FILES, "-o", tmp_path / "plan.json", *options).exit_code == 0
    result = run("apply", *FILES, tmp_path / "plan.json", "-o", tmp_path / "b")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    for name in set(names) - {"timings.json"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_plan_for_other_files_is_refused(tmp_path: Path) -> None:
    assert run("plan", *FILES, "-o", tmp_path / "plan.json", "--rank", "4").exit_code == 0
    other = tmp_path / "other.prototxt"
    other.write_text(Path(FILES[0]).read_text() + "\n")
    result = run("apply", other, FILES[1], tmp_path / "plan.json", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "the plan is for other files" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_edited_plan_is_carried_out(tmp_path: Path) -> None:
    dense = next(name for name, methods in layer_names().items() if "svd" in methods)
    plan = json.loads(run("plan", *FILES, "--layer", f"{dense}=svd:rank=8").stdout)
    assert [(cut["layer"], cut["method"], cut["rank"]) for cut in plan["cuts"]] == [(dense, "svd", 8)]
    plan["cuts"][0]["rank"] = 5
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert run("apply", *FILES, tmp_path / "plan.json", "-o", tmp_path / "out").exit_code == 0
    assert f'name: "{dense}_1"' in (tmp_path / "out" / "deploy.prototxt").read_text()
    assert report(tmp_path / "out")["layers"][0]["rank"] == [5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 4}, '"format" is 4'),
        ({"cuts": [{"layer": "no", "method": "svd", "rank": 1}]}, "no layer is named 'no'"),
        ({"cuts": [{"layer": "ip1", "method": "nmf", "rank": 1}]}, "method 'nmf' is not known"),
        ({"cuts": [{"layer": "ip1", "method": "svd", "rank": 0}]}, "rank is 0"),
        ({"cuts": [{"layer": "ip1", "method": "svd", "rank": 99999}]}, "above the largest useful rank"),
        ({"cuts": [{"layer": "ip1", "method": "svd", "rank": [1, 2]}]}, "has 2 numbers, expected 1"),
        ({"cuts": 3}, '"cuts" is 3; expected a list'),
        ({"threads": 0}, '"threads" is 0'),
    ],
)
def test_a_wrong_plan_is_one_line(change: dict[str, object], said: str, tmp_path: Path) -> None:
    plan = json.loads(run("plan", *FILES, "--layer", "ip1=svd:rank=8").stdout)
    (tmp_path / "plan.json").write_text(json.dumps({**plan, **change}))
    result = run("apply", *FILES, tmp_path / "plan.json", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_cut_that_gains_nothing_is_left_alone_unless_forced(tmp_path: Path) -> None:
    options = ["--layer", "ip1=svd:rank=full", "--verify", "none"]
    result = run("compress", *FILES, "-o", tmp_path / "out", *options)
    assert result.exit_code == 1
    assert "nothing to cut: ip1: svd at rank" in result.stderr
    assert not (tmp_path / "out").exists()
    assert run("compress", *FILES, "-o", tmp_path / "out", *options, "--force").exit_code == 0


def test_a_rank_above_the_largest_is_refused_for_a_named_layer_and_lowered_for_all(tmp_path: Path) -> None:
    result = run("compress", *FILES, "-o", tmp_path / "out", "--layer", "ip1=svd:rank=99999", "--force")
    assert result.exit_code == 2
    assert "ip1: svd: rank 99999 is above the largest useful rank" in result.stderr
    assert run("plan", *FILES, "--rank", "99999", "--force").exit_code == 0


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run("compress", *FILES, "-o", tmp_path / "out", "--layer", "fc9=svd:rank=4")
    assert result.exit_code == 2
    assert "no layer is named 'fc9'" in result.stderr


def test_the_input_s_own_folder_is_refused() -> None:
    result = run("compress", *FILES, "-o", DIGITS, "--rank", "4")
    assert result.exit_code == 2
    assert "holds the input deploy.prototxt" in result.stderr


def test_a_second_run_replaces_the_first_and_leaves_foreign_files_alone(tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run("compress", *FILES, "-o", output, "--rank", "4").exit_code == 0
    assert run("compress", *FILES, "-o", output, "--rank", "6").exit_code == 0
    (output / "mine.txt").write_text("mine")
    result = run("compress", *FILES, "-o", output, "--rank", "4")
    assert result.exit_code == 2
    assert "holds 'mine.txt', which this tool did not write" in result.stderr
    assert (output / "mine.txt").read_text() == "mine"


def test_where_no_runtime_may_run_the_layers_are_checked_alone(tmp_path: Path) -> None:
    assert run("compress", *FILES, "-o", tmp_path / "out", "--rank", "4", "--verify", "layers").exit_code == 0
    verified = report(tmp_path / "out")["verified"]
    assert verified["runtime"] == "layers only"
    assert verified["blobs"] == len(report(tmp_path / "out")["layers"])


def test_verify_says_whether_two_models_agree(tmp_path: Path) -> None:
    assert run("compress", *FILES, "-o", tmp_path / "same", "--method", "none").exit_code == 0
    assert run("compress", *FILES, "-o", tmp_path / "cut", "--rank", "2").exit_code == 0
    for folder, code in (("same", 0), ("cut", 1)):
        other = [tmp_path / folder / "deploy.prototxt", tmp_path / folder / "deploy.caffemodel"]
        result = run("verify", *FILES, *other, "--json")
        assert result.exit_code == code, result.output
        assert all((blob["rel_l2"] <= 1e-4) == (code == 0) for blob in json.loads(result.stdout)["blobs"])


def test_inspect_of_a_prototxt_alone_says_what_could_be_cut() -> None:
    alone = json.loads(run("inspect", FILES[0], "--json").stdout)
    whole = json.loads(run("inspect", *FILES, "--json").stdout)
    assert alone == whole


def test_the_terminal_gets_no_colour_codes_and_no_bar_when_it_is_a_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "surgery", "compress", *FILES, "-o", str(tmp_path / "out"), "--rank", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "TERM": "xterm"})
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""


def test_help_and_version_answer() -> None:
    assert run("--version").stdout.startswith("surgery, version ")
    for verb in ("inspect", "lint", "compress", "plan", "apply", "verify", "upgrade", "deploy"):
        shown = run(verb, "--help")
        assert shown.exit_code == 0, shown.output
        assert "Example" in shown.stdout
