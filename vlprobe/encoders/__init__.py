"""Whom we ask: the families of models, and `load_model`. Importing this loads neither torch nor transformers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from vlprobe.encoders.encoder import Encoder
from vlprobe.encoders.families import FAMILIES, Family
from vlprobe.errors import CheckpointError, StudyError, did_you_mean
from vlprobe.settings import Settings, parse, resolve_path

__all__ = ["FAMILIES", "Encoder", "Family", "ModelSettings", "load_model", "untrained_spec"]

NAMED = 6
"""Faults that an error names."""
CACHED = 2048
"""Positions of a batch on a processor: ViLT-base took 40 % longer with batches of 32 photographs (8,000 positions) than
with 8."""


class ModelSettings(Settings):
    """A model in a study: a checkpoint of a family (`model`), or an encoder of one's own (`file` and `class`)."""

    model: str | None = None
    """FAMILY:SOURCE or FAMILY:SOURCE@REVISION; SOURCE is a folder, package:NAME/FOLDER, a file as the authors released
    it (UNITER's .pt, LXMERT's .pth, ViLT's .ckpt, volta's .bin), a hub id, or the name of a model in timm or
    open_clip."""
    name: str | None = None
    """What tables call it; default: the last part of the source, or the file's name."""
    revision: str | None = None
    """Hub branch, tag or commit."""
    stage: str = "pretrained"
    """What the checkpoint was trained for; default: what its heads show (vqa, nlvr2, ...), else `pretrained`;
    `random` for random weights."""
    weights: Literal["checkpoint", "random"] = "checkpoint"
    """Whether its weights are read, or drawn from its configuration (an untrained control)."""
    seed: int = Field(default=0, ge=0)
    """Of the random weights."""
    tokenizer: str | None = None
    """Folder of the tokenizer, where the checkpoint brings none."""
    regions: str | dict[str, Any] | None = None
    """Where UNITER, VisualBERT, LXMERT and volta's models get their regions: a file of features, or a detector; see
    `open_regions`."""
    trust_remote_code: bool = False
    """Whether Python files of the checkpoint may be run."""
    bits: Literal[4, 8, 16] | None = None
    """What the weights of a large model are kept in: 16, bfloat16; 8 or 4, rounded when read, on an NVIDIA GPU."""
    spread: bool = False
    """Whether the blocks of a large model are spread over all GPUs of the machine."""
    file: str | None = None
    """Python file with an encoder of one's own."""
    kind: str | None = Field(default=None, alias="class")
    """Name of its class."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Given to its constructor; names of files become paths."""

    @model_validator(mode="after")
    def _one_kind(self) -> ModelSettings:
        if (self.model is None) == (self.file is None):
            raise ValueError("give either `model: FAMILY:SOURCE`, or `file` and `class` of an encoder of your own")
        if self.file is not None:
            ours = {"revision", "weights", "seed", "tokenizer", "regions", "trust_remote_code", "bits", "spread"}
            foreign = ours & self.model_fields_set
            if self.kind is None:
                raise ValueError("`file` needs `class`, the name of the encoder in it")
            if foreign:
                raise ValueError(
                    f"`{sorted(foreign)[0]}` does not go with `file`; give the class its `options` instead"
                )
        elif self.kind is not None or self.options:
            raise ValueError("`class` and `options` go with `file`, not with `model`")
        return self


def load_model(spec: str | Mapping[str, Any], *, folder: Path = Path(), device: str = "auto") -> Encoder:
    """Return the encoder that a study's `models` entry names, ready to encode.

    Args:
        spec: "FAMILY:SOURCE", "FAMILY:SOURCE@REVISION", or a mapping as in `ModelSettings`.
        folder: of the study file, where relative paths start.
        device: auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps. Encoders of one's own choose theirs.

    Raises:
        StudyError: the entry is wrong: unknown family, key, file or class, or a device that is not there.
        CheckpointError: the checkpoint is not there, cannot be read, is incomplete, or of another family.
    """
    settings = parse(ModelSettings, {"model": spec} if isinstance(spec, str) else spec, "models")
    settings = _out_of_the_zoo(settings, folder)
    if settings.file is not None:
        from vlprobe.encoders.own import load_own

        own = load_own(settings.file, settings.kind or "", settings.options, folder)
        own.name = settings.name or Path(settings.file).stem
        own.stage = settings.stage
        _refuse_unsound(own, f"{settings.file}, class {settings.kind}")
        return own
    family, source, revision = _split(settings.model or "", settings.revision, folder)

    row = FAMILIES[family]
    if row.regions != (settings.regions is not None):
        raise StudyError(_about_regions(family, row))
    if row.library and settings.tokenizer:
        raise StudyError(f"{row.library} brings its models' tokenizers; leave `tokenizer` out")
    if (settings.bits or settings.spread) and not row.large:
        able = ", ".join(name for name, other in FAMILIES.items() if other.large)
        raise StudyError(f"family {family} takes neither `bits` nor `spread`, which are for large models: {able}")

    from vlprobe.device import accelerator, pick_device
    from vlprobe.encoders.checkpoint import HALF, open_checkpoint

    target = pick_device(device)
    checkpoint = open_checkpoint(source, revision, family=family, families=FAMILIES, wanted=settings, folder=folder)
    arguments: list[Any] = [checkpoint, target]
    if settings.regions is not None:
        from vlprobe.regions import open_regions

        arguments.append(open_regions(settings.regions, folder=folder, device=str(target)))
    encoder: Encoder = getattr(importlib.import_module(row.module), row.kind)(*arguments)
    last = source.replace("/", "-") if row.library else source.rstrip("/").rpartition("/")[2]
    encoder.name = settings.name or (Path(last).stem if last.endswith(row.originals) else last)
    encoder.family = family
    if "stage" in settings.model_fields_set:
        encoder.stage = settings.stage
    if checkpoint.random:
        encoder.stage = "random"
    if target.type == "cpu":
        encoder.most = CACHED
    encoder.accelerator = accelerator(target)
    encoder.revision = encoder.revision or checkpoint.revision
    if settings.bits:
        said = "bfloat16" if settings.bits == HALF else f"rounded to {settings.bits} bits"
        encoder.usage = {**encoder.usage, "weights": said}
    _refuse_unsound(encoder, source)
    return encoder


