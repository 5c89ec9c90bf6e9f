"""What calibration data tell of a network's layers."""

from surgery.calibrate.calibration import Calibration, calibration, replayed
from surgery.calibrate.gathering import bytes_of
from surgery.calibrate.preprocess import Preprocess
from surgery.calibrate.preprocess import read as read_preprocess
from surgery.calibrate.record import settings_of
from surgery.calibrate.statistics_file import Stored, from_file, save

__all__ = [
    "Calibration",
    "Preprocess",
    "Stored",
    "bytes_of",
    "calibration",
    "from_file",
    "read_preprocess",
    "replayed",
    "save",
    "settings_of",
]
