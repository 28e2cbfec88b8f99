"""The studies that statements need: one for each task and dial, several worlds in each, every model run once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlprobe.calibration.statements import SUBJECTS, Statement
from vlprobe.study import Study


@dataclass(frozen=True)
class Scale:
    """How many worlds are asked about, and how many scenes of each."""

    worlds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the scenes."""
    train: int = 300
    """Examples of a world that probes are trained on, validation part included."""
    test: int = 200
    """Examples of a world that they are tested on."""


def study_name(statement: Statement) -> str:
    """Return the name of the study that a statement is tested on: of its task, and whether the text tells."""
    return statement.task + (f"-tell-{statement.tell:g}" if statement.tell else "")


def task_name(statement: Statement, world: int) -> str:
    """Return what the statement's task on one world is called in its study."""
    return f"{statement.task}-{world}"


def studies(statements: Sequence[Statement], scale: Scale, folder: Path) -> dict[str, Study]:
    """Return the studies that tell whether statements hold, by name, in the order in which they are first needed.

    Args:
        statements: what is to be tested.
        scale: how many worlds and scenes.
        folder: each study has a results folder inside. They share its `features`, so that nothing is taken from a store
            that another version of vlprobe has filled.

    Raises:
        ValueError: two statements of one study that pool differently.
    """
    named: dict[str, list[Statement]] = {}
    for statement in statements:
        named.setdefault(study_name(statement), []).append(statement)
    return {name: _study(name, group, scale, folder) for name, group in named.items()}


def _study(name: str, group: Sequence[Statement], scale: Scale, folder: Path) -> Study:
    poolings = {statement.pooling for statement in group}
    if len(poolings) > 1:
        raise ValueError(f"statements about {name} pool by {' and '.join(sorted(poolings))}: give them one pooling")
    first = group[0]
    models, layers, conditions, controls = set[str](), set[str](), set[str](), set[str]()
    for statement in group:
        for probe in statement.probes():
            conditions.add(probe.condition)
            controls |= {probe.control} - {""}
            whose = [model + probe.twin for model in statement.models]
            models.update(whose)
            layers.update(SUBJECTS[model].layer(probe.layer) for model in whose)
    worlds = [
        {
            "name": task_name(first, world),
            "scenes": {"task": first.task, "seed": world, "train": scale.train, "test": scale.test, "tell": first.tell},
        }
        for world in scale.worlds
    ]
    return Study.from_settings(
        name=name,
        models=[_model(each) for each in SUBJECTS if each in models],
        tasks=worlds,
        conditions=sorted(conditions),
        layers="all" if "best" in layers else sorted(layers),
        pooling={"input": first.pooling},
        controls=sorted(controls),
        output=str(folder / name),
        store=str((folder / "features").resolve()),
    )


def _model(name: str) -> dict[str, Any]:
    if SUBJECTS[name].trained:
        return {"model": f"zoo:{name}"}
    return {"model": f"zoo:{name.removesuffix('-random')}", "name": name, "weights": "random"}
