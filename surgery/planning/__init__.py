"""Plans by what was measured: makes the tables that a request needs, chooses, and measures what was chosen."""

from surgery.planning.judging import judge_with
from surgery.planning.means import Means
from surgery.planning.planning import make_plan, sweep

__all__ = ["Means", "judge_with", "make_plan", "sweep"]
