"""Snippets for model cards: the hub's own library reads what they say, and it is what the results say."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from test_findings import Planted
from test_report_tables import NASTY, described
from typer.testing import CliRunner

from test_study import study
from toys import Toy, colour_task
from vlprobe.cli import app
from vlprobe.errors import DataError
from vlprobe.report.contents import read_contents
from vlprobe.report.summary import summarise
from vlprobe.results import read_results
from vlprobe.settings import parse
from vlprobe.sharing.card import card
from vlprobe.study_file import StudyFile


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    models = [Toy(), Toy("viewer", ("image",))]
    tasks = [colour_task(), colour_task(seed=1, level="vision")]
    object.__setattr__(tasks[1], "name", "colour-too")
    study(place, models, tasks, conditions=["matched", "mismatched"], controls=["majority"], limit=60).run()
    return place


def test_the_hub_reads_every_score(folder):
    summary = summarise(read_results(folder))
    done = CliRunner().invoke(app, ["card", str(folder)])
    paths = done.output.split()
    assert [path.rsplit("/", 1)[1] for path in paths] == ["01-toy-pretrained.md", "02-viewer-pretrained.md"]
    for path, name in zip(paths, ("toy", "viewer"), strict=True):
        data = ModelCard.load(path).data
        assert data.model_name == name
        told = [
            (each.dataset_name, each.metric_name, each.metric_type, each.metric_value) for each in data.eval_results
        ]
        expected = []
        for task in ("colour", "colour-too"):
            for condition, cell in summary[task]["rows"][f"{name} (pretrained)"].items():
                bounds = f"{cell['low']:.3f} to {cell['high']:.3f}"
                said = f"{task}, {condition}: accuracy at {cell['layer']}, 95 % interval {bounds}"
                expected.append((task, said, "accuracy", round(cell["score"], 4)))
        assert told == expected and len(told) == 3
        assert {each.task_type for each in data.eval_results} == {"feature-extraction"}


def test_two_tasks_on_one_data_set_of_the_hub_lose_no_score(folder):
    contents = read_contents(folder)
    for task in contents["provenance"]["tasks"]:
        task |= {"options": {"dataset": "owner/data"}, "revision": "c0ffee"}
    results = ModelCard(card(contents, "toy (pretrained)")).data.eval_results
    assert len({each.metric_name for each in results}) == 3
    assert {(each.dataset_type, each.dataset_revision) for each in results} == {("owner/data", "c0ffee")}
    for task in contents["provenance"]["tasks"]:
        task["options"] = {"dataset": "./folder"}
    assert {each.dataset_type for each in ModelCard(card(contents, "toy (pretrained)")).data.eval_results} == {
        "colour", "colour-too",
    }  # fmt: skip


def test_the_study_in_a_card_is_the_study(folder):
    contents = read_contents(folder)
    text = card(contents, "toy (pretrained)")
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))
    assert {"output", "store"} & set(settings) == set()
    told, made = (parse(StudyFile, each, "x") for each in (contents["provenance"]["study"], settings))
    assert told.model_copy(update={"output": None, "store": None}) == made
    assert "vlprobe run study.yaml" in text and f"Python {contents['provenance']['python']}, vlprobe" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| colour | matched |")]
    cell = contents["tasks"]["colour"]["rows"]["toy (pretrained)"]["matched"]
    assert line.split(" | ")[3:5] == [cell["layer"], f"{cell['score']:.3f}"]


def test_only_a_models_own_findings_stand_in_its_card(tmp_path):
    planted = (
        Planted(tmp_path).model(0.9, 0.25, "looker").model(0.9, 0.9, "reader").model(0.9, 0.25, "reader", stage="vqa")
    )
    contents = described(planted, models=["x:y"], tasks=["z"], layers="all")
    looks, reads = (card(contents, f"{name} (pretrained)") for name in ("looker", "reader"))
    assert "looker takes it from the image" in looks and "reader" not in looks.partition("### To repeat it")[0]
    assert "reader takes it from the text" in reads and "looker" not in reads.partition("### To repeat it")[0]
    assert len(list(ModelCard(reads).data.eval_results)) == 2


def test_a_streaming_probe_stands_in_the_table_and_not_in_the_metadata(tmp_path):
    plant = Planted(tmp_path).model(0.9, 0.25)
    plant.put(0.25, task="more", control="majority", layer="", probe="").put(0.7, task="more", probe="streaming-lda")
    contents = described(plant, models=["x:y"], tasks=["z"], layers="all")
    text = card(contents, "m (pretrained)")
    assert "| more | matched | accuracy | joint.1, streaming-lda | 0.700 |" in text
    assert "They are not the linear probe" in text
    assert {each.dataset_name for each in ModelCard(text).data.eval_results} == {"colour"}
    plain = described(Planted(tmp_path / "plain").model(0.9, 0.25), models=["x:y"], tasks=["z"], layers="all")
    assert "streaming" not in card(plain, "m (pretrained)")


def test_names_are_shown_as_they_are(tmp_path):
    described(Planted(tmp_path).model(0.9, 0.25), models=["x:y"], tasks=["z"], layers="all")
    for path in tmp_path.glob("*.json*"):
        text = path.read_text().replace('"model": "m"', f'"model": {json.dumps(NASTY)}')
        path.write_text(text.replace('"name": "m"', f'"name": {json.dumps(NASTY)}'))
    contents = read_contents(tmp_path)
    text = card(contents, f"{NASTY} (pretrained)")
    assert ModelCard(text).data.model_name == NASTY
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    CliRunner().invoke(app, ["card", str(tmp_path), "--output", str(tmp_path / "out")])
    assert [path.parent.name for path in (tmp_path / "out").iterdir()] == ["out"]


def test_a_folder_without_results_has_no_cards(tmp_path):
    done = CliRunner().invoke(app, ["card", str(tmp_path)])
    assert isinstance(done.exception, DataError) and "no study.json" in str(done.exception)
