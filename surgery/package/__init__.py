"""A parcel for whoever ships a network: made for a target, and checked where it is received."""

from surgery.package.asked import Asked
from surgery.package.check import Checked, check
from surgery.package.parcel import package

__all__ = ["Asked", "Checked", "check", "package"]
