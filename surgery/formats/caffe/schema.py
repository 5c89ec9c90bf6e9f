"""What a field name means in Caffe's text format, and how its value is spelt."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import NamedTuple

from surgery.formats.caffe.schema_table import ENUMS, MESSAGES

Value = int | float | bool | str
_INTEGERS = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
_BOOLS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_PIECE = re.compile(r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'|#[^\n]*', re.S)
_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
    r"|u([0-9a-fA-F]{4})|U(00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|(.?))",
    re.S,
)
_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34, "?": 63}
_SIGN = re.compile(r"-(?:\s|#[^\n]*)+")
_REAL = re.compile(r"-?(?!0[0-9xX])[0-9.]+(?:[eE][+-]?[0-9]+)?[fF]?")
_INFINITE = {"inf", "infinity", "-inf", "-infinity", "nan", "-nan"}


class Kind(NamedTuple):
    """The meaning of one field: its BVLC number (10000 and up: a fork's), whether it repeats, its type, its default."""

    number: int
    repeated: bool
    type: str
    default: Value | None

    @property
    def is_message(self) -> bool:
        """True when the value is a `{}` block."""
        return self.type in MESSAGES

    @property
    def is_enum(self) -> bool:
        """True when the value is one of a set of names."""
        return self.type in ENUMS


def kind_of(message: str | None, field: str) -> Kind | None:
    """Return what `field` means inside `message`, or None when the schema does not know it."""
    return _kinds(message or "").get(field)


@cache
def _kinds(message: str) -> dict[str, Kind]:
    return {name: Kind(*row) for name, row in MESSAGES.get(message, {}).items()}


def parse_scalar(raw: str, kind: Kind) -> Value:
    """Return the typed value of the spelling `raw`; enums come back as their value's name.

    Raises ValueError with what was expected. A name that the enum lacks is returned as it is: forks add values.
    """
    if kind.type in ("string", "bytes"):
        if raw[:1] not in "\"'":
            raise ValueError("a quoted string")
        return unquote(raw)
    if raw[:1] in ('"', "'"):
        raise ValueError(_expected(kind))
    raw = _SIGN.sub("-", raw)
    if kind.type == "bool":
        return _bool(raw, kind)
    if kind.type in _INTEGERS:
        return _integer(raw, kind)
    if kind.type in ("float", "double"):
        return _real(raw, kind)
    return _enum(raw, kind)


def _bool(raw: str, kind: Kind) -> bool:
    if raw in _BOOLS:
        return _BOOLS[raw]
    try:
        number = _int_literal(raw)
    except ValueError:
        raise ValueError(_expected(kind)) from None
    if raw.startswith("-") or number not in (0, 1):
        raise ValueError(_expected(kind))
    return number == 1


def _integer(raw: str, kind: Kind) -> int:
    low, high = _INTEGERS[kind.type]
    try:
        number = _int_literal(raw)
    except ValueError:
        raise ValueError(_expected(kind)) from None
    if not low <= number <= high:
        raise ValueError(f"{_expected(kind)} from {low} to {high}")
    return number


def _int_literal(raw: str) -> int:
    sign, digits = (-1, raw[1:]) if raw.startswith("-") else (1, raw)
    if digits[:2] in ("0x", "0X"):
        return sign * int(digits, 16)
    if len(digits) > 1 and digits[0] == "0":
        return sign * int(digits, 8)
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError
    return sign * int(digits)


def _real(raw: str, kind: Kind) -> float:
    lowered = raw.lower()
    if lowered in _INFINITE:
        return float(lowered.replace("-nan", "nan"))
    if _REAL.fullmatch(raw) is None:  # Integers for reals are decimal: C++ refuses 0x10 and 010 here.
        raise ValueError(_expected(kind))
    return float(lowered.removesuffix("f"))


def _enum(raw: str, kind: Kind) -> str:
    values = ENUMS[kind.type]
    if raw.isidentifier():
        return raw
    try:
        given = _int_literal(raw)
    except ValueError:
        raise ValueError(_expected(kind)) from None
    return next((name for name, number in values.items() if number == given), str(given))


def _expected(kind: Kind) -> str:
    if kind.is_enum:
        return f"one of {', '.join(ENUMS[kind.type])}"
    return {"bool": "true or false", "float": "a number", "double": "a number"}.get(kind.type, "a whole number")


def unquote(raw: str) -> str:
    """Return the text of adjacent string literals; bytes that are not UTF-8 come back as surrogate escapes.

    Raises ValueError for an escape that the text format does not have.
    """
    if raw.count(raw[0]) == 2 and "\\" not in raw and raw[-1] == raw[0]:
        return raw[1:-1]  # One literal without escapes, as nearly all are.
    pieces = [
        m.group(1) if m.group(1) is not None else m.group(2) for m in _PIECE.finditer(raw) if raw[m.start()] != "#"
    ]
    if not any("\\" in piece for piece in pieces):
        return "".join(pieces)
    data = b"".join(_unescape(piece) for piece in pieces)
    return data.decode("utf-8", "surrogateescape")


def _unescape(piece: str) -> bytes:
    out, last = [], 0
    for match in _ESCAPE.finditer(piece):
        out.append(piece[last : match.start()].encode("utf-8", "surrogateescape"))
        octal, hexa, high, low, short, long, char = match.groups()
        if octal:
            out.append(bytes([int(octal, 8) & 255]))
        elif hexa:
            out.append(bytes([int(hexa, 16)]))
        elif high:
            point = 0x10000 + (int(high, 16) - 0xD800 << 10) + int(low, 16) - 0xDC00
            out.append(chr(point).encode())
        elif short or long:
            out.append(chr(int(short or long, 16)).encode("utf-8", "surrogatepass"))
        elif char in _SIMPLE:
            out.append(bytes([_SIMPLE[char]]))
        else:
            raise ValueError(f"another escape than '\\{char}' (write a backslash as '\\\\')")
        last = match.end()
    out.append(piece[last:].encode("utf-8", "surrogateescape"))
    return b"".join(out)


def quote(text: str) -> str:
    """Return `text` as one double-quoted literal that every Caffe reads back as the same bytes."""
    out = []
    for byte in text.encode("utf-8", "surrogateescape"):
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        elif byte == 10:
            out.append("\\n")
        elif byte < 32 or byte == 127:
            out.append(f"\\{byte:03o}")
        else:
            out.append(char)
    return '"' + "".join(out).encode("latin-1").decode("utf-8", "surrogateescape") + '"'


def spell(value: Value, kind: Kind) -> str:
    """Return how `value` is written in the text format."""
    if kind.type in ("string", "bytes"):
        return quote(str(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return spell_float(value)
    return str(value)


def spell_float(value: float) -> str:
    """Return the shortest spelling that reads back as the same float32 (or the same double where that differs)."""
    if math.isinf(value) or math.isnan(value):
        return str(value)
    short = f"{value:.9g}"
    return short if float(short) == value or abs(value) > 3e38 else repr(value)
