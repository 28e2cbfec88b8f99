"""Checkpoints: finding one on disk or on the hub, and naming its content."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import transformers
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from vlprobe.digest import digest, file_digest
from vlprobe.errors import CheckpointError, StudyError
from vlprobe.settings import resolve_path

if TYPE_CHECKING:
    from vlprobe.encoders import Family, ModelSettings

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "tokenizer.model",
)
PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""In transformers' order of preference; each may be an index of parts instead."""
HALF = 16
"""Bits of weights that are kept in bfloat16, see `narrow`: on any device, by no library."""
CONFIG_FILES = ("config.json", "model.json", "../log/model.json")
"""Where a released file's configuration may lie; UNITER's training code wrote `log/model.json` beside `ckpt/`."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a configuration and, unless the weights are random, weights; or a released file."""

    source: str
    """As the study names it, for messages."""
    folder: Path
    """Where its files are."""
    tokenizer: Path
    """Folder of its tokenizer: the same one unless the study names another."""
    model_type: str
    """Of its config.json: `bert`, `vit`, ..."""
    revision: str
    """Hub commit, or sha256 over its files."""
    random: bool = False
    """Weights are drawn from the configuration instead of read."""
    seed: int = 0
    """Of the random weights."""
    trust_remote_code: bool = False
    """Whether Python files of the checkpoint may be run."""
    file: Path | None = None
    """The released file that holds its weights and sizes; None: `folder` is in transformers' layout."""
    config: Path | None = None
    """The configuration beside a released file, where there is one."""
    bits: int | None = None
    """What its weights are kept in: 4 or 8, rounded as they are read; `HALF`; None: float32."""
    spread: bool = False
    """Whether its blocks are spread over all GPUs of the machine."""


def open_checkpoint(
    source: str,
    revision: str | None,
    *,
    family: str,
    families: Mapping[str, Family],
    wanted: ModelSettings,
    folder: Path,
) -> Checkpoint:
    """Find a checkpoint on disk or on the hub, and check that it is of the family.

    Args:
        source: a folder, a file as the authors released it, `package:NAME/FOLDER`, or a hub id.
        revision: hub branch, tag or commit.
        family: the one asked for.
        families: the table that it stands in.
        wanted: the study's entry: random weights, a tokenizer from elsewhere, whether code may be run.
        folder: where relative paths start.

    Raises:
        CheckpointError: it is not there, not readable, or of another family.
        StudyError: a revision of a local folder, or a path with an unknown variable or package.
    """
    if families[family].library:
        from vlprobe.encoders.elsewhere import checkpoint_by_name

        drawn = wanted.weights == "random"
        return checkpoint_by_name(source, revision, families[family].library, random=drawn, seed=wanted.seed)
    random, code, row = wanted.weights == "random", wanted.trust_remote_code, families[family]
    local = local_place(source, folder, row.originals)
    if local is not None and revision is not None:
        raise StudyError(f"{source} is a local folder, which has no revision '{revision}'; leave `revision` out")
    if local is None and not row.hub:
        raise CheckpointError(
            f"{source}: there is no such file or folder, and {family} was not published on the hub; name the released "
            f"file, e.g. {family}:./checkpoints/{family}{row.originals[0]}"
        )
    found = local if local is not None else download(source, revision, weights=not random, code=code)
    file = released_file(found, source, row)
    place = found.parent if found.is_file() else found
    if file is None and not row.hub and not random:
        raise CheckpointError(f"{source}: {place} holds no {' or '.join(row.originals)} file; name the released file")
    words = resolve_path(wanted.tokenizer, folder) if wanted.tokenizer else place
    if not words.is_dir():
        raise CheckpointError(f"tokenizer folder {words} does not exist; check the model's `tokenizer`")
    own = file is not None or not row.hub
    config = next(iter(named(place, CONFIG_FILES)), None) if own else place / "config.json"
    model_type = _model_type(source, config, families, family, optional=own)
    if local is None and not random:
        known = place.name  # a hub snapshot's folder is named by its commit
    else:
        files = [*named(place, (*PREPROCESSOR_FILES, *TOKENIZER_FILES)), *([config] if config else [])]
        files += [*place.glob("*.py")] if code else []
        # A released file says the sizes, so that random weights depend on it too.
        files += [file] if file else [] if random else weight_files(place, source)
        known = fingerprint(files, f"random {wanted.seed}" if random else "")
    if words != place:
        known = digest(known, fingerprint(named(words, TOKENIZER_FILES)))
    own_config = config if own else None
    return Checkpoint(
        *(source, place, words, model_type, known, random, wanted.seed, code, file, own_config),
        bits=wanted.bits,
        spread=wanted.spread,
    )


def local_place(source: str, folder: Path, originals: Sequence[str] = ()) -> Path | None:
    """Return the folder or released file that `source` means, or None where it can only be a hub id.

    Args:
        source: as the study names it.
        folder: where relative paths start.
        originals: suffixes of the files that the family's authors released.

    Raises:
        CheckpointError: it looks like a path, but there is nothing; or a file of another kind.
    """
    like_path = source.startswith((".", "/", "~", "$", "package:")) or source.count("/") > 1 or "\\" in source
    path = resolve_path(source, folder)
    if path.is_dir() or (path.is_file() and path.suffix in originals):
        return path
    if path.is_file():
        released = f", or a released {' or '.join(originals)} file" if originals else ""
        raise CheckpointError(
            f"{path} is a file; name the folder that holds config.json, weights and tokenizer{released}"
        )
    if like_path or (originals and path.suffix in originals):
        raise CheckpointError(
            f"checkpoint {path} does not exist; check the path (relative ones start at {folder.resolve()})"
        )
    return None


