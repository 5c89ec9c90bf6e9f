"""What the report of a tuning shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from surgery.tune.page import curve, render_html, render_markdown
from surgery.tune.recipe import Recipe


def score(loss: float, accuracy: float | None = None, agreement: float | None = None) -> dict[str, float | None]:
    return {"loss": loss, "accuracy": accuracy, "agreement": agreement}


def step(before: float, losses: tuple[float, ...], best: int, *, normed: tuple[bool, bool] = (False, False)) -> Any:
    epochs = [{"loss": loss / 2, "held_back": score(loss, 1 - loss / 10)} for loss in losses]
    after = score(losses[best - 1] if best else before)
    known = {"cut": "conv", "rate": 0.01, "found": True, "best": best, "normed": normed}
    return {**known, "before": score(before, 1 - before / 10), "after": after, "epochs": epochs}


def facts(*steps: Any, **more: Any) -> dict[str, Any]:
    settings = {"engine": "torch", "schedule": "one-shot", "augment": {"crop": 0, "mirror": False}, "threads": 1}
    return {
        "source": {"files": ["net.prototxt"]},
        "teacher": {"files": ["net.prototxt"]},
        "scores": {},
        "steps": steps,
        "data": {"path": "x.npy", "digest": "0123456789abcdef", "trained": 90, "held_back": 10},
        "settings": {**settings, "recipe": {**asdict(Recipe()), "rate": 0.01}},
        "goal": {"labels": 1.0, "distil": 0.0, "responses": 0.0},
        "versions": {},
        "notes": [],
        "verified": None,
        **more,
    }


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table that begins with this heading."""
    lines = text[text.index(f"| {heading} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


TWO = facts(step(3.0, (2.0, 1.0), 1), step(4.0, (2.5, 0.5), 2))


def test_epochs_are_numbered_throughout_and_each_step_begins_with_what_its_cut_left() -> None:
    told = rows(render_markdown(TWO), "epoch")
    assert [(row[0], row[2]) for row in told] == [
        ("epoch", "loss held back"),
        ("before", "3"),
        ("1", "2"),
        ("2", "1"),
        ("before step 2", "4"),
        ("3", "2.5"),
        ("4", "0.5"),
    ]
    assert [row[4] for row in rows(render_markdown(TWO), "step")] == ["best", "1", "4"]
    assert "before step 2: 4" in curve(TWO)
    assert ">kept<" in curve(TWO)


def test_what_nothing_is_known_of_takes_no_room() -> None:
    text = render_markdown(TWO)
    assert "Before and after" not in text
    assert "as the original's" not in text
    assert "re-estimated" not in text
    assert "re-estimated" in render_markdown(facts(step(3.0, (2.0,), 1, normed=(True, False))))
    assert "Accuracy by epoch" in render_html(TWO)
    assert "temperature" not in text


def test_where_nothing_is_held_back_the_report_does_not_claim_it() -> None:
    own = facts(step(3.0, (2.0,), 1), data={"path": "x.h5", "digest": "", "trained": None, "held_back": None})
    text = render_html(own) + render_markdown(own)
    assert "Held-back" not in text
    assert "loss held back" not in text
    assert "SHA-256" not in text
    assert "Tests are on samples that are trained on" in text
    assert "SHA-256 0123456789ab" in render_html(TWO)


def test_a_step_without_a_better_epoch_says_so() -> None:
    assert rows(render_markdown(facts(step(1.0, (2.0, 3.0), 0))), "step")[1][4] == "none"
