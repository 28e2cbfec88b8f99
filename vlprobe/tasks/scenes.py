"""Tasks on drawn scenes: what a study says about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from vlprobe.errors import StudyError, did_you_mean
from vlprobe.scenes.tasks import PARTS, RECIPES, examples
from vlprobe.settings import Settings, parse
from vlprobe.tasks.salin2022 import CITATION
from vlprobe.types import Task


class World(Settings):
    """What is asked (what the task is named after, if absent), of which scenes, how many, and whether captions tell."""

    task: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    train: Annotated[int, Field(ge=1)] = 1200
    test: Annotated[int, Field(ge=1)] = 600
    tell: Annotated[float, Field(ge=0, le=1)] = 0.0


class ScenesTask(Settings):
    """`scenes: {}`, or what is to differ from the defaults."""

    name: str
    scenes: World


def load_scenes(spec: Mapping[str, Any]) -> Task:
    """Return a task on drawn scenes, making its examples.

    Args:
        spec: its name, and `scenes`.

    Raises:
        StudyError: a name that none of them has, an unknown key, a value out of range.
    """
    name = spec["name"]
    world = parse(ScenesTask, spec, f"task {name}").scenes
    asked = world.task or name
    if asked not in RECIPES:
        raise StudyError(f"there is no task '{asked}' on scenes{did_you_mean(asked, RECIPES)}")
    recipe, counts = RECIPES[asked], {"train": world.train, "test": world.test}
    return Task(
        name=name,
        level=recipe.level,
        unit=recipe.unit,
        classes=recipe.classes,
        splits={part: examples(asked, world.seed, part, counts[part], world.tell) for part in PARTS},
        licence="CC0-1.0: drawn by vlprobe, nothing in them is anyone's",
        citation=CITATION,
        options={"scenes": world.model_dump(exclude_none=True)},
    )
