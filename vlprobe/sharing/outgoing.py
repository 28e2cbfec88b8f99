"""What leaves this machine for the hub: made from a results folder, file by file, nothing that is not named here.

No images, no captions: predictions hold ids and labels; lines about rows that were left out quote texts and stay here,
and a report, which may show examples, is never among the files.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from vlprobe.errors import DataError
from vlprobe.findings import FILE, RELIANCE_FILE, read_findings, read_reliance
from vlprobe.predictions import PACKED
from vlprobe.results import Results, of_study, write_result
from vlprobe.similarity.alike import FILE as SIMILARITY_FILE

Outgoing = dict[str, bytes | Path]
"""Path in the repository -> what the file holds, or the file that is sent as it is."""

JSON = (FILE, RELIANCE_FILE, SIMILARITY_FILE)
"""Files that are sent as they are; runs of earlier versions have no similarity."""

TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
"""How the hub's tokens look."""


def outgoing(folder: Path, temporary: Path) -> Outgoing:
    """Return the files of a results folder, the results of the study alone and no others.

    Args:
        folder: the results.
        temporary: where predictions are packed until they are sent.

    Raises:
        DataError: there are no results; findings are missing; something looks like a token of the hub.
    """
    results = Results(folder)
    described = results.description()
    chosen = of_study(results.all(), described)
    if not chosen:
        raise DataError(f"{folder}: there is no result of the study yet; run it first")
    read_findings(folder), read_reliance(folder)  # what cannot be read is not sent
    lines = "".join(write_result(result) + "\n" for result in chosen)
    texts = {
        "results.jsonl": lines,
        "study.json": json.dumps(_described(folder, described), indent=2, ensure_ascii=False) + "\n",
        **{name: (folder / name).read_text(encoding="utf-8") for name in JSON if (folder / name).exists()},
    }
    files: Outgoing = {name: text_of(name, text) for name, text in texts.items()}
    return files | {PACKED: _pack(results, sorted({result.key for result in chosen}), temporary / PACKED)}


def _pack(results: Results, keys: Sequence[str], path: Path) -> Path:
    """Write the predictions of some results into one file, the same bytes whenever it is written."""
    with zipfile.ZipFile(path, "w") as packed:  # not compressed once more
        for key in keys:
            packed.writestr(zipfile.ZipInfo(f"{key}.npz"), results.files.packed(key))
    return path


def _described(folder: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return `study.json` without what quotes texts."""
    whole = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    count = len(described["skipped_rows"])
    return whole | {"skipped_rows": [f"{count} rows were left out; which ones is not told here"] if count else []}


def text_of(name: str, text: str) -> bytes:
    """Return what a text file holds when it is sent: the user's home folder is written `~`.

    Raises:
        DataError: it holds a token.
    """
    for home in {str(Path.home()), str(Path.home().resolve())} - {"/"}:
        text = re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
    if TOKEN.search(text) or ((token := get_token()) and token in text):
        raise DataError(f"{name} holds what looks like a token of the hub; nothing was sent: take it out of the study")
    return text.encode("utf-8")
