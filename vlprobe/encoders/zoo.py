"""`zoo:NAME`: a model that vlprobe brings, or one that `vlprobe zoo train` has made.

What a zoo folder says of itself (`zoo.json`) becomes the settings that a study could have written out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlprobe.errors import CheckpointError, StudyError, did_you_mean

ZOO = Path(__file__).parent.parent / "zoo" / "weights"
"""The bundled models."""
PREFIX = "zoo:"


def zoo_settings(source: str, folder: Path) -> dict[str, Any]:
    """Return the `model`, `stage` and `regions` of a zoo model.

    Args:
        source: what follows `zoo:`: the name of a bundled model, or a folder that `vlprobe zoo train` wrote.
        folder: where relative paths start.

    Raises:
        StudyError: there is no such model.
        CheckpointError: its zoo.json cannot be read.
    """
    place = (folder / Path(source).expanduser()) if "/" in source else ZOO / source
    file = place / "zoo.json"
    if not file.exists():
        known = zoo_names()
        raise StudyError(
            f"{PREFIX}{source}: there is no {file}{did_you_mean(source, known)}"
            if "/" in source
            else f"{PREFIX}{source}: the zoo has no model '{source}'{did_you_mean(source, known)}"
        )
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        settings: dict[str, Any] = {"model": f"{said['family']}:{place}", "stage": said["stage"]}
        regions = said.get("regions")
        if regions:
            settings["regions"] = regions | {"detector": str((place / regions["detector"]).resolve())}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{PREFIX}{source}: {file} cannot be read: {error}; train the model again") from None
    return settings


def zoo_names() -> list[str]:
    """Return the names of the bundled models that a study can probe, sorted."""
    return sorted(file.parent.name for file in ZOO.glob("*/zoo.json") if file.parent.name != "detector")
