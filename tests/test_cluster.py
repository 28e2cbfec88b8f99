"""The Slurm recipe of docs/cluster.md, run as it stands there by a stand-in for the scheduler."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from test_engines import OWN

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cluster.md"


SCARCE = """
import vlprobe.estimate, vlprobe.plan, vlprobe.streams
vlprobe.estimate.free_space = lambda folder: 10**6
vlprobe.plan.Plan.feature_bytes = 10**9
vlprobe.streams.BUCKET = 200
"""
"""Beside a model, in every process: the disk does not hold the representations, and there are five buckets of them."""
WRITTEN = ("*.tmp", "*.safetensors", "*.npz")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a function: a folder with the script of the page, `vlprobe`, and a study of a model and what it adds."""
    recipe = re.search(r"<!-- slurm -->\n```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    command = tmp_path / "bin" / "vlprobe"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vlprobe "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parents[1]))

    def made(name, more=""):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "job.sh").write_text(recipe)
        (folder / "own.py").write_text(more + OWN.format(tests=str(Path(__file__).parent)))
        task = {"name": "color", "scenes": {"train": 1100, "test": 60}}
        model = {"name": "mine", "file": "own.py", "class": "Mine"}
        content = {"name": "s", "models": [model], "tasks": [task], "conditions": ["matched", "mismatched"]}
        (folder / "study.yaml").write_text(yaml.safe_dump(content | {"store": "store"}))
        return folder

    return made


def call(folder, *what):
    return subprocess.run(
        ["vlprobe", *what, "study.yaml"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def results_of(folder):
    return sorted((folder / "results" / "s" / "results.jsonl").read_text().splitlines())


def submit(folder, task, kill=False):
    """Run one task of an array; kill it once it has written something."""
    script = folder / "job.sh"
    count = int(re.search(r"--array=1-(\d+)", script.read_text()).group(1))
    told = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": str(count)}
    running = subprocess.Popen(
        ["bash", str(script)], cwd=folder, env=os.environ | told, start_new_session=True, stdout=subprocess.PIPE
    )
    if kill:
        while running.poll() is None and not any(list(folder.rglob(name)) for name in WRITTEN):
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    out, _ = running.communicate()
    return count, out.decode()


def test_the_slurm_recipe(place):
    folder = place("kept")
    count, _ = submit(folder, 1, kill=True)
    said = [submit(folder, part)[1] for part in range(1, count + 1)]
    assert [line.split(":")[0] for line in said] == [f"shard {part}/{count}" for part in range(1, count + 1)]
    assert not (folder / "results" / "s" / "results.jsonl").exists()
    assert "forward passes: 0\n" in call(folder, "plan")
    call(folder, "run")
    assert {json.loads(line)["condition"] for line in results_of(folder)} == {"matched", "mismatched"}


def test_the_slurm_recipe_where_probes_stream(place):
    """One task is killed and one runs twice; the array is submitted as often as the page says."""
    whole = place("whole", SCARCE)
    call(whole, "run")
    folder = place("array", SCARCE)
    script = folder / "job.sh"
    script.write_text(script.read_text().replace("--array=1-4", "--array=1-2"))
    submit(folder, 1, kill=True)
    said = [submit(folder, part)[1] for part in (2, 2, 1, 2)]  # task 2 is ahead, and comes again for validation
    assert "waiting: mine, train: " in said[0] and said[1].startswith("shard 2/2: 0 inputs run")
    assert ["waiting: mine, validation: " in each for each in said] == [False, False, True, False]
    assert "waiting: mine, test: 3 of 5 buckets are not there yet" in said[3]
    assert not (folder / "results" / "s" / "results.jsonl").exists()
    call(folder, "run")
    assert results_of(folder) == results_of(whole)
    assert "streaming-lda" in {json.loads(line)["probe"] for line in results_of(folder)}
