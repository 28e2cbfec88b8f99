"""What we ask: tasks by name, tasks on drawn scenes, and own tasks without code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlprobe.errors import StudyError, VlprobeError, did_you_mean
from vlprobe.scenes.tasks import RECIPES
from vlprobe.tasks.own import KINDS, load_own
from vlprobe.tasks.places import PLACES, check_places
from vlprobe.tasks.rows import BadRows
from vlprobe.tasks.salin2022 import TASKS, load_salin2022
from vlprobe.tasks.scenes import load_scenes
from vlprobe.types import Task

__all__ = ["PLACES", "TASKS", "load_task"]


def load_task(
    spec: str | Mapping[str, Any],
    *,
    data: Mapping[str, str] | None = None,
    folder: Path = Path(),
    bad_rows: BadRows = "error",
) -> Task:
    """Return a task, read from its files.

    Args:
        spec: a name from `TASKS`; or a mapping with such a `name` and options; or a task on drawn scenes: a mapping
            with a name from `vlprobe.scenes.tasks.RECIPES` and the key `scenes`; or an own task: a mapping with
            `name`, `level` and one of `table`, `shards`, `conllu`, `image_folder`, `dataset`.
        data: where published data lie: keys of `PLACES`, as in a study's `data:` section.
        folder: where relative paths start: the folder of the study file.
        bad_rows: `error` raises if any row cannot be used, `skip` leaves such rows out and lists them in
            `Task.skipped`.

    Raises:
        StudyError: an unknown name or option.
        DataError: data that cannot be used; the message names file, row and cure.
    """
    if bad_rows not in ("error", "skip"):
        raise StudyError(f"bad_rows must be 'error' or 'skip', found {bad_rows!r}")
    data = data or {}
    check_places(data)
    spec = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, Mapping):
        raise StudyError(f"a task is a name or a mapping of keys to values, found {spec!r}")
    name = spec.get("name")
    if not isinstance(name, str) or not name.strip():
        raise StudyError(f"a task needs a name, found {dict(spec)!r}")
    own = [kind for kind in KINDS if kind in spec]
    if own and "scenes" in spec:
        raise StudyError(f"task {name}: has the keys scenes and {own[0]}; keep one of them")
    if own and name in TASKS:
        raise StudyError(f"task {name}: this is the name of a task that vlprobe brings; give your {own[0]} another one")
    if not own and "scenes" not in spec and name not in TASKS:
        raise StudyError(_unknown(name, spec))
    try:
        if "scenes" in spec:
            return load_scenes(spec)
        if own:
            return load_own(spec, own, folder, bad_rows)
        return load_salin2022(spec, data, folder, bad_rows)
    except VlprobeError as error:
        if name not in str(error):
            error.add_note(f"while loading task {name}")
        raise


def _unknown(name: str, spec: Mapping[str, Any]) -> str:
    if name in RECIPES:
        return f"task {name} is one on drawn scenes: write {{name: {name}, scenes: {{}}}}"
    kinds = f"an own task has one of the keys {', '.join(KINDS)}; one on drawn scenes has the key scenes"
    known = (*KINDS, "scenes")
    near = [f"'{key}'{hint}" for key in spec if "did you mean" in (hint := did_you_mean(str(key), known))]
    if near:
        return f"task {name}: unknown key {near[0]} ({kinds})"
    return f"there is no task '{name}'{did_you_mean(name, TASKS)} ({kinds})"
