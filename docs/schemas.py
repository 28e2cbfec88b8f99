"""JSON Schemas of a results folder's files, made from the dataclasses that they are written from.

`python docs/fill.py` writes them to `vlprobe/schemas/`, and the tables of `docs/results.md` beside them.
"""

import ast
import inspect
import json
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

import vlprobe
from vlprobe.findings.finding import AllFindings, Finding
from vlprobe.findings.reliance import AllReliance, Reliance
from vlprobe.provenance import DescribedModel, DescribedTask, Provenance
from vlprobe.results import SCHEMA
from vlprobe.sharing.features import Indexed
from vlprobe.similarity.alike import Alike, AllAlike, LayerOf
from vlprobe.types import Predictions, Result, Sent, Source

FOLDER = Path(vlprobe.__file__).parent / "schemas"

FILES = {
    "results": (Result, "one line of results.jsonl"),
    "study": (Provenance, "study.json"),
    "findings": (AllFindings, "findings.json"),
    "reliance": (AllReliance, "reliance.json"),
    "similarity": (AllAlike, "similarity.json"),
}
"""Schema -> what the file is written from, and what it is a schema of."""

TABLES = {
    "results.jsonl": (Result,),
    "study.json": (Provenance, DescribedModel, DescribedTask, Source),
    "findings.json": (AllFindings, Finding),
    "reliance.json": (AllReliance, Reliance),
    "similarity.json": (AllAlike, Alike, LayerOf),
    "predictions": (Predictions, Sent),
    "features/index.jsonl": (Indexed,),
}
"""Table of the documentation -> the dataclasses whose fields it has."""


def lines_of(noun: type) -> dict[str, str]:
    """Return field -> the docstring under it, as one line."""
    lines = ast.parse(textwrap.dedent(inspect.getsource(noun))).body[0].body
    return {
        field.target.id: " ".join(said.value.value.split())
        for field, said in zip(lines, lines[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) and isinstance(said.value.value, str)
    }


class _Written(GenerateJsonSchema):
    """What is written, not what would be taken: all fields are there, no others, and NaN is null."""

    def float_schema(self, schema: Any) -> dict[str, Any]:
        return {"type": ["number", "null"]}

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        inner = self.generate_inner(schema["schema"])
        return inner if "null" in inner.get("type", ()) else super().nullable_schema(schema)

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        made = super().dataclass_schema(schema)
        for name, said in lines_of(schema["cls"]).items():
            made["properties"][name] = {
                key: value for key, value in made["properties"][name].items() if key not in ("title", "default")
            } | {"description": said}
        return made | {"required": list(made["properties"]), "additionalProperties": False}


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema, draft 2020-12, of one file."""
    noun, what = FILES[name]
    made = TypeAdapter(noun).json_schema(schema_generator=_Written, mode="serialization")
    version = {"const": SCHEMA, "description": "Version of the results folder's files."}
    head = {"$schema": _Written.schema_dialect, "$id": f"urn:vlprobe:{name}:{SCHEMA}", "title": f"vlprobe: {what}"}
    made |= {"properties": {"schema": version} | made["properties"], "required": ["schema", *made["required"]]}
    return head | {key: value for key, value in made.items() if key not in head}


def text(name: str) -> str:
    """Return what the file of one schema holds."""
    return json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"


def table(name: str) -> str:
    """Return a table of the fields of one file."""
    rows = ["| field | of | type | |", "|---|---|---|---|"]
    for noun in TABLES[name]:
        said = lines_of(noun)
        rows += [
            "| {} |".format(" | ".join(cell.replace("|", "\\|") for cell in row))
            for field in fields(noun)
            if field.name in said
            for row in [(f"`{field.name}`", noun.__name__, f"`{field.type}`", said[field.name])]
        ]
    return "\n".join(rows)


def write() -> None:
    """Write the schemas into the package."""
    for name in FILES:
        (FOLDER / f"{name}.schema.json").write_text(text(name), encoding="utf-8")
