"""Ten times the examples take about the same memory: what was computed is on disk, images are where they were."""

import csv
import io
import json
import subprocess
import sys
import tarfile
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from toys import colour_task
from vlprobe.encoders import load_model
from vlprobe.estimate import estimate
from vlprobe.study import Study

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
        return [Hidden(layer, states + k, role, word, box) for k, layer in enumerate(self.layers)]
"""
"""A model whose representations of ten thousand texts are 400 MB."""
CODE = """
import sys
from vlprobe.study import Study
table, folder = sys.argv[1:]
settings = {"models": [{"file": "own.py", "class": "Wide"}], "output": f"{folder}/output", "store": f"store-{table}"}
task = {"name": "t", "level": "language", "table": table}
study = Study.from_settings(folder, name="m", tasks=[task], **settings)
done = study.represent((1, 1)).inputs
"""
PEAK = """
from vlprobe.estimate import peak_memory
print(done, peak_memory() // 1024)
"""


def peak(code, *arguments):
    """Return the most memory that a process took, in kB, and how many inputs it ran."""
    run = [sys.executable, "-c", code + PEAK, *map(str, arguments)]
    out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    done, memory = map(int, out.stdout.split())
    return memory, done


def test_the_peak_of_a_process_is_its_own():
    held = bytearray(10**9)
    held[::4096] = b"x" * len(held[::4096])  # touched, so that it counts as the peak of this process
    memory, _ = peak("done = 0")
    assert memory < 400_000


def texts(count):
    draw = np.random.default_rng(0)
    for number in range(count):
        text = " ".join(draw.choice(WORDS, 12)) + f" {number}"
        split = ("test", "train")[number % 5 > 0]
        yield {"id": str(number), "text": text, "label": "ab"[number % 2], "split": split}


def as_jsonl(folder, count):
    (folder / f"{count}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts(count)))
    return f"{count}.jsonl"


def as_csv(folder, count):
    with (folder / f"{count}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ("id", "text", "label", "split"))
        table.writeheader()
        table.writerows(texts(count))
    return f"{count}.csv"


def as_table(folder, count):
    parquet.write_table(pa.Table.from_pylist(list(texts(count))), folder / f"{count}.parquet", row_group_size=2000)
    return f"{count}.parquet"


def test_ten_times_the_examples_take_the_memory_of_one(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    few, many = (peak(CODE, as_jsonl(tmp_path, count), tmp_path) for count in (1000, 10_000))
    assert (few[1], many[1]) == (1000, 10_000)
    assert many[0] < 1.1 * few[0]


PLAN = """
import sys
from pathlib import Path
from vlprobe.study import Study
folder, *tables = sys.argv[1:]
settings = {"models": [{"file": "own.py", "class": "Wide"}], "output": f"{folder}/output", "store": "none"}
peaks = []
for table in tables:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    task = {"name": "t", "level": "language", "table": table}
    done = Study.from_settings(folder, name="m", tasks=[task], **settings).plan().forward_passes
    lines = Path("/proc/self/status").read_text().splitlines()
    peaks.append(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
print(done, *peaks)
"""
SMALL = 250
"""Bytes of memory that an example may take while it is planned: it takes 130 to 180, and as an object 2,000."""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be set back")
@pytest.mark.parametrize("written", [as_csv, as_table])
def test_an_example_takes_little_memory_beyond_what_all_take(tmp_path, written):
    (tmp_path / "own.py").write_text(OWN)
    tables = [written(tmp_path, count) for count in (2000, 16_000, 46_000)]
    run = [sys.executable, "-c", PLAN, str(tmp_path), *tables]
    out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    done, _, few, many = map(int, out.stdout.split())
    assert done == 46_000
    assert (many - few) * 1024 / 30_000 < SMALL


LOOKS = """
import numpy as np, torch
from vlprobe import Encoder, Hidden, open_image

class Looks(Encoder):
    modalities = ("image",)
    layers = {"vision.0": 3}

    def encode(self, batch):
        seen = [np.asarray(open_image(e.image, e.place)).mean(axis=(0, 1), dtype=np.float32) for e in batch]
        role, word = np.ones((len(batch), 1), np.int8), np.full((len(batch), 1), -1, np.int32)
        box = np.full((len(batch), 1, 4), np.nan, np.float32)
        return [Hidden("vision.0", torch.from_numpy(np.stack(seen))[:, None], role, word, box)]
"""
SEEN = """
import sys
from vlprobe.study import Study
key, place, folder = sys.argv[1:]
settings = {"models": [{"file": "looks.py", "class": "Looks"}], "output": f"{folder}/output", "store": f"{place}-store"}
task = {"name": "t", "level": "vision", key: place, "columns": {"label": "cls"}}
task |= {"streaming": True} if key == "dataset" else {}
done = Study.from_settings(folder, name="m", tasks=[task], **settings).represent((1, 1)).inputs
"""


def photographs(count):
    """Yield images of 360 kB that nothing compresses; three hundred are a third of what Python and torch take."""
    draw = np.random.default_rng(0)
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(file, "PNG", compress_level=0)
        yield file.getvalue()


def as_shards(folder, count):
    with tarfile.open(folder / f"{count}.tar", "w") as archive:
        for number, image in enumerate(photographs(count)):
            for name, content in (f"{number}.png", image), (f"{number}.cls", b"ab"[number % 2 :][:1]):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return "shards", f"{count}.tar"


def as_parquet(folder, count):
    """One row group, and a page of the column every ten rows: it is by pages that the table is read."""
    rows = [
        {"image": {"bytes": image, "path": None}, "cls": "ab"[number % 2]}
        for number, image in enumerate(photographs(count))
    ]
    parquet.write_table(pa.Table.from_pylist(rows), folder / f"{count}.parquet", write_batch_size=10)
    return "table", f"{count}.parquet"


def as_stream(folder, count):
    place = folder / f"photos-{count}"
    place.mkdir()
    _, file = as_parquet(folder, count)
    (folder / file).rename(place / "train.parquet")
    return "dataset", f"./{place.name}"


@pytest.mark.parametrize("written", [as_shards, as_parquet, as_stream])
def test_ten_times_the_images_take_the_memory_of_one(tmp_path, written):
    (tmp_path / "looks.py").write_text(LOOKS)
    few, many = (peak(SEEN, *written(tmp_path, count), tmp_path) for count in (30, 300))
    assert (few[1], many[1]) == (30, 300)
    assert many[0] < 1.1 * few[0]


READ = """
import sys
from vlprobe.tasks import load_task
spec = {"name": "t", "level": "vision", "columns": {"label": "cls"}, sys.argv[1]: sys.argv[2]}
spec |= {"streaming": True} if sys.argv[1] == "dataset" else {}
done = sum(map(len, load_task(spec).splits.values()))
"""


@pytest.mark.parametrize("key", ["table", "dataset"])
def test_parquet_as_it_is_mostly_written_takes_three_pages_whatever_its_row_group(tmp_path, key):
    """One row group; pages of 1,024 rows, as pyarrow writes values of any size, and its dictionary is one more."""
    draw, found = np.random.default_rng(0), []
    images = [draw.bytes(6000) for _ in range(2200)]
    for count in (2200, 22_000):
        table = pa.table({"image": images * (count // 2200), "cls": ["a", "b"] * (count // 2)})
        (tmp_path / str(count)).mkdir()
        parquet.write_table(table, tmp_path / str(count) / "train.parquet", row_group_size=count)
        file = tmp_path / str(count)
        found.append(peak(READ, key, file if key == "dataset" else file / "train.parquet"))
    (few, less), (many, more) = found
    assert (less, more) == (2200, 22_000)
    assert many < 1.1 * few


def test_no_two_models_are_in_memory_at_once(tmp_path, monkeypatch, one_thread):
    """Neither while a study is planned, nor while it is tried, nor while it runs; twins with random weights counted."""
    networks, loads = [], []

    def watched(spec, **settings):
        assert not [each for each in networks if each() is not None], spec
        encoder = load_model(spec, **settings)
        inside = [each for each in vars(encoder).values() if isinstance(each, torch.nn.Module)]
        assert inside
        networks[:] = map(weakref.ref, [encoder, *inside])
        loads.append(spec)
        return encoder

    monkeypatch.setattr("vlprobe.encoders.load_model", watched)
    task = {"name": "position", "scenes": {"train": 40, "test": 20}}
    settings = {"name": "s", "tasks": [task], "models": ["zoo:bert", "zoo:vit"], "controls": ["random-init"]}
    opened = Study.from_settings(tmp_path, **settings, output=str(tmp_path / "out"), store="features", device="cpu")
    plan = opened.plan()
    assert len(loads) == 4 and plan.forward_passes
    tried = [each.tried for each in estimate(plan, opened.file, opened.load)]
    assert len(tried) == 4 and min(tried) >= 16
    assert len(loads) == 4 + 4
    results = opened.run()
    assert {result.model for result in results if result.control == "random-init"} == {"bert", "vit"}
    assert len(loads) == 4 + 4 + 4
    opened.plan()
    assert len(loads) == 4 + 4 + 4  # what is known of a model is kept; and nothing of its network:
    opened.load("bert")
    assert [each() for each in networks] != [None] * len(networks)


def test_one_model_is_loaded_once_for_plan_and_run(tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr("vlprobe.encoders.load_model", lambda spec, **_: (loads.append(spec), load_model(spec, **_))[1])
    (tmp_path / "own.py").write_text("from toys import Toy\n\n\nclass Mine(Toy):\n    pass\n")
    models = [{"file": "own.py", "class": "Mine"}]
    opened = Study.from_settings(tmp_path, name="s", tasks=["z"], models=models, output=str(tmp_path), store="features")
    opened._tasks = [colour_task(60)]
    opened.run()
    assert len(loads) == 1
