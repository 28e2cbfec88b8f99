"""The documentation says what the code does: generated parts, the README's Python, the file map."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from fill import PARTS, filled  # noqa: E402
from test_floors import FLOORS  # noqa: E402
from vlprobe.study_file import StudyFile  # noqa: E402

PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_parts_are_up_to_date(page):
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, f"{page.name} is behind the code: run `make docs`"


def test_every_generated_part_stands_somewhere():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in PARTS if f"<!-- {name} -->\n" not in text] == []


def test_the_file_map_is_the_floors():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- floors -->\n```\n(.*?)```", text, re.DOTALL).group(1)
    named = set(re.findall(r"\w+", " ".join(line[:57] for line in block.splitlines() if not line.startswith("  "))))
    rooms = {room for rooms in FLOORS for room in rooms} - {"__main__"}
    assert rooms <= named
    there = {path.name.removesuffix(".py") for path in (ROOT / "vlprobe").iterdir() if path.name != "__pycache__"}
    assert there - {"__main__"} <= rooms


def test_the_picture_of_the_scenes_is_up_to_date(tmp_path):
    subprocess.run([sys.executable, ROOT / "docs" / "picture.py", tmp_path / "scenes.jpg"], check=True)
    kept = ROOT / "docs" / "pictures" / "scenes.jpg"
    shown, made = (Image.open(path) for path in (kept, tmp_path / "scenes.jpg"))
    assert shown.size == made.size and kept.stat().st_size < 300_000
    # Libraries round differently: a pixel here and there may differ, a scene or a word may not.
    apart = np.abs(np.asarray(shown, dtype=float) - np.asarray(made, dtype=float)).max(axis=2)
    assert (apart > 40).mean() < 2e-4, "behind the code: run `python docs/picture.py`"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *PAGES]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_yaml_in_the_docs_is_valid():
    for page in [ROOT / "README.md", *PAGES]:
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            values = yaml.safe_load(block)
            assert set(values) <= set(StudyFile.model_fields) or values["apiVersion"] == "batch/v1"  # of Kubernetes


def test_the_readme_python_runs(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- python -->\n```python\n(.*?)```", text, re.DOTALL).group(1)
    assert len(code.strip().splitlines()) <= 11
    copy = tmp_path / "project"
    shutil.copytree(ROOT / "studies", copy / "studies", ignore=shutil.ignore_patterns("data"))
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'joint.4': (50, 80)" in done.stdout
    assert "Result(task=" in done.stdout


def test_the_solver_page_runs():
    text = (ROOT / "docs" / "solver.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- example -->\n```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for code in blocks]
    assert [each.returncode for each in done] == [0, 0], "".join(each.stderr for each in done)
    assert done[0].stdout.count("met: True") == 3 and "(1, 20) (500, 2)" in done[0].stdout
    assert float(done[1].stdout.split()[-1]) == pytest.approx(1.2, abs=0.1)
