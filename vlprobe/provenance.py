"""Where results come from: the resolved study, versions, revisions, hashes, and what was left out."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from vlprobe.plan import Plan
from vlprobe.results import DIGITS
from vlprobe.study_file import StudyFile
from vlprobe.types import Source, Task

if TYPE_CHECKING:
    from vlprobe.encoders.encoder import Profile

PACKAGES = ("vlprobe", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn", "pillow")


@dataclass(frozen=True)
class DescribedModel:
    """A model of a study."""

    name: str
    """As the study calls it."""
    family: str
    """Its row in the table of families; of an encoder of one's own, its class."""
    stage: str
    """What the checkpoint was trained for."""
    revision: str
    """Hub commit, or sha256 of the checkpoint's files."""
    usage: Mapping[str, str]
    """How the checkpoint is used where its files leave that open, as the `prompt` of a generative model."""
    layers: Mapping[str, int]
    """Layer address -> width."""
    left_out: tuple[str, ...]
    """Weights of the checkpoint that are not used (heads), and layers that it does not bring (pooler)."""


@dataclass(frozen=True)
class DescribedTask:
    """A task of a study."""

    name: str
    """As the study calls it."""
    level: str
    """`language`, `vision` or `multimodal`: which side carries the target."""
    unit: str
    """`input`, `word` or `region`: what one target belongs to."""
    classes: tuple[str, ...]
    """Class names, sorted; none: the targets are numbers."""
    examples: Mapping[str, int]
    """Split of the data -> examples, before `limit` and the cut."""
    options: Mapping[str, Any]
    """What the study said about it, resolved."""
    source: tuple[Source, ...]
    """The files it was read from."""
    revision: str
    """Hub commit of the data set, where it has one."""
    licence: str
    """As its publisher states it; empty: not stated."""
    citation: str
    """The paper to cite."""


@dataclass(frozen=True)
class Provenance:
    """What `study.json` holds."""

    study: StudyFile
    """Every key of the study file, resolved."""
    command: tuple[str, ...]
    """As it was given."""
    python: str
    """Version."""
    platform: str
    """Operating system and machine."""
    packages: Mapping[str, str]
    """Package -> version."""
    models: tuple[DescribedModel, ...]
    """In the study's order."""
    untrained: tuple[DescribedModel, ...]
    """The models with random weights that stand beside them, where they were asked for."""
    tasks: tuple[DescribedTask, ...]
    """In the study's order."""
    asked: tuple[str, ...]
    """Start of the key of every result that the study asks for, 16 digits; other results of the folder are of an
    earlier version of the study file or of its data."""
    images: Mapping[str, str]
    """Image file -> sha256, of all that models were shown."""
    not_done: tuple[str, ...]
    """A line for what cannot be asked, and why."""
    skipped_rows: tuple[str, ...]
    """A line for every row that was left out, and why."""
    computed_again: tuple[str, ...] = ()
    """A line for every result that was lost or damaged, and made again by this run."""


def describe(
    study: StudyFile, models: Sequence[Profile], tasks: Sequence[Task], plan: Plan, untrained: Sequence[Profile] = ()
) -> dict[str, Any]:
    """Return the content of `study.json`, plain enough for JSON."""
    told = Provenance(
        study=study,
        command=("vlprobe", *sys.argv[1:]),
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: _version(name) for name in PACKAGES},
        models=tuple(map(_model, models)),
        untrained=tuple(map(_model, untrained)),
        tasks=tuple(map(_task, tasks)),
        asked=tuple(key[:DIGITS] for key in plan.asked),
        images=dict(plan.images),
        not_done=plan.notes,
        skipped_rows=plan.skipped,
        computed_again=plan.damaged if plan.forward_passes else (),
    )
    return asdict(told) | {"study": study.model_dump(mode="json")}


def _model(model: Profile) -> DescribedModel:
    return DescribedModel(
        name=model.name,
        family=model.family,
        stage=model.stage,
        revision=model.revision,
        usage=dict(model.usage),
        layers=dict(model.layers),
        left_out=tuple(model.left_out),
    )


def _task(task: Task) -> DescribedTask:
    return DescribedTask(
        name=task.name,
        level=task.level,
        unit=task.unit,
        classes=task.classes,
        examples={name: len(examples) for name, examples in task.splits.items()},
        options={key: _plain(value) for key, value in task.options.items()},
        source=task.source,
        revision=task.revision,
        licence=task.licence,
        citation=task.citation,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else str(value)
