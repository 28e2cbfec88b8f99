"""What huggingface's config.yaml, beside the weights, says of how the detector was run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from vlprobe.errors import CheckpointError
from vlprobe.regions.conventions import Conventions

FILES = ("config.yaml", "config.json")
"""Looked for in this order; JSON is YAML."""
Weights = tuple[float, float, float, float]


def configured(conventions: Conventions, folder: Path) -> tuple[Conventions, Weights | None]:
    """Return conventions with what a folder's configuration sets, and the weights of the box regression it names.

    Raises:
        CheckpointError: the configuration cannot be read, or holds a value of another kind.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        return conventions, None
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{path} cannot be read: {line}; fetch it again, or remove it for the defaults") from None
    fields: dict[str, Any] = {}
    for field, (kind, *keys) in FIELDS.items():
        value = _find(values, keys)
        if value is not None:
            fields[field] = _converted(kind, value, keys, path)
    regression = fields.pop("regression", None)
    fewest, most = fields.pop("fewest", conventions.boxes[0]), fields.pop("most", conventions.boxes[1])
    return replace(conventions, **fields, boxes=(fewest, most)), regression


def _find(values: Any, keys: list[Any]) -> Any:
    """Return a nested value, or None; huggingface writes keys in either case."""
    for key in keys:
        if not isinstance(values, dict):
            return None
        values = {str(name).lower(): item for name, item in values.items()}.get(key)
    return values


def _converted(kind: Callable[[Any], Any], value: Any, keys: list[Any], path: Path) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise CheckpointError(f"{path}: {'.'.join(keys)} is {value!r}, which is no value for it") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ValueError(value)
    return int(value)


def _thresholds(value: Any) -> tuple[float, ...]:
    numbers = tuple(float(item) for item in (value if isinstance(value, list) else [value]))
    if not numbers:
        raise ValueError(value)
    return numbers


def _weights(value: Any) -> Weights:
    x, y, width, height = (float(item) for item in value)
    return x, y, width, height


def _means(value: Any) -> tuple[float, float, float]:
    first, second, third = (float(item) for item in value)
    return first, second, third


FIELDS: dict[str, tuple[Any, ...]] = {
    "short": (_whole, "input", "min_size_test"),
    "long": (_whole, "input", "max_size_test"),
    "mean": (_means, "model", "pixel_mean"),
    "before": (_whole, "rpn", "pre_nms_topk_test"),
    "after": (_whole, "rpn", "post_nms_topk_test"),
    "overlap": (float, "rpn", "nms_thresh"),
    "class_overlaps": (_thresholds, "roi_heads", "nms_thresh_test"),
    "regression": (_weights, "roi_box_head", "bbox_reg_weights"),
    "fewest": (_whole, "min_detections"),
    "most": (_whole, "max_detections"),
}
"""Our field -> how it is read, and where it stands in the file."""
