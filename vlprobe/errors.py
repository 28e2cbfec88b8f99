"""What vlprobe says when something is wrong: the thing, the place and the cure."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class VlprobeError(Exception):
    """An error meant for the user: its text says what was asked, what is wrong and what to do.

    The command line prints it without a traceback. Notes added while it rises
    (`add_note`) say which task, model and example were being worked on.
    """

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {note}" for note in getattr(self, "__notes__", []))])

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a worker's error reach the process that it works for, with its notes, whatever its arguments were."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[VlprobeError], said: tuple[Any, ...], known: dict[str, Any]) -> VlprobeError:
    error = kind.__new__(kind, *said)
    error.__dict__.update(known)
    return error


class StudyError(VlprobeError):
    """The study file, or an option of the command line, asks for something that is not there."""


class DataError(VlprobeError):
    """A data file as a whole cannot be used: missing, unreadable, no such column, one class only."""


class BadRow(VlprobeError):
    """One row of a data file cannot be used; `bad_rows: skip` drops and counts such rows.

    Args:
        place: the file and the row, e.g. `captions.csv, row 17`.
        problem: what is wrong with it, and what to do where that is not obvious.
    """

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place = place
        self.problem = problem


class CheckpointError(VlprobeError):
    """A checkpoint cannot be read, lacks weights that the probed layers use, or is of another model."""


def unwritable(what: str, place: Path, error: Exception, another: str) -> DataError:
    """Return what a user is told where results of any kind cannot be kept: the disk is full, or closed to them.

    Args:
        what: could not be written.
        place: where to.
        error: why.
        another: how to name another folder.
    """
    return DataError(
        f"{what} cannot be written to {place} ({error}); what is finished is kept. Make room, or name another folder "
        f"with {another}"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the names nearest to `name`, else the list of all known names."""
    options = sorted(known)
    near = get_close_matches(name.lower(), [option.lower() for option in options], n=3, cutoff=0.6)
    if near:
        originals = [option for wanted in near for option in options if option.lower() == wanted]
        return "; did you mean " + " or ".join(f"'{option}'" for option in dict.fromkeys(originals)) + "?"
    return "; known: " + ", ".join(options) if options else "; none is known"


def many(count: int, what: str) -> str:
    """Return `1 train row`, `2 train rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
