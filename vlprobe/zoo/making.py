"""Making one model of the zoo: its network, its scenes, its training, its folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from vlprobe.digest import generator
from vlprobe.errors import StudyError, did_you_mean
from vlprobe.scenes.scene import sample
from vlprobe.zoo.cards import write_card
from vlprobe.zoo.corpus import DEVIATION, HELD_OUT, MEAN, TRAIN, Corpus, detected, drawn
from vlprobe.zoo.detector import train_detector
from vlprobe.zoo.learners import (
    JointLearner,
    Nlvr2Learner,
    PictureLearner,
    TextLearner,
    VqaLearner,
    whiten,
)
from vlprobe.zoo.networks import LONGEST, PATCH, SIDE, TRANSFORMER, Joint, Lxmert, Uniter, Vilt
from vlprobe.zoo.recipes import RECIPES, Recipe
from vlprobe.zoo.training import Learner, Progress, Schedule, train
from vlprobe.zoo.words import write_tokenizer

SCENES = {TRAIN: 8000, HELD_OUT: 1000}
"""Scenes of the zoo's worlds; captions and questions are new in every batch."""
BATCH = 64
WHITENED = 1000
"""Scenes from whose patches ViT's first weights are computed."""
LAYERS = 4
CROSSING = (2, 1, 2)
"""LXMERT's language, region and cross layers."""
STAGES = ([24, 48, 96], [1, 1, 1])
"""ResNet's channels and blocks by stage."""
BODIES = {"bert": "bert", "vit": "vit", "resnet": "resnet", "uniter": "uniter", "lxmert": "lxmert", "vilt": "vilt"}
"""Family -> what its encoder's weights are called in files."""
VIT_NAMES = {
    r"^layers\.": "encoder.layer.",
    r"attention\.q_proj": "attention.attention.query",
    r"attention\.k_proj": "attention.attention.key",
    r"attention\.v_proj": "attention.attention.value",
    r"attention\.o_proj": "attention.output.dense",
    r"mlp\.fc1": "intermediate.dense",
    r"mlp\.fc2": "output.dense",
}
"""Part of a name in transformers' ViT -> in its ViLT."""
HEADS = {
    "bert": {"words": "cls.predictions"},
    "vit": {"classifier": "classifier", "cells": "cell_classifier"},
    "resnet": {"classifier": "classifier", "cells": "cell_classifier"},
    "uniter": {"words": "cls", "matching": "itm_output", "regions": "region_classifier", "answers": "vqa_output",
               "truth": "nlvr2_output"},
    "lxmert": {"words": "cls.predictions", "matching": "cls.seq_relationship", "regions": "obj_predict_head",
               "answers": "answer_head.logit_fc", "truth": "logit_fc"},
    "vilt": {"words": "mlm_score", "matching": "itm_score", "cells": "cell_classifier", "answers": "classifier",
             "truth": "classifier"},
}  # fmt: skip
"""Family -> our heads' names -> what the family's own files call such a head."""
DETECTOR = "detector"
DONE = "zoo.json"
"""Written last: a folder that holds it is whole."""


@dataclass(frozen=True)
class Making:
    """What the making of a model depends on."""

    name: str
    """Key of `RECIPES`."""
    folder: Path
    """Where the zoo's folders are; this model's is inside."""
    seed: int
    """Of weights, scenes and batches."""
    progress: Progress
    """Told how it goes."""

    @property
    def recipe(self) -> Recipe:
        """Its row."""
        return RECIPES[self.name]

    @property
    def place(self) -> Path:
        """Its folder."""
        return self.folder / self.name

    def done(self, name: str) -> bool:
        """Whether a model is there, whole, and of this seed and recipe."""
        file = self.folder / name / DONE
        return file.exists() and json.loads(file.read_text(encoding="utf-8"))["made_from"] == self._made_from(name)

    def _made_from(self, name: str) -> list[Any]:
        recipe = RECIPES[name]
        schedule = [recipe.steps, recipe.rate, recipe.masked]
        return [self.seed, recipe.family, recipe.teaching, *schedule, recipe.start, SCENES[TRAIN]]