def released_file(place: Path, source: str, row: Family) -> Path | None:
    """Return the released file at `place`; None where a folder is in transformers' layout, or holds no weights.

    Raises:
        CheckpointError: the folder holds several.
    """
    if place.is_file():
        return place
    if row.hub and named(place, [*WEIGHT_FILES, *(f"{name}.index.json" for name in WEIGHT_FILES)]):
        return None
    files = sorted(file for file in place.iterdir() if file.suffix in row.originals and file.is_file())
    if len(files) > 1:
        raise CheckpointError(
            f"{source}: {place} holds {len(files)} checkpoints ({', '.join(file.name for file in files[:3])}); "
            "name the file that is meant"
        )
    return files[0] if files else None


def download(source: str, revision: str | None, *, weights: bool, code: bool) -> Path:
    """Return the folder of a hub repository's snapshot, fetching what is not in the cache.

    Its name is the commit. Weights are fetched as safetensors, or as PyTorch files where there are none.

    Raises:
        CheckpointError: no such repository or revision, or no connection and not in the cache.
    """
    patterns = ["*.json", "*.txt", "*.model", *(["*.safetensors"] if weights else []), *(["*.py"] if code else [])]
    options: dict[str, Any] = {"revision": revision, "ignore_patterns": ["*/*"]}
    try:
        with quiet():
            place = Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns, **options))
            if weights and not any(place.glob("*.safetensors")):
                huggingface_hub.snapshot_download(source, allow_patterns=["pytorch_model*"], **options)
    except (OSError, ValueError) as error:
        at = f" at revision '{revision}'" if revision else ""
        raise CheckpointError(
            f"{source}: there is no folder of this name, and the hub repository{at} could not be had: "
            f"{first_line(error)}. Check the name; without a connection, fetch it beforehand (hf download {source}) "
            "or name a local folder (./...)"
        ) from error
    return place


def fingerprint(files: Sequence[Path], extra: str = "") -> str:
    """Return the sha256 over names and contents of `files`, sorted by name, and `extra`."""
    return digest(extra, sorted((file.name, file_digest(file)) for file in set(files)))


def weight_files(folder: Path, source: str) -> list[Path]:
    """Return the files that hold a folder's weights, in transformers' order of preference.

    Raises:
        CheckpointError: none, or a part of several is missing.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = sorted({str(part) for part in _json(index, source).get("weight_map", {}).values()})
            missing = [part for part in parts if not (folder / part).is_file()]
            if missing or not parts:
                raise CheckpointError(
                    f"{source}: {index.name} names {missing or 'no parts'}, not in {folder}; fetch it again"
                )
            return [index, *(folder / part for part in parts)]
    raise CheckpointError(
        f"{source}: {folder} holds no weights (model.safetensors or pytorch_model.bin); "
        "fetch them, or say `weights: random` for an untrained model"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and progress bars of the libraries off the screen; what matters is raised or in `left_out`."""
    log, hub_log = transformers.utils.logging, logging.getLogger("huggingface_hub")
    level, hub_level = log.get_verbosity(), hub_log.level
    bars, hub_bars = log.is_progress_bar_enabled(), not are_progress_bars_disabled()
    log.set_verbosity(logging.CRITICAL)
    hub_log.setLevel(logging.CRITICAL)
    log.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        hub_log.setLevel(hub_level)
        if bars:
            log.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


def first_line(error: BaseException) -> str:
    """Return an error's kind and the first line of its text; two where the first announces the second."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1]).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def named(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return those files of `names` that are in `folder`."""
    return [folder / name for name in names if (folder / name).is_file()]


def _json(path: Path, source: str) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{source}: {path} does not exist; it is needed to know what the checkpoint is") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source}: {path} cannot be read: {first_line(error)}; fetch it again") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{source}: {path} holds a {type(loaded).__name__}, not an object; fetch it again")
    return loaded


def _model_type(
    source: str, config: Path | None, families: Mapping[str, Family], family: str, *, optional: bool
) -> str:
    """Return the model_type of a configuration, refusing one of another family.

    Args:
        source: as the study names it.
        config: the file; None: there is none.
        families: the table of families.
        family: the one asked for.
        optional: whether the configuration may be absent or silent, as those of released files are.
    """
    types = families[family].types
    stated = _json(config, source).get("model_type") if config else None
    if stated in types or (stated is None and optional):
        return str(stated or types[0])
    if stated is None:
        add = (
            f"add one of {', '.join(types)} if it is that model"
            if types
            else "add the one that transformers knows it by"
        )
        raise CheckpointError(f"{source}: its config.json states no model_type; {add}")
    right = next((name for name, row in families.items() if stated in row.types), None)
    if right is None and not types:
        return str(stated)
    reads = ", ".join(types) or "what no other family does"
    cure = f"load it as {right}:{source}" if right else f"try auto:{source}, which says what it assumes"
    raise CheckpointError(
        f"{source} is a checkpoint of model type '{stated}', and family {family} reads {reads}; {cure}"
    )
