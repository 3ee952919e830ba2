"""JSON files: one object each, whole or absent, without NaN."""

__all__ = ["json_text", "read_json", "write_json"]

import json
from pathlib import Path
from typing import Any

from flowshield.atomic import atomic_write
from flowshield.errors import FileFormatError


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileFormatError: It is not JSON, or no object.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got a {type(content).__name__}")
        return content
    except (ValueError, RecursionError) as error:
        message = f"{path} is not valid JSON ({error}): delete it to have it made again"
        raise FileFormatError(message) from error


def json_text(content: Any) -> str:
    """The content as JSON; NaN and infinity become null, as JSON knows neither."""
    return json.dumps(_without_nan(content), indent=1, allow_nan=False)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all; see `json_text`."""
    with atomic_write(path) as file:
        file.write(json_text(content).encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return value
