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

from audited import COMMANDS, TOLD, audited, lines, section  # noqa: E402

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


@pytest.mark.parametrize("title", COMMANDS)
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