def make(making: Making) -> None:
    """Train a model and write its folder, or do nothing where it is there.

    Raises:
        StudyError: there is no such model, or one that it needs is not in the folder.
    """
    if making.name not in RECIPES:
        raise StudyError(f"the zoo has no model '{making.name}'{did_you_mean(making.name, RECIPES)}")
    if making.done(making.name):
        making.progress(f"{making.name}: there already")
        return
    recipe = making.recipe
    needed = [recipe.start] * bool(recipe.start) + [DETECTOR] * (recipe.family in ("uniter", "lxmert"))
    for name in needed:
        if not making.done(name):
            raise StudyError(f"{making.name} starts from {name}, which is not in {making.folder}; train it first")
    making.place.mkdir(parents=True, exist_ok=True)
    if recipe.family == DETECTOR:
        figures = train_detector(making.place, making.seed, making.progress)
        shutil.rmtree(making.place / "training", ignore_errors=True)
    else:
        learner = _learner(making)
        schedule = Schedule(recipe.steps, BATCH, recipe.rate)
        figures = train(learner, schedule, making.seed, making.place, making.progress)
        _write(making, learner)
        figures |= learner.held_out()
    said = {
        "family": recipe.family,
        "stage": recipe.stage,
        "made_from": making._made_from(making.name),
        "figures": {name: round(float(value), 4) for name, value in figures.items()},
    }
    if recipe.family in ("uniter", "lxmert"):
        said["regions"] = {"detector": f"../{DETECTOR}", "conventions": "hf"}
    write_card(making.place, making.name, recipe, said)
    (making.place / DONE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _learner(making: Making) -> Learner:
    """Return the network of a recipe with its heads, from the weights that it starts from."""
    recipe = making.recipe
    torch.manual_seed(int(generator(making.seed, "zoo", "weights", making.name).integers(2**62)))
    train_scenes, test_scenes = (_corpus(making, world) for world in (TRAIN, HELD_OUT))
    if recipe.teaching == "words":
        return TextLearner(LAYERS, TRANSFORMER, train_scenes, test_scenes)
    if recipe.teaching == "kinds":
        return _picture_learner(recipe.family, train_scenes, test_scenes)
    cased, net = recipe.family == "uniter", _joint(recipe.family, train_scenes)
    if recipe.teaching in ("pairs", "shuffled pairs"):
        shuffled = recipe.teaching == "shuffled pairs"
        learner: Learner = JointLearner(net, cased, train_scenes, test_scenes, shuffled, recipe.masked)
    else:
        kind = VqaLearner if recipe.teaching == "questions" else Nlvr2Learner
        learner = kind(net, cased, train_scenes, test_scenes)
    if recipe.start:
        _start(net, making.folder / recipe.start / "model.safetensors", recipe)
    return learner


def _corpus(making: Making, world: str) -> Corpus:
    family = making.recipe.family
    scenes = [sample(making.seed, world, number) for number in range(SCENES[world])]
    if family in ("uniter", "lxmert"):
        return detected(scenes, making.folder / DETECTOR, making.folder / "regions" / f"{world}.safetensors")
    return Corpus(scenes) if family == "bert" else drawn(scenes)


def _picture_learner(family: str, train_scenes: Corpus, test_scenes: Corpus) -> PictureLearner:
    if family == "vit":
        settings: dict[str, Any] = {
            name: value for name, value in TRANSFORMER.items() if "vocab" not in name and "position" not in name
        }
        config = transformers.ViTConfig(
            **settings, num_hidden_layers=LAYERS, image_size=SIDE, patch_size=PATCH, layer_norm_eps=1e-6
        )
        body = transformers.ViTModel(config, add_pooling_layer=False)
        pixels = train_scenes.images(np.arange(min(WHITENED, len(train_scenes.scenes)))).pixels
        assert pixels is not None  # noqa: S101
        whiten(body.embeddings.patch_embeddings.projection, pixels)
        return PictureLearner(body, config.hidden_size, SIDE // PATCH, train_scenes, test_scenes)
    channels, blocks = STAGES
    resnet = transformers.ResNetConfig(
        embedding_size=channels[0], hidden_sizes=channels, depths=blocks, layer_type="basic"
    )
    return PictureLearner(transformers.ResNetModel(resnet), channels[-1], SIDE // 16, train_scenes, test_scenes)


def _joint(family: str, scenes: Corpus) -> Joint:
    if family == "vilt":
        return Vilt(LAYERS)
    assert scenes.features is not None  # noqa: S101
    width = scenes.features.shape[2]
    return Uniter(width, LAYERS) if family == "uniter" else Lxmert(width, CROSSING)


def _start(net: Joint, file: Path, recipe: Recipe) -> None:
    """Give a network the weights of the model it starts from; what that one has not stays random."""
    start = f"{BODIES[RECIPES[recipe.start].family]}."
    known = {
        name.removeprefix(start): value.float() for name, value in load_file(file).items() if name.startswith(start)
    }
    own = net.body.state_dict()
    if RECIPES[recipe.start].family == "vit":
        known = {_as_in_vilt(name): value for name, value in known.items()}
    taken = {name: value for name, value in known.items() if name in own and own[name].shape == value.shape}
    net.body.load_state_dict({**own, **taken})


def _as_in_vilt(name: str) -> str:
    """Return ViLT's name of one of ViT's weights, as transformers calls them."""
    for ours, theirs in VIT_NAMES.items():
        name = re.sub(ours, theirs, name)
    return name


def _write(making: Making, learner: Learner) -> None:
    """Write weights, configuration, tokenizer and preprocessor; the learner goes on with the weights as written.

    Half precision: a held-out score is that of what stands in the file.
    """
    place, family = making.place, making.recipe.family
    body: Any = getattr(learner, "net", learner).body
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.copy_(parameter.half().float())
    tensors = {f"{BODIES[family]}.{name}": value for name, value in body.state_dict().items()}
    for ours, theirs in HEADS[family].items():
        head = getattr(learner, ours, None)
        tensors |= {f"{theirs}.{name}": value for name, value in (head.state_dict() if head else {}).items()}
    halves = {
        name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in tensors.items()
    }
    save_file(halves, place / "model.safetensors", metadata={"format": "pt"})
    config = body.config.to_dict() | {"model_type": family}
    kept = {name: config[name] for name in sorted(config) if config[name] != PLAIN.get(name)}
    (place / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    if family in ("bert", "uniter", "lxmert", "vilt"):
        write_tokenizer(place, family == "uniter", LONGEST)
    if family in ("vit", "resnet", "vilt"):
        said = {
            "image_processor_type": "ViltImageProcessor" if family == "vilt" else "ViTImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": SIDE} if family == "vilt" else {"height": SIDE, "width": SIDE},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [MEAN] * 3,
            "image_std": [DEVIATION] * 3,
        } | ({"size_divisor": PATCH, "do_pad": True} if family == "vilt" else {})
        (place / "preprocessor_config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


PLAIN: Mapping[str, Any] = transformers.PretrainedConfig().to_dict()
"""What a configuration says of every model, and need not be written."""
