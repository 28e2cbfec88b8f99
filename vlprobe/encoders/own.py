"""A user's own encoder: a class in a Python file beside the study."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vlprobe.digest import digest, file_digest
from vlprobe.encoders.encoder import Encoder
from vlprobe.errors import StudyError, VlprobeError, did_you_mean
from vlprobe.settings import resolve_path


def load_own(file: str, kind: str, options: Mapping[str, Any], folder: Path) -> Encoder:
    """Return an encoder of a class that the user wrote; this runs the user's file.

    A text among the options that names an existing file, relative to the study's folder, reaches the constructor as
    a resolved path, and the file's content counts in the revision. (A folder does not: name its files.)

    Args:
        file: the Python file.
        kind: name of the class in it, a subclass of `vlprobe.encoders.encoder.Encoder`.
        options: given to its constructor by name.
        folder: where relative paths start.

    Raises:
        StudyError: no such file or class, it is not an `Encoder`, or it does not take these options.
    """
    path = resolve_path(file, folder)
    if not path.is_file():
        raise StudyError(f"encoder file {path} does not exist; check the model's `file`")
    module = _run(path)
    known = {name: found for name, found in vars(module).items() if _is_encoder(found)}
    found = vars(module).get(kind)
    if kind not in known:
        what = "has no class" if found is None else "holds no encoder (a subclass of vlprobe.encoders.encoder.Encoder)"
        raise StudyError(f"{path} {what} '{kind}'{did_you_mean(kind, known)}")
    resolved = {name: _path_or_value(value, folder) for name, value in options.items()}
    encoder = _construct(path, known[kind], resolved, folder)
    encoder.revision = _revision(path, kind, resolved)
    return encoder


def _run(path: Path) -> ModuleType:
    """Import a file under a name of its own, so that two files called `encoder.py` do not meet."""
    name = f"vlprobe_own_{file_digest(path)[:16]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StudyError(f"encoder file {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except VlprobeError:
        raise
    except Exception as error:  # whatever the user's file raises is an error of that file
        del sys.modules[name]
        raise StudyError(f"encoder file {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _is_encoder(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Encoder) and found is not Encoder


def _path_or_value(value: Any, folder: Path) -> Any:
    """Return the path of the file that a text names, or the value as it is."""
    if not isinstance(value, str) or not value or "\0" in value or "\n" in value:
        return value
    path = resolve_path(value, folder)
    try:
        return path if path.is_file() else value
    except OSError:  # a text too long for a file name is none
        return value


def _construct(path: Path, kind: type[Encoder], options: Mapping[str, Any], folder: Path) -> Encoder:
    place = f"{path}, class {kind.__name__}"
    abstract: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    if abstract:
        raise StudyError(f"{place}: it does not define {', '.join(sorted(abstract))}, which every encoder needs")
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        takes = ", ".join(inspect.signature(kind).parameters) or "none"
        raise StudyError(f"{place}: its options do not fit: {error}; it takes {takes}") from None
    try:
        encoder = kind(**options)
    except VlprobeError:
        raise
    except Exception as error:  # whatever the user's class raises is an error of that class, or of what it was given
        told = ": ".join(filter(None, (type(error).__name__, str(error))))
        raise StudyError(f"{place}: it cannot be made with its options: {told}{_no_files(options, folder)}") from error
    for name, form in (("modalities", "('image',)"), ("layers", "{'vision.0': 64}")):
        if not getattr(encoder, name, None):
            raise StudyError(f"{place}: it does not state `{name}`, e.g. {name} = {form}")
    return encoder


def _no_files(options: Mapping[str, Any], folder: Path) -> str:
    """Say which options look like names of files and are none, and so were handed on as texts."""
    told = ""
    for name, value in options.items():
        if isinstance(value, str) and "\n" not in value and ("/" in value or Path(value).suffix):
            path = resolve_path(value, folder)
            beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
            told += f"; option {name}: there is no file {path}, so that it was given the text '{value}'"
            near = did_you_mean(path.name, beside)
            told += near if near.startswith("; did") else ""  # not all that lies there
    return told


def _revision(path: Path, kind: str, options: Mapping[str, Any]) -> str:
    """Return the sha256 over the Python file, the class, the files among the options, and the other options."""
    content = {
        name: {"sha256": file_digest(value)} if isinstance(value, Path) else repr(value)
        for name, value in options.items()
    }
    return digest(file_digest(path), kind, content)
