"""docs/audit.md says of published data what the code finds in them; skipped where the data are absent."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

import vlprobe.audit

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT / "docs"))

from audited import COMMANDS, TAGGED, TOLD, audited, lines, section  # noqa: E402

from vlprobe.audit import CHECKS  # noqa: E402
from vlprobe.audit.subject import look_at  # noqa: E402
from vlprobe.tasks import load_task  # noqa: E402


@pytest.fixture
def project(tmp_path):
    """A copy of the studies beside the data, with the tables that they name."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"the published data are absent: {SHARED / 'data'}")
    root = tmp_path / "project"
    shutil.copytree(ROOT / "studies", root / "studies", ignore=shutil.ignore_patterns("data"))
    (tmp_path / "shared").symlink_to(SHARED)
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "studies" / "prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    prepare.write(prepare.nlvr1(SHARED / "data" / "nlvr1" / "dev"), root / "studies" / "data" / "nlvr1.jsonl")
    prepare.write(prepare.coco128(SHARED / "data" / "coco128"), root / "studies" / "data" / "coco128.jsonl")
    return root


@pytest.mark.parametrize("title", [title for title in COMMANDS if title != TAGGED])
def test_the_page_says_what_the_code_finds(project, monkeypatch, title):
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    if title != "UD English-EWT":
        assert section(title, COMMANDS[title], lines(audited(COMMANDS[title], project))) in page
        return
    # A quarter of a million words: what they tell takes a minute to find out, and is checked on the other data.
    fewer = {name: check for name, check in vlprobe.audit.CHECKS.items() if name != "words"}
    monkeypatch.setattr(vlprobe.audit, "CHECKS", fewer)
    found = lines(audited(COMMANDS[title], project))
    told = [line for line in page.splitlines() if line.startswith("| pos-ewt |")]
    assert [line for line in told if line.split(" | ")[2] not in TOLD] == found


def test_more_than_half_of_the_test_rows_of_adversarial_caption_leak(project):
    """108 of 200, as tests/test_tasks_salin2022.py counts them from the files."""
    (said,) = audited("adversarial-caption", project)
    by_kind = {tuple(fault.figures["kinds"]): fault for fault in said.faults if fault.check == "shared"}
    assert by_kind[("group",)].count == 108
    assert len(by_kind[("group",)].cases) == 108
    leaking = [fault for fault in said.faults if fault.check == "words" and fault.figures["misleads"]]
    assert [fault.statement.startswith("with the train rows") for fault in leaking] == [True]


@pytest.mark.usefixtures("project")
def test_what_is_known_of_the_masks_of_color():
    task = load_task("color", data={"salin2022": str(SHARED / "data" / "salin2022")})
    counts = {fault.figures["kind"]: fault.count for fault in CHECKS["masks"](look_at(task))}
    texts = (SHARED / "data/salin2022/datasets/flickr_3000_colors.csv").read_text(encoding="utf-8").split("\n")[1:]
    shown = [line.split("|")[2] for line in texts if line.strip()]
    assert counts["doubled"] == sum(text.count("[MASK]") > 1 for text in shown)
    glued = [text for text in shown if any("[MASK]" in word and word != "[MASK]" for word in text.split())]
    assert counts["inside"] + counts.get("beside", 0) == len(glued)


def test_captions_are_tagged_by_a_probe_for_the_task_that_asks_for_tags(project, tmp_path):
    """On some sentences of each part: most tags are right, and each word of a caption has its own."""
    spec = importlib.util.spec_from_file_location("tag_captions", ROOT / "studies" / "tag_captions.py")
    tagging = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tagging)
    for path, separator, count in (
        *((f"ud_ewt/en_ewt-ud-{part}.conllu", "\n\n", 900) for part in ("train.rebuilt", "dev")),
        ("ud_ewt/en_ewt-ud-test.conllu", "\n\n", 60),
        ("salin2022/datasets/flickr_3000.csv", "\n", 31),
    ):
        lines = (SHARED / "data" / path).read_text(encoding="utf-8").split(separator)[:count]
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(separator.join(lines) + separator, encoding="utf-8")
    (tmp_path / "salin2022" / "split").mkdir()
    tags = tmp_path / "tags.conllu"
    assert tagging.main(tmp_path, tags) > 0.6
    task = load_task({"name": "pos-tagging", "tags": str(tags)}, data={"salin2022": str(tmp_path / "salin2022")})
    examples = [example for part in task.splits for example in task.load(part)]
    assert len(examples) == 30
    first = next(example for example in examples if "snowboarder" in example.text)
    assert [first.text[start:end] for start, end in first.words][:3] == ["A", "snowboarder", "in"]
    assert first.target[:3] == ("DT", "NN", "IN")