def _refuse_unsound(encoder: Encoder, place: str) -> None:
    """Try an encoder on drawn inputs, see `self_check.faults`.

    Raises:
        CheckpointError: it does not keep what every encoder promises.
    """
    from vlprobe.encoders.self_check import faults

    with encoder.rehearsal():
        found = faults(encoder)
    if found:
        more = f"\n  and {len(found) - NAMED} more" if len(found) > NAMED else ""
        listed = "\n  ".join(found[:NAMED])
        raise CheckpointError(
            f"{place} failed the check at load, and what vlprobe would say of its layers could not be believed:\n"
            f"  {listed}{more}\nSee docs/add-a-model.md, 'What is checked'"
        )


def untrained_spec(spec: str | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what names the twin of a model that differs in its weights alone, drawn from seed 0; or why it has none.

    Args:
        spec: of the model, as for `load_model`.

    Returns:
        (spec of the twin, ""), or ({}, the reason).

    Raises:
        StudyError: the entry is wrong.
    """
    settings = parse(ModelSettings, {"model": spec} if isinstance(spec, str) else spec, "models")
    if settings.file is not None:
        return {}, "a class of your own says itself what its weights are; list one with random weights in `models`"
    if settings.weights == "random":
        return {}, "its weights are random anyway"
    if settings.bits or settings.spread:
        return {}, "random weights are drawn in full, on one device: they go with neither `bits` nor `spread`"
    return settings.model_dump(include=settings.model_fields_set) | {"weights": "random", "seed": 0}, ""


def _out_of_the_zoo(settings: ModelSettings, folder: Path) -> ModelSettings:
    """Return settings with `zoo:NAME` written out; what the study says itself goes before."""
    from vlprobe.encoders.zoo import PREFIX, zoo_settings

    if settings.model is None or not settings.model.startswith(PREFIX):
        return settings
    source = settings.model.removeprefix(PREFIX)
    said = {name: value for name, value in settings.model_dump(by_alias=True).items() if name in _given(settings)}
    return parse(ModelSettings, {"name": Path(source).name} | zoo_settings(source, folder) | said, "models")


def _given(settings: ModelSettings) -> set[str]:
    return settings.model_fields_set - {"model"}


def _about_regions(family: str, row: Family) -> str:
    if row.regions:
        return (
            f"family {family} reads region features of the image, and the model has no `regions`: name a file of "
            "features that a detector has left, or a detector that computes them, e.g. "
            f"{{model: {family}:..., regions: ./features.tsv}}"
        )
    readers = ", ".join(name for name, other in FAMILIES.items() if other.regions)
    return f"family {family} reads no region features; leave `regions` out (it is for {readers})"


def _split(model: str, revision: str | None, folder: Path) -> tuple[str, str, str | None]:
    """Take FAMILY:SOURCE@REVISION apart; an @ that is part of a folder's name stays with it."""
    family, colon, source = model.partition(":")
    if not colon or not source:
        raise StudyError(f"model '{model}' is not of the form FAMILY:SOURCE, e.g. bert:./my-checkpoint")
    if family not in FAMILIES:
        raise StudyError(f"model '{model}': there is no family '{family}'{did_you_mean(family, FAMILIES)}")
    before, at, after = source.rpartition("@")
    if not at or resolve_path(source, folder).exists():
        return family, source, revision
    if revision is not None and revision != after:
        raise StudyError(f"model '{model}' names revision '{after}', and its `revision` says '{revision}'; keep one")
    return family, before, after
