from __future__ import annotations

import csv
import io

from surgery.formats import Source
from surgery.package import budget
from surgery.survey import survey
from tests.shared import REPOSITORY

DIGITS = (REPOSITORY / "models/digits/deploy.prototxt", REPOSITORY / "models/digits/digits.caffemodel")


def test_the_layers_of_a_budget_add_up_to_the_network() -> None:
    surveyed = survey(Source(DIGITS).load(), ())
    rows = list(csv.DictReader(io.StringIO(budget.table(surveyed))))
    assert [row["layer"] for row in rows] == [node.key for node in surveyed.model.nodes]
    assert sum(int(row["params"]) for row in rows) == surveyed.params
    assert sum(int(row["macs"]) for row in rows) == surveyed.macs
    memory = surveyed.model.format.memory(surveyed.model)
    assert memory is not None
    for column, total in {"weight": memory.weights, "output": memory.activations, "column": memory.columns}.items():
        assert sum(int(row[f"{column}_bytes"]) for row in rows) == total


def test_a_layer_in_place_takes_no_more_outputs() -> None:
    rows = csv.DictReader(io.StringIO(budget.table(survey(Source(DIGITS).load(), ()))))
    outputs = {row["layer"]: row["output_bytes"] for row in rows}
    assert (outputs["conv1"], outputs["relu1"]) == (str(4 * 32 * 8 * 8), "0")
