"""BridgeTower (Xu et al. 2023): two encoders whose upper layers feed, one by one, two streams that meet."""

from __future__ import annotations

import math

import torch

from vlprobe.device import moved
from vlprobe.encoders.ahead import readers
from vlprobe.encoders.checkpoint import Checkpoint
from vlprobe.encoders.fusion import Fusion, side_by_side
from vlprobe.encoders.loading import load_network
from vlprobe.encoders.pixels import Grid, ImageReader, pair
from vlprobe.encoders.processors import load_processor, load_tokenizer
from vlprobe.encoders.taps import altered, residual_blocks, tap
from vlprobe.encoders.text import Pieces, Positions, TextReader, of_text
from vlprobe.encoders.towers import of_image

CLASSES = {"bridgetower": "BridgeTowerModel"}


class BridgeTower(Fusion):
    """`language.0` to `.n` (RoBERTa), `vision.0` to `.m` (CLIP's tower) and `vision.norm`, and `joint.0` to `.k`.

    `joint` is two streams of one width, set side by side: the text, then the image. `joint.0` is what cross layer 1
    reads; cross layer j gives `joint.j`. In between, each of its layers is given the next layer of the encoders, so
    that block j + 1 reads more than block j puts out. `joint.pooler` is both streams' pooled [CLS], one behind the
    other; role `cls` in `joint` is the text's [CLS], and the image's has role "".

    Raises:
        CheckpointError: the checkpoint is incomplete, or has no fitting tokenizer or preprocessor.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        loaded = load_network(checkpoint, CLASSES, device, spare=r"text_model\.pooler\.")
        self.model, self.device, self.left_out = loaded.model, device, loaded.left_out
        config = self.model.config
        text, image = config.text_config, config.vision_config
        self.language = residual_blocks(self.model, ("text_model.encoder.layer",), text.num_hidden_layers)
        vision = "vision_model.visual.transformer.resblocks"
        count = image.num_hidden_layers - int(image.remove_last_layer)
        # Blocks beyond the text's are never run.
        self.vision = residual_blocks(self.model, (vision,), count)[: len(self.language)]
        self.crosses = [
            residual_blocks(self.model, (f"cross_modal_{side}_layers",), config.num_hidden_layers)
            for side in ("text", "image")
        ]
        # RoBERTa numbers its positions from pad_token_id + 1 on.
        positions = text.max_position_embeddings - text.pad_token_id - 1
        self.text = TextReader(load_tokenizer(checkpoint, text.vocab_size), positions)
        self.images = ImageReader(load_processor(checkpoint), checkpoint.source, readers(device))
        self.patch, self.size, self.before = pair(image.patch_size), pair(image.image_size), 1
        self.seen = self.before + math.prod(self.size) / math.prod(self.patch)
        self.layers = {f"language.{index}": text.hidden_size for index in range(len(self.language) + 1)}
        self.layers |= {f"vision.{index}": image.hidden_size for index in range(len(self.vision) + 1)}
        self.layers["vision.norm"] = image.hidden_size
        self.layers |= {f"joint.{index}": config.hidden_size for index in range(config.num_hidden_layers + 1)}
        self.layers["joint.pooler"] = 2 * config.hidden_size

    def states(self, pieces: Pieces | None, grid: Grid | None) -> dict[str, torch.Tensor]:
        """Return the layers that are reached; of images, transformers keeps the positions in front of the batch."""
        texts, image = {}, {}
        if pieces is not None:
            texts = {
                "input_ids": moved(pieces.ids, self.device),
                "attention_mask": moved(pieces.mask.long(), self.device),
            }
        if grid is not None:
            image = {"pixel_values": moved(grid.pixels, self.device)}
        with (
            tap(self.language) as language,
            tap(self.vision) as vision,
            tap(self.crosses[0], chained=False) as words,
            tap(self.crosses[1], chained=False) as patches,
        ):
            if texts and grid is not None:
                # What the cross layers are given of the image encoder comes through this norm, layer by layer.
                with altered(self.model.vision_model.visual.ln_post, grid.each):
                    output = self.model(**texts, **image)
            elif texts:
                self.model.text_model(**texts)
            else:
                self.model.vision_model.visual(**image, attention_mask=None)
        layers = {f"language.{index}": state for index, state in enumerate(language)}
        layers |= {f"vision.{index}": state.transpose(0, 1) for index, state in enumerate(vision)}
        if vision:
            layers["vision.norm"] = self.model.vision_model.visual.ln_post(vision[-1].transpose(0, 1))
        for index, both in enumerate(zip(words, patches, strict=True)):
            layers[f"joint.{index}"] = torch.cat(both, dim=1)
        if texts and image:
            layers["joint.pooler"] = output.pooler_output
        return layers

    def meeting(self, pieces: Pieces | None, grid: Grid | None) -> Positions:
        """Return what the positions of `joint` are: the text, then the image."""
        if pieces is None or grid is None:
            raise ValueError("both are needed")
        return side_by_side([of_text(pieces), of_image(grid)])
