"""What was done to a network, for who did not do it: one set of facts, told as JSON, as a page and as Markdown."""

from surgery.report.facts import FORMAT, as_json, described, empty, facts
from surgery.report.html import render_html
from surgery.report.markdown import render_markdown
from surgery.report.timings import read_timings

__all__ = ["FORMAT", "as_json", "described", "empty", "facts", "read_timings", "render_html", "render_markdown"]
