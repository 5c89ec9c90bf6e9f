"""The command line: one function per verb, thin over the pipeline."""

from surgery.cli.main import main

__all__ = ["main"]
