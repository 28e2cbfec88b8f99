"""Fills the generated parts of the documentation from the code: run by `make docs`, checked by the tests.

A part stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import inspect
import json
from dataclasses import fields
from functools import partial
from pathlib import Path

from typer.testing import CliRunner

import schemas
from schemas import lines_of
from vlprobe.audit import CHECKS, Audit, Case, Fault, NotRun
from vlprobe.calibration.statements import STATEMENTS
from vlprobe.cli import app
from vlprobe.encoders.zoo import ZOO
from vlprobe.pooling import POOLINGS
from vlprobe.scenes.tasks import RECIPES
from vlprobe.study_file import StudyFile
from vlprobe.zoo.recipes import RECIPES as MADE

DOCS = Path(__file__).parent


def told(*arguments: str) -> str:
    """Return a code block with what `vlprobe ARGUMENTS` prints."""
    output = (
        CliRunner()
        .invoke(app, list(arguments), prog_name="vlprobe", env={"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"})
        .output
    )
    return "```\n" + "\n".join(line.rstrip() for line in output.strip("\n").splitlines()) + "\n```"


def keys() -> str:
    """Return a table of the keys of a study file."""
    rows = ["| key | default | |", "|---|---|---|"]
    said = lines_of(StudyFile)
    for name, field in StudyFile.model_fields.items():
        default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
        rows.append(f"| `{name}` | {default} | {said.get(name, '')} |")
    return "\n".join(rows)


def _yaml(value: object) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    return "-" if value is None else str(value).replace("'", "")


def poolings() -> str:
    """Return a table of poolings."""
    rows = [f"| {unit} | `{name}` | {text} |" for unit, names in POOLINGS.items() for name, text in names.items()]
    return "\n".join(["| unit | pooling | |", "|---|---|---|", *rows])


def checks() -> str:
    """Return a table of the checks of an audit, with what each says it does."""
    rows = [f"| `{name}` | {_first_paragraph(check)} |" for name, check in CHECKS.items()]
    return "\n".join(["| check | |", "|---|---|", *rows])


def _first_paragraph(check: object) -> str:
    return " ".join((inspect.getdoc(check) or "").split("\n\n")[0].split())


def audit_keys() -> str:
    """Return a table of the keys of an audit in JSON."""
    rows = ["| key | of | |", "|---|---|---|"]
    for held in (Audit, Fault, Case, NotRun):
        said = lines_of(held)
        rows += [f"| `{field.name}` | {held.__name__} | {said.get(field.name, '')} |" for field in fields(held)]
    return "\n".join(rows)


def scenes() -> str:
    """Return a table of the tasks on drawn scenes."""
    rows = [f"| `{name}` | {row.level}, {row.unit} | {row.description} |" for name, row in RECIPES.items()]
    return "\n".join(["| task | level, unit | |", "|---|---|---|", *rows])


def zoo() -> str:
    """Return a table of the bundled models with what they were taught and their held-out scores."""
    rows = ["| model | taught | on held-out scenes |", "|---|---|---|"]
    for name, recipe in MADE.items():
        file = ZOO / name / "zoo.json"
        figures = json.loads(file.read_text(encoding="utf-8"))["figures"] if file.exists() else {}
        scores = {key: value for key, value in figures.items() if not key.startswith("loss") and key != "seconds"}
        kept = {key: value for key, value in scores.items() if "another" not in key and ":" not in key}
        shown = ", ".join(f"{key} {value:.3f}" for key, value in kept.items())
        rows.append(f"| `{name}` | {recipe.teaching}, {recipe.steps} steps | {shown or 'not bundled'} |")
    return "\n".join(rows)


def statements() -> str:
    """Return a table of the known answers, with what `vlprobe calibrate` measured when it wrote `calibration.json`."""
    measured = {row["name"]: row for row in json.loads((DOCS / "calibration.json").read_text("utf-8"))["statements"]}
    rows = ["| what is known | expected | measured |", "|---|---|---|"]
    for statement in STATEMENTS:
        found, sign = measured[statement.name], "" if statement.than is None else "+"
        shown = []
        for each in found["measured"]:
            low, high = each["interval"]
            numbers = f"{each['effect']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
            shown.append(f"`{each['model']}` {numbers}{'' if each['right'] else ' **wrong**'}")
        rows.append(f"| {statement.claim} | `{statement.name}`: {statement.expected} | {'<br>'.join(shown)} |")
    return "\n".join(rows)


PARTS = {
    "keys": keys,
    "poolings": poolings,
    "help": lambda: told("--help"),
    "help run": lambda: told("run", "--help"),
    "help report": lambda: told("report", "--help"),
    "help compare": lambda: told("compare", "--help"),
    "help plan": lambda: told("plan", "--help"),
    "help audit": lambda: told("audit", "--help"),
    "checks": checks,
    "audit keys": audit_keys,
    "help calibrate": lambda: told("calibrate", "--help"),
    "help regions": lambda: told("regions", "--help"),
    "help zoo train": lambda: told("zoo", "train", "--help"),
    "zoo": zoo,
    "statements": statements,
    "models": lambda: told("list", "models"),
    "tasks": lambda: told("list", "tasks"),
    "scenes": scenes,
    "probes": lambda: told("list", "probes"),
    "conditions": lambda: told("list", "conditions"),
    "help card": lambda: told("card", "--help"),
    "help log": lambda: told("log", "--help"),
    "help push": lambda: told("push", "--help"),
    "help schema": lambda: told("schema", "--help"),
} | {f"fields {name}": partial(schemas.table, name) for name in schemas.TABLES}


def filled(text: str) -> str:
    """Return a page with its generated parts made anew."""
    for name, make in PARTS.items():
        opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if opening in text:
            before, _, rest = text.partition(opening)
            _, found, after = rest.partition(closing)
            if not found:
                raise ValueError(f"no {closing} after {opening}")
            text = f"{before}{opening}{make()}\n{closing}{after}"
    return text


if __name__ == "__main__":
    schemas.write()
    for page in sorted(DOCS.glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
