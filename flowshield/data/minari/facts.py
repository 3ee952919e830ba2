"""What a Minari dataset says about itself, its metadata.json, without a look at the episodes."""

__all__ = ["read_facts"]

import json
from pathlib import Path
from typing import Any

import flowshield
from flowshield.data.arrays import FORMAT_VERSIONS
from flowshield.errors import FileFormatError

# Both spaces: where one is missing, Minari would make the environment that the file names, and with
# it run whatever the file says.
_NEEDED = {
    "dataset_id": str,
    "minari_version": str,
    "data_format": str,
    "observation_space": str,
    "action_space": str,
    "total_episodes": int,
    "total_steps": int,
}


def read_facts(folder: Path) -> dict[str, Any]:
    """Reads metadata.json.

    Args:
        folder: The dataset's `data` folder.

    Raises:
        FileFormatError: It is missing or damaged, lacks something, or is of an unknown version.
    """
    import minari

    file = folder / "metadata.json"
    facts: dict[str, Any]
    try:
        facts = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise FileFormatError(f"{file} is missing: the dataset is incomplete") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{file}: damaged, or not JSON: {error}") from error
    for name, kind in _NEEDED.items():
        if not isinstance(facts, dict) or not isinstance(facts.get(name), kind):
            raise FileFormatError(f"{file}: expected {name} ({kind.__name__}), which Minari writes")
    if facts["minari_version"] not in minari.supported_dataset_versions:
        raise FileFormatError(
            f"{file}: written by Minari {facts['minari_version']}, which the installed "
            f"{minari.__version__} does not read: install a newer Minari"
        )
    _check_ours(facts.get("flowshield"), file)
    return facts


def _check_ours(ours: Any, file: Path) -> None:
    if ours is None:
        return
    version = ours.get("format_version") if isinstance(ours, dict) else None
    if version not in FORMAT_VERSIONS:
        raise FileFormatError(
            f"{file}: flowshield's format version {version!r} is unknown to this release "
            f"({flowshield.__version__}), which reads {' and '.join(map(str, FORMAT_VERSIONS))}"
        )
    if not isinstance(ours.get("metadata"), dict):
        raise FileFormatError(f"{file}: expected an object as flowshield's metadata")
