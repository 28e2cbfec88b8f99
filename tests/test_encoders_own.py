"""Encoders of one's own: any class in any file, and the one that the studies bring."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_checkpoints as tiny
from vlprobe.encoders import load_model
from vlprobe.errors import StudyError
from vlprobe.types import ROLES

SQUEEZENET = Path(__file__).resolve().parents[1] / "studies" / "encoders" / "squeezenet.py"

OWN = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np, torch
from vlprobe.encoders.encoder import Encoder
from vlprobe.types import Hidden

@dataclass
class Note:  # dataclasses look their module up in sys.modules
    text: "str"

class Lengths(Encoder):
    modalities = ("text",)
    layers = {"language.0": 1}
    def __init__(self, table, times=1):
        assert isinstance(table, Path) and table.is_absolute()
        self.times = float(table.read_text()) * times
    def encode(self, batch):
        states = torch.tensor([[[len(e.text) * self.times]] for e in batch])
        one, box = np.ones((len(batch), 1)), np.full((len(batch), 1, 4), np.nan)
        return [Hidden("language.0", states, one.astype("int8"), -one.astype("int32"), box)]

class Empty(Encoder):
    modalities = ("text",)

class NoLayers(Encoder):
    modalities = ("text",)
    def encode(self, batch):
        return []

class Other:
    pass
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "table.txt").write_text("2")
    return tmp_path


def load(study, **entry):
    return load_model({"file": "own.py", "class": "Lengths", "options": {"table": "table.txt"}} | entry, folder=study)


def test_a_class_from_a_file_with_a_path_among_its_options(study):
    model = load(study)
    assert (model.name, model.stage) == ("own", "pretrained")
    assert model.encode([tiny.example("0", "abc")])[0].states.item() == 6
    assert load(study, name="mine", stage="vqa").name == "mine"


def test_its_revision_is_file_class_and_options(study):
    first = load(study).revision
    assert load(study).revision == first
    seen = {first, load(study, options={"table": "table.txt", "times": 2}).revision}
    (study / "table.txt").write_text("3")
    seen.add(load(study).revision)
    (study / "own.py").write_text(OWN + "\n")
    seen.add(load(study).revision)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "none.py"}, "none.py does not exist"),
        ({"class": "Length"}, "has no class 'Length'; did you mean 'Lengths'?"),
        ({"class": "Other"}, "holds no encoder (a subclass of vlprobe.encoders.encoder.Encoder) 'Other'"),
        ({"class": "Empty", "options": {}}, "does not define encode"),
        ({"class": "NoLayers", "options": {}}, "does not state `layers`"),
        ({"options": {"tabel": "table.txt"}}, "its options do not fit: missing a required argument: 'table'; it takes"),
        (
            {"options": {"table": "tabel.txt"}},
            "tabel.txt, so that it was given the text 'tabel.txt'; did you mean 'tab",
        ),
        (
            {"options": {"table": "none/t.txt"}},
            "class Lengths: it cannot be made with its options: AssertionError; opt",
        ),
        ({"options": {"table": "table.txt", "times": [2]}}, "it cannot be made with its options: TypeError: can't mul"),
    ],
)
def test_mistakes_are_explained(study, entry, message):
    with pytest.raises(StudyError) as caught:
        load(study, **entry)
    assert message in str(caught.value)


def test_a_file_that_does_not_import(study):
    (study / "own.py").write_text("import no_such_module_at_all")
    with pytest.raises(StudyError, match=r"own.py cannot be imported: ModuleNotFoundError: .*no_such_module_at_all"):
        load(study)


def squeezenet():
    weights = tiny.shared("data", "weights", "squeezenet11_imagenet", "squeezenet_v1.1.safetensors")
    return load_model(
        {"name": "squeezenet", "file": str(SQUEEZENET), "class": "SqueezeNet", "options": {"weights": str(weights)}}
    )


# What is on the picture, by eye, and its place in the standard order of the 1000 ImageNet classes.
SEEN = {
    285: 294,  # a brown bear
    724: 919,  # a stop sign: "street sign"
    776: 850,  # teddy bears
    1818: 340,  # zebras
    2149: 948,  # a green apple: "Granny Smith"
    5477: 404,  # an airliner
    5503: 861,  # a toilet seat
    6012: 954,  # bananas
    7108: 386,  # African elephants
    9448: 879,  # an umbrella
}


def test_squeezenet_sees_what_is_there():
    images = tiny.shared("data", "coco128", "images")
    batch = [tiny.example(str(number), image=images / f"{number:012d}.jpg") for number in SEEN]
    assert squeezenet().classes(batch).argmax(1).tolist() == list(SEEN.values())


def test_squeezenet_keeps_the_promises_of_an_encoder():
    model = squeezenet()
    batch = [tiny.example(str(k), image=tiny.png(tiny.noise(60, 90 + k, k))) for k in range(3)]
    hidden = model.encode(batch)
    assert [one.layer for one in hidden] == list(model.layers)
    assert [one.states.shape[1] for one in hidden] == [56**2] * 3 + [28**2] * 2 + [14**2] * 4 + [1]
    for one in hidden:
        assert one.states.shape[2] == model.layers[one.layer]
        assert one.role.shape == one.word.shape == one.box.shape[:2] == one.states.shape[:2]
        assert (np.isnan(one.box).all(-1) == (one.role != ROLES.index("patch"))).all()
    for alone, one in zip(model.encode(batch[1:2]), hidden, strict=True):
        torch.testing.assert_close(alone.states[0], one.states[1], atol=1e-3, rtol=1e-5)  # activations reach 500
    last = hidden[-2].states
    torch.testing.assert_close(hidden[-1].states[:, 0], last.mean(1))


def test_squeezenet_boxes_follow_the_image():
    """Repaint a corner of the image, and the cells that move most lie in it."""
    image = tiny.noise(90, 120) // 2
    changed = image.copy()
    changed[60:, :40] = 250  # bottom left: a third of the width, a third of the height
    model = squeezenet()
    hidden = model.encode([tiny.example(str(k), image=tiny.png(array)) for k, array in enumerate((image, changed))])
    for one in hidden[:4]:
        gap = (one.states[0] - one.states[1]).norm(dim=1).numpy()
        x1, y1, x2, y2 = one.box[0].T
        inside = (x1 < 1 / 3 + 0.1) & (y2 > 2 / 3 - 0.1)
        assert gap[inside].sum() > 0.9 * gap.sum()
