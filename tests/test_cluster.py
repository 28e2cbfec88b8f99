"""The Slurm recipe of docs/cluster.md, run as it stands there by a stand-in for the scheduler."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from test_engines import OWN

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cluster.md"


def submit(script, folder, task, kill=False):
    """Run one task of an array; kill it once it has written something."""
    count = int(re.search(r"--array=1-(\d+)", script.read_text()).group(1))
    told = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": str(count)}
    running = subprocess.Popen(
        ["bash", str(script)], cwd=folder, env=os.environ | told, start_new_session=True, stdout=subprocess.PIPE
    )
    if kill:
        while running.poll() is None and not list(folder.rglob("*.tmp")) and not list(folder.rglob("*.safetensors")):
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    out, _ = running.communicate()
    return count, out.decode()


def test_the_slurm_recipe(tmp_path, monkeypatch):
    recipe = re.search(r"<!-- slurm -->\n```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    script = tmp_path / "job.sh"
    script.write_text(recipe)
    command = tmp_path / "bin" / "vlprobe"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vlprobe "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parents[1]))
    (tmp_path / "own.py").write_text(OWN.format(tests=str(Path(__file__).parent)))
    task = {"name": "color", "scenes": {"train": 1100, "test": 60}}
    model = {"name": "mine", "file": "own.py", "class": "Mine"}
    content = {"name": "s", "models": [model], "tasks": [task], "conditions": ["matched", "mismatched"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | {"store": "store"}))
    count, _ = submit(script, tmp_path, 1, kill=True)
    said = [submit(script, tmp_path, part)[1] for part in range(1, count + 1)]
    assert [line.split(":")[0] for line in said] == [f"shard {part}/{count}" for part in range(1, count + 1)]
    assert not (tmp_path / "results" / "s" / "results.jsonl").exists()
    done = subprocess.run([command, "plan", "study.yaml"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "forward passes: 0\n" in done.stdout
    subprocess.run([command, "run", "study.yaml"], cwd=tmp_path, capture_output=True, check=True)
    lines = (tmp_path / "results" / "s" / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["condition"] for line in lines} == {"matched", "mismatched"}
