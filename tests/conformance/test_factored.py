"""What every method writes runs in every runtime, and computes what its factors multiplied back do."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery import formats
from surgery.calibrate import calibration
from surgery.factor import METHODS, Method, choices, with_options
from surgery.formats import Source
from surgery.pipeline import check_calibration
from surgery.plans import Cut, Plan
from surgery.rewriting import Rewritten, rewrite
from surgery.survey import survey
from surgery.verify import TOLERANCE, verify_cut
from tests.engines import require
from tests.shared import REPOSITORY

DIGITS = REPOSITORY / "models" / "digits"
FILES = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")


def configured() -> dict[str, Method]:
    """Every method as it is, and with each choice of each option."""
    found = dict(METHODS)
    for name, method in METHODS.items():
        for option, values in choices(method).items():
            for value in values[1:] or ([] if values else ["0.5"]):
                found[f"{name}, {option}={value}"] = with_options(method, {option: value})
    return found


def plan_of(source: Source, method: Method) -> Plan:
    """Cut every layer that the method can cut, at about a third of its full rank."""
    model = source.load()
    sites = [site for site in survey(model).sites if method.refusal(site.op) is None]
    ranks = [method.rank_at(site.op, max(1, max(method.max_rank(site.op)) // 3)) for site in sites]
    options = {name: str(getattr(method, name)) for name in choices(method)}
    kept = tuple(sorted(options.items()))
    cuts = [Cut(site.key, method.name, rank, kept) for site, rank in zip(sites, ranks, strict=True)]
    return Plan(model.format.digest(model), tuple(cuts))


def carried_out(source: Source, plan: Plan) -> Rewritten:
    """Fit to data, which some methods do nothing without."""
    keys = tuple(cut.key for cut in plan.cuts)
    with calibration(source.load(), DIGITS / "calibration.npz", keys, images=60, positions=16) as data:
        fitted = Plan(plan.digest, plan.cuts, calibration=data.record, refit=True)
        check_calibration(fitted, data)
        return rewrite(source.load(), fitted, statistics_for=data.statistics_for)


@pytest.fixture(scope="module", params=configured())
def cut(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Rewritten, list[Path]]:
    method = configured()[request.param]
    source = Source(FILES)
    result = carried_out(source, plan_of(source, method))
    folder = tmp_path_factory.mktemp("cut")
    return result, list(result.model.format.save(result.model, folder, "net"))


@pytest.mark.parametrize("engine", ["caffe", "opencv", "onnxruntime"])
def test_the_files_compute_what_the_factors_multiplied_back_do(
    cut: tuple[Rewritten, list[Path]], engine: str, tmp_path: Path
) -> None:
    require(engine)
    result, paths = cut
    reference = result.reference()
    files = reference.format.save(reference, tmp_path, "reference")
    made = result.model.format.made(result.model)
    verdict = verify_cut(formats.load(paths), reference, made, (paths, files), (engine,))
    assert "layers only" not in verdict.runtime, verdict.reason
    assert len(verdict.comparisons) >= len(made)
    assert verdict.worst.rel_l2 <= TOLERANCE
