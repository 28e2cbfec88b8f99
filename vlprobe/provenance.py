"""Where results come from: the resolved study, versions, revisions, hashes, and what was left out."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from vlprobe.plan import Plan
from vlprobe.study_file import StudyFile
from vlprobe.types import Task

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Encoder

PACKAGES = ("vlprobe", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn", "pillow")


def describe(
    study: StudyFile, models: Sequence[Encoder], tasks: Sequence[Task], plan: Plan, untrained: Sequence[Encoder] = ()
) -> dict[str, Any]:
    """Return the content of `study.json`, plain enough for JSON."""
    return {
        "study": study.model_dump(mode="json"),
        "command": ["vlprobe", *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "models": [_model(model) for model in models],
        "untrained": [_model(model) for model in untrained],
        "tasks": [_task(task) for task in tasks],
        "images": plan.images,
        "not_done": list(plan.notes),
        "skipped_rows": list(plan.skipped),
    }


def _model(model: Encoder) -> dict[str, Any]:
    return {
        "name": model.name,
        "family": type(model).__name__,
        "stage": model.stage,
        "revision": model.revision,
        "usage": dict(model.usage),
        "layers": dict(model.layers),
        "left_out": list(model.left_out),
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "level": task.level,
        "unit": task.unit,
        "classes": list(task.classes),
        "examples": {name: len(examples) for name, examples in task.splits.items()},
        "options": {key: _plain(value) for key, value in task.options.items()},
        "source": [asdict(source) for source in task.source],
        "revision": task.revision,
        "licence": task.licence,
        "citation": task.citation,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else str(value)
