"""Examples of a report: image, text and label, and what every model's probe said under each condition."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlprobe.errors import DataError
from vlprobe.findings.answers import Answer, choose
from vlprobe.images import open_image
from vlprobe.pairing import CONDITIONS, pair
from vlprobe.results import Results, of_study
from vlprobe.settings import parse
from vlprobe.splits import cut
from vlprobe.study_file import StudyFile
from vlprobe.tasks import load_task
from vlprobe.types import Example, ImageData, Task

MOST, LEAST = 144, 6
"""Examples on a page, all tasks together; of a task where there are many."""
SIDE = 144
"""Longest side of an image on the page, in pixels."""

Said = dict[tuple[str, str], dict[tuple[str, int], tuple[str, str]]]
"""(model's label, condition) -> (example, unit) -> (target, answer)."""


def read_examples(contents: Mapping[str, Any], start: Path) -> list[dict[str, Any]]:
    """Return examples of the test part, a few of each task; the first seed's, at the layer chosen for each condition.

    They are chosen to be looked at: a third where some model's answer is right when matched and wrong otherwise, a
    third where some answer is wrong, a third where all are right, in the data's order. They are no sample.

    Args:
        contents: as `read_contents` returns them.
        start: the folder where relative paths of the study start.

    Raises:
        StudyError, DataError, BadRow: the data cannot be read, or are not those that the results are of.
    """
    described, results = contents["provenance"], Results(Path(contents["folder"]))
    file = parse(StudyFile, described["study"], "study.json")
    seed = file.seeds[0]
    answers = choose(each for each in of_study(results.all(), described) if each.seed == seed)
    each_has = max(MOST // max(len(contents["tasks"]), 1), LEAST)
    found = []
    for spec in file.tasks:
        task = load_task(spec, data=file.data, folder=start, bad_rows=file.bad_rows)
        if task.name in contents["tasks"]:
            mine = [each for each in answers if each.task == task.name]
            mine.sort(key=lambda each: contents["models"].index(f"{each.model} ({each.stage})"))
            said = _said(mine, results, seed)
            test = cut(task, seed, file.limit, file.bad_rows).test
            found += _of_task(task, test, said, each_has, None if described["skipped_rows"] else seed)
    return found


def _said(answers: Iterable[Answer], results: Results, seed: int) -> Said:
    """Return what was answered under the simple conditions."""
    said: Said = {}
    for answer in answers:
        key = answer.keys[""].get(seed)
        if key is None or answer.condition not in CONDITIONS:
            continue
        read = results.predictions(key)
        rows = zip(read.id.tolist(), read.index.tolist(), read.target.tolist(), read.predicted.tolist(), strict=True)
        label = f"{answer.model} ({answer.stage})"
        said[label, answer.condition] = {(name, unit): (_text(a), _text(b)) for name, unit, a, b in rows}
    return said


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _of_task(task: Task, test: Sequence[Example], said: Said, most: int, seed: int | None) -> list[dict[str, Any]]:
    """Return the examples of one task, chosen; with `seed`, what a mismatch showed instead of their own side."""
    answered = {name for answers in said.values() for name, _ in answers}
    if answered and not any(example.id in answered for example in test):
        raise DataError(
            f"task {task.name}: none of its examples is among the results; are these data those of the study?"
        )
    shown = {"matched": test}
    if seed is not None and any(condition == "mismatched" for _, condition in said):
        shown["mismatched"] = pair(test, "mismatched", task.level, seed, "test")
    kinds: dict[str, list[dict[str, Any]]] = {"flipped": [], "wrong": [], "right": []}
    for place, example in enumerate(test):
        for item in _items(task, example, said):
            each = kinds[item["kind"]]
            if len(each) < most and (not each or each[-1]["place"] != place):  # one unit of an example is enough
                each.append(item | {"place": place})
    share = -(-most // 3)
    chosen = [item for each in kinds.values() for item in each[:share]]
    rest = [item for each in kinds.values() for item in each[share:]]
    chosen = (chosen + rest)[:most]
    return [item | _sides(task, {name: rows[item["place"]] for name, rows in shown.items()}) for item in chosen]


def _items(task: Task, example: Example, said: Said) -> list[dict[str, Any]]:
    """Return one item for every unit of an example that was asked about."""
    asked = [unit for unit, target in enumerate(example.target) if target is not None]
    items = []
    for unit in asked:
        target = _text(example.target[unit])  # type: ignore[arg-type]  # None is not asked
        rows: dict[str, dict[str, str]] = {}
        for (label, condition), answers in said.items():
            # A model that reads no text is asked about a single word as a question on the whole input: unit 0.
            found = answers.get((example.id, unit)) or (answers.get((example.id, 0)) if len(asked) == 1 else None)
            if found is None:
                continue
            if found[0] != target:
                raise DataError(
                    f"task {task.name}, {example.id}: its label is {target!r}, and the results are of {found[0]!r}; "
                    "are these data those of the study?"
                )
            rows.setdefault(label, {})[condition] = found[1]
        models = [_model(label, row, target, bool(task.classes)) for label, row in rows.items()]
        if models:
            kind = next((kind for kind in ("flipped", "wrong") if any(model[kind] for model in models)), "right")
            item = {"task": task.name, "label": target, "models": models, "kind": kind, "parts": _parts(example, unit)}
            conditions = list(dict.fromkeys(condition for _, condition in said))
            box = example.boxes[unit] if task.unit == "region" else None
            items.append(item | {"conditions": conditions, "box": box})
    return items


def _model(label: str, row: Mapping[str, str], target: str, judged: bool) -> dict[str, Any]:
    """Return what one model said; of numbers, nothing is right or wrong."""
    right = {condition: answer == target for condition, answer in row.items()} if judged else {}
    wrong = not right.get("matched", True)
    flipped = right.get("matched", False) and not all(right.values())
    said = {name: {"answer": answer, "right": right.get(name)} for name, answer in row.items()}
    return {"model": label, "said": said, "right": right.get("matched", False), "wrong": wrong, "flipped": flipped}


def _parts(example: Example, unit: int) -> tuple[str, str, str]:
    """Return the text before the word that is asked about, the word, and the text behind it."""
    text = example.text or ""
    if not example.words:
        return text, "", ""
    start, end = example.words[unit]
    return text[:start], text[start:end], text[end:]


def _sides(task: Task, shown: Mapping[str, Example]) -> dict[str, Any]:
    """Return the image, and what stood in its place, or the text's."""
    sides: dict[str, Any] = {"image": _small(shown["matched"].image), "other_image": "", "other_text": ""}
    if "mismatched" in shown and task.level == "vision":
        sides["other_text"] = shown["mismatched"].text or ""
    elif "mismatched" in shown:
        sides["other_image"] = _small(shown["mismatched"].image)
    return sides


def _small(image: ImageData | None) -> str:
    """Return an image, small, as an address that holds it; empty where there is none."""
    if image is None:
        return ""
    opened = open_image(image)
    opened.thumbnail((SIDE, SIDE))
    written = io.BytesIO()
    opened.save(written, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"
