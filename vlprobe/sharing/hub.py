"""A study's results, and where asked for its features, as a data set on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, DatasetCardData, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from vlprobe import __version__
from vlprobe.errors import StudyError, VlprobeError
from vlprobe.predictions import PACKED
from vlprobe.report.contents import read_contents
from vlprobe.report.tables import in_text, main_table, markdown
from vlprobe.settings import parse
from vlprobe.sharing.card import data, repeat
from vlprobe.sharing.features import INDEX, write_features
from vlprobe.sharing.outgoing import Outgoing, outgoing, text_of
from vlprobe.study import Study
from vlprobe.study_file import StudyFile

NO_ANSWER: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, RuntimeError, ValueError)
"""What the hub's library raises: over answers of the hub, and, by the base of those, over a connection that there is
not, whichever httpx it stands on; RuntimeError over a file that did not arrive; ValueError over names."""

COMMIT = 100
"""Files of a commit, as the hub recommends."""

FILES = {
    "results.jsonl": "one score a line, with everything that it depends on",
    "study.json": "the resolved study, versions, revisions, hashes",
    "findings.json": "what the scores come to, a sentence a test",
    "reliance.json": "what every layer loses without the image, or the text",
    "similarity.json": "how alike all layers of all models represent each task's items",
    PACKED: "what the probe of each result answered, `KEY.npz`: ids of examples, labels, answers",
    INDEX: "where the features of every model, task, condition and layer are",
    "features/*/LAYER.parquet": "one layer's features: id, unit, group, label, part, vector",
}


def push(folder: Path, repo_id: str, *, public: bool, features: Path | None, say: Callable[[str], None]) -> str:
    """Send a results folder to a data set on the hub, and return its address.

    Args:
        folder: the results.
        repo_id: `OWNER/NAME`; made, private unless `public`, where it is not there.
        public: whether everybody may see it.
        features: a study file, from whose folder models and data are found: send the features, too.
        say: told of every file before anything is sent.

    Raises:
        StudyError: the repository is public, and `public` was not said.
        VlprobeError: the hub refuses, or cannot be reached; see also `outgoing` and `write_features`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        files = gather(folder, features, Path(temporary))
        for line in listed(files):
            say(line)
        api = HfApi(library_name="vlprobe", library_version=__version__)
        try:
            _prepare(api, repo_id, public, say)
            added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=held) for name, held in files.items()]
            message = f"Results of a study with vlprobe {__version__}"
            for start in range(0, len(added), COMMIT):
                api.create_commit(repo_id, added[start : start + COMMIT], commit_message=message, repo_type="dataset")
        except NO_ANSWER as error:
            why = ": ".join(dict.fromkeys(str(each).strip() for each in (error, error.__cause__) if each))
            raise VlprobeError(
                f"{repo_id}: the hub could not take the results: {why}\n"
                "Check the name (OWNER/NAME), log in (`hf auth login`, or HF_TOKEN) with a token that may write, and "
                "push again; what was sent is not sent again"
            ) from error
    return f"{api.endpoint}/datasets/{repo_id}"


def _prepare(api: HfApi, repo_id: str, public: bool, say: Callable[[str], None]) -> None:
    """Make the repository, or see that it is not more public than was said."""
    try:
        private = api.repo_info(repo_id, repo_type="dataset").private
    except RepositoryNotFoundError:
        api.create_repo(repo_id, repo_type="dataset", private=not public)
        return
    if not private and not public:
        raise StudyError(
            f"{repo_id} is there, and everybody can see it: say --public if that is meant, or name another"
        )
    if private and public:
        say(f"{repo_id} is there and private; it stays private until its settings on the hub say otherwise")


def gather(folder: Path, features: Path | None, temporary: Path) -> Outgoing:
    """Return all that is sent: the results, the features where they are asked for, and the card.

    Args:
        folder: the results.
        features: a study file, or None.
        temporary: where files are made that are sent.
    """
    contents = read_contents(folder)
    files = outgoing(folder, temporary)
    if features is not None:
        settings = {**contents["provenance"]["study"], "output": str(folder.resolve())}
        study = Study(parse(StudyFile, settings, "study.json"), features.resolve().parent)
        files |= {name: temporary / name for name in write_features(study, temporary)}
        files[INDEX] = text_of(INDEX, (temporary / INDEX).read_text(encoding="utf-8"))
    return {**files, "README.md": text_of("README.md", dataset_card(contents, INDEX in files))}


def listed(files: Outgoing) -> list[str]:
    """Return a line for every kind of file, with how many there are and their size."""
    sizes: dict[str, list[int]] = {}
    for name, held in files.items():
        top = name if "/" not in name or name == INDEX else f"{name.partition('/')[0]}/*{Path(name).suffix}"
        sizes.setdefault(top, []).append(held.stat().st_size if isinstance(held, Path) else len(held))
    return [f"  {name}: {len(each):,} files, {sum(each) / 1e6:.3g} MB" for name, each in sizes.items()]


def dataset_card(contents: Mapping[str, Any], with_features: bool) -> str:
    """Return the `README.md` of the data set: what is in it, where it comes from, how to read and repeat it."""
    described = contents["provenance"]
    configs = [{"config_name": "results", "data_files": "results.jsonl", "default": True}]
    if with_features:
        configs.append({"config_name": "features-index", "data_files": INDEX})
    head = DatasetCardData(pretty_name=f"{contents['name']}: vlprobe", tags=["vlprobe", "probing"], configs=configs)
    models = [
        f"* {in_text(model['name'])} ({in_text(model['stage'])}): revision {in_text(model['revision'])}"
        for model in described["models"]
    ]
    findings = [f"* {in_text(finding['text'])}" for finding in contents["findings"]] or ["* None."]
    there = [f"| `{name}` | {text} |" for name, text in FILES.items() if with_features or "features" not in name]
    lacking = [f"The study was not finished: {len(contents['lacking'])} of its scores are lacking.", ""]
    return "\n".join(
        [
            "---", head.to_yaml().rstrip("\n"), "---", "",
            f"# {contents['name']}: what models know, by layer", "",
            "Linear probes on every layer of vision-language models, made with vlprobe.", "",
            *(lacking if contents["lacking"] else []),
            "| file | |", "|---|---|", *there, "",
            '`datasets.load_dataset(REPO_ID, "results")` reads the scores. `huggingface_hub.snapshot_download(REPO_ID, '
            'repo_type="dataset")` brings a results folder that `vlprobe report` and `vlprobe compare` take.', "",
            "## Scores", "", markdown(main_table(contents)),
            "## Findings", "", *findings, "",
            "## Models", "", *models, "",
            "## Data", "", "Images and texts are not part of this data set; ids and labels come from:", "",
            *data(contents), "",
            "## To repeat it", "", *repeat(described), "",
        ]
    )  # fmt: skip
