"""What two runs were made of that is not the same: versions, settings, models, data; and what only one of them has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlprobe.findings.answers import Answer

PLACES = ("name", "models", "tasks", "conditions", "data", "store", "output")
"""Keys of a study that are told otherwise, or are names of places and change no number."""


@dataclass(frozen=True)
class Apart:
    """One thing that is not the same in two runs."""

    what: str
    """What it is of: `torch`, `setting seeds`, `model vilt: revision`, `task color: sources`, ..."""
    a: str
    """As it is in A; empty where A has none."""
    b: str
    """As it is in B."""


@dataclass(frozen=True)
class Alone:
    """A model on a task under a condition, of which only one run has a result."""

    run: str
    """`A` or `B`: which has it."""
    task: str
    """Task name."""
    model: str
    """Model name."""
    condition: str
    """As the study names it."""
    why: str
    """Why the other has none."""


def apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Apart]:
    """Return what two runs were made of that differs, as their `study.json` tell it.

    Models and tasks are told by name, of those that both have. Places (`output`, `store`, `data`) are not told: the
    data are, by their sha256.
    """
    found = list(_of_mappings("", _machine(a), _machine(b)))
    found += _of_mappings("setting ", _settings(a["study"]), _settings(b["study"]))
    for kind in ("models", "untrained", "tasks"):
        mine, other = ({each["name"]: each for each in run.get(kind, ())} for run in (a, b))
        for name in (name for name in mine if name in other):
            said = {"models": "model", "untrained": "random weights of", "tasks": "task"}[kind]
            found += _of_mappings(f"{said} {name}: ", _plain(mine[name]), _plain(other[name]))
    counts = _images(a, b)
    if any(counts):
        found.append(Apart("image files, by sha256", *(f"{count} that the other lacks" for count in counts)))
    for key, what in (("not_done", "not done"), ("skipped_rows", "rows left out")):
        lines = set(a[key]) ^ set(b[key])
        found += [Apart(what, *(line if line in run[key] else "" for run in (a, b))) for line in sorted(lines)]
    return found


def _machine(described: Mapping[str, Any]) -> dict[str, str]:
    there = {"python": described["python"], "platform": described["platform"]}
    return dict(described["packages"]) | there


def _settings(study: Mapping[str, Any], start: str = "") -> dict[str, str]:
    """Return the settings that two runs may differ in, one key each; `pooling.word` for those inside others."""
    told: dict[str, str] = {}
    for name, value in study.items():
        if isinstance(value, Mapping) and not start and name not in PLACES:
            told |= _settings(value, f"{name}.")
        elif start or name not in PLACES:
            told[f"{start}{name}"] = _text(value)
    return told


def _plain(described: Mapping[str, Any]) -> dict[str, str]:
    """Return what is said of a model or a task; its sources by their sha256, wherever they lie."""
    told = {name: _text(value) for name, value in described.items() if name not in ("name", "source", "options")}
    if "source" in described:
        told["sources, by sha256"] = _text([source["sha256"][:12] for source in described["source"]])
    for name, value in described.get("options", {}).items():
        if not isinstance(value, str) or "/" not in value:  # else a place
            told[f"option {name}"] = _text(value)
    return told


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inside)}" for name, inside in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None or value == "" else str(value)


def _of_mappings(start: str, a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Apart]:
    for name in dict.fromkeys((*a, *b)):
        if a.get(name) != b.get(name):
            yield Apart(f"{start}{name}", a.get(name, ""), b.get(name, ""))


def _images(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many images each run has that the other lacks; wherever their files lie."""
    mine, other = (set(run["images"].values()) for run in (a, b))
    return len(mine - other), len(other - mine)


def alone(a: tuple[Mapping[str, Any], Sequence[Answer]], b: tuple[Mapping[str, Any], Sequence[Answer]]) -> list[Alone]:
    """Return what only one of two runs has a result of, and why the other has none.

    Args:
        a: `study.json` of the first run, and its answers.
        b: of the second.
    """
    found = []
    for run, (_, mine), (described, others) in (("A", a, b), ("B", b, a)):
        there = {(each.task, each.model, each.condition) for each in others}
        for each in mine:
            if (each.task, each.model, each.condition) not in there:
                found.append(Alone(run, each.task, each.model, each.condition, _why(each, described)))
    return found


def _why(answer: Answer, described: Mapping[str, Any]) -> str:
    """Return why a run has no such answer."""
    asked = {
        "task": ([task["name"] for task in described["tasks"]], answer.task),
        "model": ([model["name"] for model in described["models"]], answer.model),
        "condition": (described["study"]["conditions"], answer.condition),
    }
    for what, (names, name) in asked.items():
        if name not in names:
            return f"no {what} {name}"
    start = f"{answer.task}, {answer.model}, {answer.condition}: "
    notes = [note.removeprefix(start) for note in described["not_done"] if note.startswith(start)]
    return notes[0] if notes else "no result yet: the run is not finished"
