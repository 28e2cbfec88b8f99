"""Representations of ten times the examples take about the same memory: what was computed is on disk, not held."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

WORDS = "a dog sits on the mat two cats sit by red chairs".split()
OWN = """
import numpy as np, torch
from vlprobe import Encoder, Hidden

class Wide(Encoder):
    modalities = ("text",)
    layers = {f"language.{k}": 768 for k in range(13)}

    def encode(self, batch):
        states = torch.tensor([float(len(example.text)) for example in batch])[:, None, None].expand(-1, 1, 768)
        role, word = np.ones((len(batch), 1), np.int8), np.full((len(batch), 1), -1, np.int32)
        box = np.full((len(batch), 1, 4), np.nan, np.float32)
        return [Hidden(layer, states, role, word, box) for layer in self.layers]
"""
"""A model whose representations of ten thousand texts are 400 MB."""
CODE = """
import resource, sys
from vlprobe.study import Study
count, folder = sys.argv[1:]
settings = {"models": [{"file": "own.py", "class": "Wide"}], "output": f"{folder}/output", "store": f"store-{count}"}
task = {"name": "t", "level": "language", "table": f"{count}.jsonl"}
study = Study.from_settings(folder, name="m", tasks=[task], **settings)
done = study.represent((1, 1))
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder, count):
    draw = np.random.default_rng(0)
    with (folder / f"{count}.jsonl").open("w") as file:
        for number in range(count):
            text = " ".join(draw.choice(WORDS, 12)) + f" {number}"
            row = {
                "id": str(number),
                "text": text,
                "label": "ab"[number % 2],
                "split": ("test", "train")[number % 5 > 0],
            }
            file.write(json.dumps(row) + "\n")
    run = [sys.executable, "-c", CODE, str(count), str(folder)]
    out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    done, memory = map(int, out.stdout.split())
    assert done == count
    return memory


def test_ten_times_the_examples_take_the_memory_of_one(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    few, many = (peak(tmp_path, count) for count in (1000, 10_000))
    assert many < 1.1 * few
