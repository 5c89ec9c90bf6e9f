"""Compress every model below a folder."""

from surgery.batch.book import BOOK, Row
from surgery.batch.run import batch

__all__ = ["BOOK", "Row", "batch"]
