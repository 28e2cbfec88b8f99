"""docs/add-a-model.md can be followed: its code is taken from the page and run on a checkpoint made on the spot."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

import test_encoders_conformance as conformance
import tiny_checkpoints as tiny
import vlprobe.encoders
from vlprobe import Study, load_model
from vlprobe.encoders import Family
from vlprobe.encoders.text import TextReader

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "add-a-model.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(?:python|yaml)\n# ([^\n]+)\n(.*?)```", PAGE, flags=re.DOTALL))
"""First line, a comment -> the rest of each block."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the page's files and a tiny T5, the current one."""
    for name in ("t5.py", "study.yaml", "parity.py"):
        (tmp_path / name).write_text(BLOCKS[name], encoding="utf-8")
    config = hf.T5Config(vocab_size=len(tiny.VOCABULARY) + 2, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2)
    torch.manual_seed(0)
    hf.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    tiny.save_wordpieces(tmp_path / "t5")
    hf.AutoTokenizer.from_pretrained(tmp_path / "t5").save_pretrained(tmp_path / "t5")  # as one file
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_study_of_the_page_runs(place):
    results = Study.from_file(place / "study.yaml", output=str(place / "results")).run()
    assert {result.layer for result in results if result.model == "t5" and not result.control} >= {
        "language.0",
        "language.3",
        "language.norm",
    }


def test_its_states_are_those_of_the_model(place):
    done = subprocess.run([sys.executable, "parity.py"], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    source = (place / "t5.py").read_text(encoding="utf-8")
    # The last block's output taken for the normed state: what the parity is there to see.
    (place / "t5.py").write_text(source.replace("output.last_hidden_state", "2 * output.last_hidden_state"))
    done = subprocess.run([sys.executable, "parity.py"], cwd=place, capture_output=True, text=True, check=False)
    assert "Tensor-likes are not close" in done.stderr


def test_the_row_keeps_the_promises_of_the_table(place, monkeypatch):
    own, start = BLOCKS["t5.py"], "    def __init__(self, weights"
    before, _, after = own.partition(start)
    lines = (
        "from vlprobe.encoders.loading import load_network",
        "from vlprobe.encoders.processors import load_tokenizer",
    )
    assert all(line in PAGE for line in lines)
    loading = "\n".join(lines) + "\n"
    rest = after[after.index("    def prepare") :]
    (place / "as_a_row.py").write_text(loading + before + BLOCKS["the row's __init__"] + "\n" + rest, encoding="utf-8")
    monkeypatch.syspath_prepend(place)
    row = eval(BLOCKS["the row"].replace("vlprobe.encoders.t5", "as_a_row"), {"Family": Family})  # noqa: S307
    monkeypatch.setitem(vlprobe.encoders.FAMILIES, "t5", row)
    model = load_model(f"t5:{place / 't5'}", device="cpu")
    for check in (
        conformance.test_the_table_says_what_the_class_says,
        conformance.test_every_layer_is_there_in_order_and_finite,
        conformance.test_neither_company_nor_order_changes_an_example,
        conformance.test_the_same_input_gives_the_same_numbers_to_the_bit,
    ):
        check(model)
    conformance.test_one_modality_alone_works_or_is_refused(model, "image")
    assert load_model({"model": f"t5:{place / 't5'}", "weights": "random"}, device="cpu").stage == "random"
    assert isinstance(model.reader, TextReader)
