"""Reading what users write: strict YAML, keys checked with "did you mean", paths."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vlprobe.errors import StudyError, did_you_mean


class Settings(BaseModel):
    """A section of a study file: unknown keys are errors, values are never guessed from another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


Section = TypeVar("Section", bound=Settings)


def parse(section: type[Section], values: Any, place: str) -> Section:
    """Check `values` against a section and return it.

    Args:
        section: the pydantic class.
        values: what the YAML holds there.
        place: for messages, e.g. `study.yaml, tasks[2]`.

    Raises:
        StudyError: with one line for every key that is unknown (and the nearest known one), missing or wrong.
    """
    if not isinstance(values, Mapping):
        raise StudyError(f"{place}: expected a mapping of keys to values, found {values!r}")
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(section, problem) for problem in error.errors()]
    raise StudyError("\n".join(f"{place}: {line}" for line in lines))


def _explain(section: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{where}'{did_you_mean(path[-1], _keys(section, path[:-1]))}"
    if problem["type"] == "missing":
        return f"key '{where}' is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}; found {problem['input']!r}" if where else message


def _keys(section: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        inner = section.model_fields.get(part)
        kind = inner.annotation if inner else None
        options = [kind, *getattr(kind, "__args__", ())]
        section = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), section)
    return [field.alias or name for name, field in section.model_fields.items()]


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader that refuses a key given twice, of which PyYAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int)) and key in seen:
                line = key_node.start_mark.line + 1
                raise StudyError(f"{node.start_mark.name}, line {line}: key '{key}' is given twice")
            if isinstance(key, (str, int)):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, executing nothing.

    Raises:
        StudyError: no such file, not UTF-8, not YAML, not a mapping, or a key given twice.
    """
    try:
        with path.open(encoding="utf-8") as file:
            loaded = yaml.load(file, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise StudyError(f"study file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"study file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise StudyError(f"study file {path} is not valid YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise StudyError(f"study file {path} must hold a mapping of keys to values, found {type(loaded).__name__}")
    return loaded


def resolve_path(text: str, folder: Path) -> Path:
    """Return the path that `text` means in a study file that lies in `folder`.

    `~` and `${VARIABLE}` are expanded; a relative path starts at the study file's folder;
    `package:NAME/FOLDER` is a folder of an installed Python package, which is not imported.

    Raises:
        StudyError: an environment variable or package that is not there.
    """
    if text.startswith("package:"):
        package, _, inside = text.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if re.fullmatch(r"\w+", package) else None
        if spec is None or not spec.submodule_search_locations:
            raise StudyError(f"{text}: no Python package '{package}' is installed; pip install it first")
        return Path(spec.submodule_search_locations[0]) / inside
    missing = [name for name in re.findall(r"\$\{(\w+)\}", text) if name not in os.environ]
    if missing:
        raise StudyError(f"{text}: the environment variable {missing[0]} is not set; export it, or write the path out")
    expanded = re.sub(r"\$\{(\w+)\}", lambda found: os.environ[found.group(1)], text)
    return Path(os.path.normpath(folder / Path(expanded).expanduser()))
