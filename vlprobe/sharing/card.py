"""A snippet for a model's card on the Hugging Face hub: what one model of a study knows, and how to repeat it.

The metadata follow the hub's `model-index`, and are written by the hub's own library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from vlprobe.report.layers import named, probed
from vlprobe.report.tables import STREAMED, Table, in_text, markdown, number
from vlprobe.settings import parse
from vlprobe.study_file import StudyFile

Contents = Mapping[str, Any]
"""As `vlprobe.report.contents.read_contents` returns them."""

READ = (
    "A linear probe on every layer; the score is that of the test part at the layer that is best on the validation "
    "part. Under mismatched, another input's image (vision tasks: text) stands in for its own. Majority: the class "
    "that is most frequent in train (for R², the mean)."
)


def card(contents: Contents, label: str) -> str:
    """Return the Markdown of one model, with YAML metadata on top that `huggingface_hub.ModelCardData` reads.

    Args:
        contents: what a results folder holds.
        label: the model, `NAME (STAGE)`, one of `contents["models"]`.
    """
    name, stage = label[:-1].rsplit(" (", 1)
    described = contents["provenance"]
    (model,) = [each for each in described["models"] if (each["name"], each["stage"]) == (name, stage)]
    vlprobe = described["packages"]["vlprobe"]
    told = [
        finding["text"] for finding in contents["findings"] if (finding["model"], finding["stage"]) == (name, stage)
    ]
    findings = [f"* {in_text(text)}" for text in told] or ["* None."]
    return "\n".join(
        [
            "---",
            metadata(contents, label).to_yaml().rstrip("\n"),
            "---",
            "",
            f"## What the layers of {in_text(name)} know",
            "",
            f"Study `{contents['name']}`, made with vlprobe {vlprobe}. The model: {in_text(stage)}, revision "
            f"{in_text(model['revision'])}.",
            "",
            markdown(scores(contents, label)),
            "### Findings",
            "",
            *findings,
            "",
            "### Data",
            "",
            *data(contents),
            "",
            "### To repeat it",
            "",
            *repeat(described),
            "",
        ]
    )


def metadata(contents: Contents, label: str) -> ModelCardData:
    """Return the linear probe's scores as the hub's metadata: one metric for every task and condition."""
    tasks = {task["name"]: task for task in contents["provenance"]["tasks"]}
    results = []
    for name, condition, cell in cells(contents, label):
        if "probe" in cell:
            continue  # whoever reads the metadata compares them: they are of the linear probe alone
        metric, dataset = contents["tasks"][name]["metric"], _on_hub(tasks[name])
        bounds = f"{cell['low']:.3f} to {cell['high']:.3f}"
        results.append(
            EvalResult(
                task_type="feature-extraction",
                task_name="Linear probing",
                # The hub's library puts metrics of one data set together: a task that is not of the hub is its own.
                dataset_type=dataset or name,
                dataset_name=dataset or name,
                dataset_split="test",
                dataset_revision=tasks[name]["revision"] or None,
                metric_type=metric,
                metric_value=round(cell["score"], 4),
                metric_name=f"{name}, {condition}: {metric} at {cell['layer']}, 95 % interval {bounds}",
            )
        )
    return ModelCardData(model_name=label[:-1].rsplit(" (", 1)[0], eval_results=results, tags=["vlprobe", "probing"])


def cells(contents: Contents, label: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield task, condition and what a model scored there; `probe` names a streaming probe."""
    for name, task in contents["tasks"].items():
        for condition, cell in task["rows"].get(label, {}).items():
            chosen = probed(cell)
            if "layer" in chosen and not math.isnan(chosen["score"]):
                yield name, condition, {**chosen, "majority": cell["majority"]}


def scores(contents: Contents, label: str) -> Table:
    """Return a model's scores, a row for every task and condition."""
    rows = []
    for name, condition, cell in cells(contents, label):
        metric = contents["tasks"][name]["metric"].replace("r2", "R²")
        interval = f"[{number(cell['low'])}, {number(cell['high'])}]"
        beside = [number(cell["majority"]), str(cell["n_test"]), str(cell["seeds"])]
        rows.append([name, condition, metric, named(cell), number(cell["score"]), interval, *beside])
    heads = ["task", "condition", "metric", "layer", "score", "95 % interval", "majority", "n", "seeds"]
    streamed = any("probe" in cell for _, _, cell in cells(contents, label))
    return Table(f"{READ} {STREAMED}" if streamed else READ, heads, rows, left=4)


def data(contents: Contents) -> list[str]:
    """Return a line for every source of tasks: where examples come from, under which licence, whom to cite."""
    tasks: dict[str, list[str]] = {}
    for task in contents["provenance"]["tasks"]:
        if task["name"] in contents["tasks"]:
            tasks.setdefault(_origin(task), []).append(task["name"])
    return [f"* {in_text(', '.join(names))}: {in_text(origin)}" for origin, names in tasks.items()]


def _origin(task: Mapping[str, Any]) -> str:
    place = _on_hub(task) or ("drawn scenes" if "scenes" in task["options"] else _files(task["source"]))
    said = {"revision": task["revision"], "licence": task["licence"] or "not stated", "cite": task["citation"]}
    return "; ".join([place, *(f"{key}: {value}" for key, value in said.items() if value)])


def _on_hub(task: Mapping[str, Any]) -> str:
    """Return the id of the data set of a task that is read from the hub; empty: it is not."""
    dataset = str(task["options"].get("dataset", ""))
    return "" if dataset.startswith((".", "/", "~")) else dataset


def _files(source: Sequence[Mapping[str, str]]) -> str:
    """Return the names of files, without the folders of whoever ran the study, and how their hashes begin."""
    named = [f"{Path(each['path']).name} (sha256 {each['sha256'][:12]})" for each in source]
    return ", ".join([*named[:3], *([f"{len(named) - 3} more"] if len(named) > 3 else [])])


def repeat(described: Mapping[str, Any]) -> list[str]:
    """Return the study file with what is not as it is by default, and the command."""
    file = parse(StudyFile, described["study"], "study.json")
    here = {"output", "store", "device", "batch_size"}
    settings = yaml.safe_dump(file.model_dump(mode="json", exclude_defaults=True, exclude=here), sort_keys=False)
    versions = ", ".join(f"{name} {version}" for name, version in described["packages"].items())
    fence = "`" * max(3, 1 + max((len(run) for run in settings.split() if set(run) == {"`"}), default=0))
    return [
        f"{fence}yaml", settings.rstrip("\n"), fence, "",
        "as `study.yaml`: `pip install vlprobe && vlprobe run study.yaml`.", "",
        f"Versions: Python {described['python']}, {versions}.",
    ]  # fmt: skip


def write_cards(contents: Contents, folder: Path) -> list[Path]:
    """Write one file for every model, in the study's order, and return them; numbers tell look-alikes apart."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for place, label in enumerate(contents["models"], start=1):
        plain = re.sub(r"[^\w.-]+", "-", label).strip("-")[:60]
        path = folder / f"{place:02d}-{plain}.md"
        path.write_text(card(contents, label), encoding="utf-8")
        written.append(path)
    return written
