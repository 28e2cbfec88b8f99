"""The files of a results folder: their schemas, and what pandas and polars make of them."""

import json
import math
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from test_results import ANSWERS, RESULT
from typer.testing import CliRunner

from test_study import study
from toys import Toy
from vlprobe import read_results
from vlprobe.cli import app
from vlprobe.errors import DataError
from vlprobe.findings import read_findings, read_reliance
from vlprobe.results import SCHEMA, Results
from vlprobe.types import Result

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import schemas  # noqa: E402

FILES = {name: f"{name}.json" for name in ("study", "findings", "reliance", "similarity")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the results of a run that has all there is to be written: NaN, None, notes, several probes."""
    place = tmp_path_factory.mktemp("results")
    models, conditions = [Toy(), Toy("viewer", ("image",))], ["matched", "mismatched", "text-only"]
    study(place, models, conditions=conditions, probes=["linear", "mdl"], limit=80).run()
    return place


def written(folder):
    """Return (schema's name, object) of all that a folder's files hold."""
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    found = [("results", json.loads(line)) for line in lines]
    return found + [(name, json.loads((folder / file).read_text(encoding="utf-8"))) for name, file in FILES.items()]


@pytest.mark.parametrize("name", schemas.FILES)
def test_the_schemas_in_the_package_are_those_of_the_code(name):
    printed = CliRunner().invoke(app, ["schema", name]).output
    said = "if a reader of the old schema would misread the new one, raise vlprobe.results.SCHEMA; then `make docs`"
    assert json.loads(printed) == schemas.schema(name), said
    Draft202012Validator.check_schema(json.loads(printed))


def test_every_field_has_its_line():
    for table in schemas.TABLES.values():
        for noun in table:
            inherited = {field.name for base in noun.__mro__[1:-1] for field in fields(base)}
            assert {field.name for field in fields(noun)} - inherited == set(schemas.lines_of(noun))


def test_what_a_run_writes_is_what_the_schemas_say(folder):
    nothing = 0
    for name, value in written(folder):
        Draft202012Validator(schemas.schema(name)).validate(value)
        assert value["schema"] == SCHEMA
        nothing += value.get("validation", 0) is None
    assert nothing and json.loads((folder / "study.json").read_text())["not_done"]  # all kinds of values were seen


WRONG = {str: 3, int: "3", float: "3", type(None): "3", list: {}, dict: [], bool: "yes"}


def test_what_is_not_so_is_noticed(folder):
    for name, value in dict(written(folder)).items():
        validator = Draft202012Validator(schemas.schema(name))
        for field, held in value.items():
            assert not validator.is_valid(value | {field: WRONG[type(held)]}), field
            assert not validator.is_valid({key: each for key, each in value.items() if key != field}), field
        assert not validator.is_valid(value | {"another": 1})


def test_a_folder_from_before_schemas_is_read(folder, tmp_path):
    for path in folder.rglob("*"):
        if path.is_file() and "features" not in path.parts:
            copy = tmp_path / path.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    for path in [tmp_path / "results.jsonl", *(tmp_path / file for file in FILES.values())]:
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(rf'"schema": {SCHEMA},\s*', "", text), encoding="utf-8")
        assert '"schema"' not in path.read_text(encoding="utf-8")
    assert read_results(tmp_path) == read_results(folder) != []
    assert repr(read_findings(tmp_path)) == repr(read_findings(folder))
    assert repr(read_reliance(tmp_path)) == repr(read_reliance(folder))
    before = (tmp_path / "results.jsonl").read_bytes()
    results = Results(tmp_path)
    for result in results.all():
        results.add(result)
    assert (tmp_path / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("found, cure", [(SCHEMA + 1, "install a newer vlprobe"), ("x", "run the study again")])
def test_an_unknown_schema_is_refused(folder, tmp_path, found, cure):
    readers = {
        "results.jsonl": Results,
        "study.json": lambda place: Results(place).description(),
        "findings.json": read_findings,
        "reliance.json": read_reliance,
    }
    for name, read in readers.items():
        text = (folder / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace(f'"schema": {SCHEMA}', f'"schema": {json.dumps(found)}'))
        with pytest.raises(DataError, match=rf"{name}.*schema is {found!r}.*reads {SCHEMA}; .*{cure}"):
            read(tmp_path)
        (tmp_path / name).unlink()


def test_results_of_an_earlier_study_file_do_not_count(folder, tmp_path):
    results = Results(tmp_path)
    results.describe(json.loads((folder / "study.json").read_text()) | {"asked": [RESULT.key[:16], "def"]})
    mine = replace(RESULT, task="colour", model="toy")
    results.add(mine, ANSWERS)
    results.add(replace(mine, model="gone", key="def"), ANSWERS)
    results.add(replace(mine, score=0.75), ANSWERS)
    assert [(each.model, each.score) for each in read_results(tmp_path)] == [("toy", 0.75)]
    with pytest.raises(DataError, match=r"no study.json"):
        read_results(tmp_path / "elsewhere")


ROWS = [replace(RESULT, key=str(n), revision="12e5", l2=None) for n in range(150)] + [
    replace(RESULT, key="last", l2=0.1, warnings=("not converged",), score=0.12345678901234568)
]
"""What a reader that looks at the first hundred rows alone, or at what a name looks like, would get wrong."""


def same(value, other):
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(same, value, other))
    missing = [each is None or (isinstance(each, float) and math.isnan(each)) for each in (value, other)]
    return missing == [True, True] or value == other


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_results_load_with_one_line(folder, library):
    DataFrame = pytest.importorskip(library).DataFrame
    for rows in (read_results(folder), read_reliance(folder), ROWS):
        frame = DataFrame(rows)
        assert list(frame.columns) == [field.name for field in fields(rows[0])] and len(frame) == len(rows)
        for name in frame.columns:
            held = [each.tolist() if hasattr(each, "tolist") else each for each in list(frame[name])]
            held = [each.to_list() if hasattr(each, "to_list") else each for each in held]
            assert all(same(getattr(row, name), each) for row, each in zip(rows, held, strict=True)), name
    assert list(DataFrame(ROWS).columns) == [field.name for field in fields(Result)]


def test_the_lines_of_the_documentation_run(folder, tmp_path):
    pytest.importorskip("pandas"), pytest.importorskip("polars")
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- frames -->\n```python\n(.*?)```", text, re.DOTALL).group(1)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "demo").symlink_to(folder)
    code += "print(len(frame), len(lost), len(tests), len(tests.schema['scores'].fields))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {name for finding in read_findings(folder) for name in finding.scores}
    expected = [read_results(folder), read_reliance(folder), read_findings(folder), names]
    assert list(map(int, done.stdout.split())) == list(map(len, expected))
