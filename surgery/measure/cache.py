"""What was measured once, kept as JSON in the user's cache folder and found again by all that it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any


def load(kind: str, key: str) -> Any | None:
    """Return the value that was stored of this kind under this key, None where there is none that can be read."""
    try:
        found = json.loads(_place(kind, key).read_bytes())
    except (OSError, ValueError, RecursionError, RuntimeError):
        return None
    # The key is read back, so that a file that something else put there counts as none.
    return found.get("value") if isinstance(found, dict) and found.get("key") == key else None


def store(kind: str, key: str, value: Any) -> None:
    """Keep a JSON value, whole or not at all; where the folder cannot be written, it is not kept."""
    text = json.dumps({"key": key, "value": value}, indent=1)
    with suppress(OSError, RuntimeError):
        path = _place(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
            part = Path(file.name)
            try:
                file.write(text)
                file.flush()
                part.replace(path)
            except BaseException:
                part.unlink()
                raise


def _place(kind: str, key: str) -> Path:
    """Return the file for a key; raises RuntimeError where the user has no home folder."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "surgery" / "tables" / kind / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
