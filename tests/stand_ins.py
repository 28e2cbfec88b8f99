"""Small networks with the outsides of timm's and open_clip's, for an environment that has neither."""

import importlib.machinery
import types

import torch
import transformers as hf
from torch import nn

import tiny_checkpoints as tiny

SIDE, PATCH = 32, 8


class Mix(nn.Module):
    """A residual block over tokens (batch, position, width), causal or not."""

    def __init__(self, width, causal=False):
        super().__init__()
        self.norm, self.causal = nn.LayerNorm(width), causal
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x, attn_mask=None):
        normed, count = self.norm(x), x.shape[1]
        mask = torch.ones(count, count, dtype=torch.bool).triu(1) if self.causal else None
        return x + self.attend(normed, normed, normed, attn_mask=mask, need_weights=False)[0]


class Embed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj, self.grid_size = nn.Conv2d(3, width, PATCH, PATCH), (SIDE // PATCH, SIDE // PATCH)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Tokens(nn.Module):
    """timm's VisionTransformer: [CLS], two registers, patches."""

    output_fmt = "NLC"
    num_prefix_tokens = 3

    def __init__(self):
        super().__init__()
        self.patch_embed, self.norm = Embed(12), nn.LayerNorm(12)
        self.cls_token, self.reg_token = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 2, 12))
        self.pos_embed = nn.Parameter(torch.randn(1, 16, 12))
        self.blocks = nn.Sequential(*(Mix(12) for _ in range(3)))

    def forward_features(self, x):
        patches = self.patch_embed(x) + self.pos_embed
        front = [one.expand(len(x), -1, -1) for one in (self.cls_token, self.reg_token)]
        return self.norm(self.blocks(torch.cat([*front, patches], 1)))

    def forward_head(self, x, pre_logits=False):
        return x[:, 0] if pre_logits else None


class Stage(nn.Module):
    def __init__(self, width, before, depth):
        super().__init__()
        self.downsample = nn.Conv2d(before, width, 2, 2) if before else nn.Identity()
        self.blocks = nn.Sequential(*(Around(width) for _ in range(depth)))

    def forward(self, x):
        return self.blocks(self.downsample(x))


class Around(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


class Grids(nn.Module):
    """timm's ConvNeXt: a stem of patches, stages of grids, channels first."""

    output_fmt = "NCHW"

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.stages = nn.Sequential(Stage(8, 0, 2), Stage(12, 8, 1))

    def forward_features(self, x):
        return self.stages(self.stem(x))

    def forward_head(self, x, pre_logits=False):
        return x.mean((2, 3))


class Residual(nn.Module):
    """A block of a ResNet, whose last scale training starts at zero."""

    def __init__(self, width, before, stride):
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(before, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU(True)
        self.conv2, self.bn2, self.act2 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(True)
        apart = stride > 1 or width != before
        self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride), nn.BatchNorm2d(width)) if apart else None
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        x += shortcut
        return self.act2(x)


def residual_stages(net, before):
    """Give a network `layer1` to `layer4`, one of them of two blocks."""
    for stage, (width, depth, stride) in enumerate(((8, 1, 1), (12, 1, 2), (12, 1, 1), (12, 0, 1)), 1):
        blocks = [Residual(width, before, stride), *(Residual(width, width, 1) for _ in range(depth - 1))][:depth]
        setattr(net, f"layer{stage}", nn.Sequential(*blocks))
        before = width


class Residuals(nn.Module):
    """timm's ResNet."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        residual_stages(self, 6)

    def forward_features(self, x):
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x, pre_logits=False):
        return x.mean((2, 3)) if pre_logits else None


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Linear(2, 2)


READ = {
    "input_size": (3, SIDE, SIDE),
    "interpolation": "bicubic",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.5, 0.25, 0.2),
    "crop_pct": 0.9,
    "crop_mode": "center",
}


def timm(read=READ):
    made, data = module("timm"), module("timm.data")
    kinds = {"tokens": Tokens, "grids": Grids, "residuals": Residuals, "strange": Strange}

    def create_model(name, pretrained):
        if name not in kinds:
            raise RuntimeError(f"Unknown model ({name})")
        return kinds[name]()

    made.create_model, made.data, data.resolve_model_data_config = create_model, data, lambda model: dict(read)
    return {"timm": made, "timm.data": data}


class Trunk(nn.Module):
    batch_first = True

    def __init__(self, width, causal):
        super().__init__()
        self.resblocks = nn.ModuleList(Mix(width, causal) for _ in range(3))

    def forward(self, x):
        for block in self.resblocks:
            x = block(x)
        return x


class Visual(nn.Module):
    image_size, patch_size, pool_type = (SIDE, SIDE), (PATCH, PATCH), "tok"

    def __init__(self):
        super().__init__()
        self.attn_pool = None
        self.embed, self.class_embedding = Embed(12), nn.Parameter(torch.randn(12))
        self.positional_embedding = nn.Parameter(torch.randn(17, 12))
        self.transformer, self.ln_post = Trunk(12, causal=False), nn.LayerNorm(12)
        self.proj = nn.Parameter(torch.randn(12, 10))
        self.preprocess_cfg = {"size": (SIDE, SIDE), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.preprocess_cfg |= {"interpolation": "bicubic", "resize_mode": "shortest"}

    def forward(self, x):
        front = self.class_embedding.expand(len(x), 1, -1)
        x = self.transformer(torch.cat([front, self.embed(x)], 1) + self.positional_embedding)
        return self.ln_post(x)[:, 0] @ self.proj


class Pool(nn.Module):
    """Attention over a grid, asked by its mean."""

    def __init__(self, width, out):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // 8) ** 2 + 1, width))
        self.attend, self.c_proj = nn.MultiheadAttention(width, 2, batch_first=True), nn.Linear(width, out)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        return self.c_proj(self.attend(x[:, :1], x, x, need_weights=False)[0][:, 0])


class ModifiedResNet(nn.Module):
    """open_clip's ResNet: a stem of its own, attention for a pooling, and one number for the size of images."""

    image_size = SIDE

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(True)
        self.avgpool, self.preprocess_cfg = nn.AvgPool2d(2), dict(Visual().preprocess_cfg)
        residual_stages(self, 6)
        self.attnpool = Pool(12, 10)

    def stem(self, x):
        return self.avgpool(self.act1(self.bn1(self.conv1(x))))

    def forward(self, x):
        return self.attnpool(self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x))))))


class Asked(nn.Module):
    """open_clip's AttentionalPooler: learnt queries."""

    def __init__(self):
        super().__init__()
        self.query, self.ln_q, self.ln_k = nn.Parameter(torch.randn(5, 10)), nn.LayerNorm(10), nn.LayerNorm(12)
        self.attn = nn.MultiheadAttention(10, 2, kdim=12, vdim=12, batch_first=True)

    def forward(self, x):
        x = self.ln_k(x)
        return self.attn(self.ln_q(self.query).expand(len(x), -1, -1), x, x, need_weights=False)[0]


class Attentive(Visual):
    """The image tower of CoCa."""

    def __init__(self):
        super().__init__()
        self.attn_pool_contrastive = None
        self.attn_pool, self.ln_post = Asked(), nn.LayerNorm(10)
        self.proj = nn.Parameter(torch.randn(10, 10))

    def forward(self, x):
        front = self.class_embedding.expand(len(x), 1, -1)
        x = self.transformer(torch.cat([front, self.embed(x)], 1) + self.positional_embedding)
        x = self.ln_post(self.attn_pool(x))
        return x[:, 0] @ self.proj, x[:, 1:]


class Appending(nn.Module):
    """The text tower of CoCa: a [CLS] behind the padding, to which all of a text but its padding is shown."""

    context_length, pool_type = 40, "argmax"

    def __init__(self):
        super().__init__()
        self.transformer, self.ln_final = Trunk(16, causal=True), nn.LayerNorm(16)
        self.token_embedding = nn.Embedding(len(tiny.clip_vocabulary()), 16)
        self.cls_emb, self.positional_embedding = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(41, 16))
        self.text_projection = nn.Parameter(torch.randn(16, 10))

    def forward(self, ids):
        x = torch.cat([self.token_embedding(ids), self.cls_emb.expand(len(ids), 1, -1)], 1)
        x = self.transformer(x + self.positional_embedding)
        return self.ln_final(x[:, -1]) @ self.text_projection, x[:, :-1]


class CoCa(nn.Module):
    """open_clip's CoCa, whose towers give all their tokens, too, and bring vectors to length 1 unless told not to."""

    def __init__(self):
        super().__init__()
        self.text, self.visual = Appending(), Attentive()

    def encode_image(self, x, normalize=True):
        found = self.visual(x)[0]
        return nn.functional.normalize(found, dim=-1) if normalize else found

    def encode_text(self, ids, normalize=True):
        found = self.text(ids)[0]
        return nn.functional.normalize(found, dim=-1) if normalize else found


class Dual(nn.Module):
    """open_clip's CLIP."""

    context_length, text_pool_type = 40, "argmax"

    def __init__(self):
        super().__init__()
        self.visual, self.transformer, self.ln_final = Visual(), Trunk(16, causal=True), nn.LayerNorm(16)
        self.token_embedding = nn.Embedding(len(tiny.clip_vocabulary()), 16)
        self.positional_embedding = nn.Parameter(torch.randn(40, 16))
        self.text_projection = nn.Parameter(torch.randn(16, 10))

    def encode_image(self, x, normalize=False):
        return self.visual(x)

    def encode_text(self, ids, normalize=False):
        x = self.ln_final(self.transformer(self.token_embedding(ids) + self.positional_embedding))
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


class Convolved(Dual):
    """open_clip's RN50."""

    def __init__(self):
        super().__init__()
        self.visual = ModifiedResNet()


class Cutter:
    """open_clip's SimpleTokenizer, which gives ids alone."""

    def __init__(self, lower=True):
        self.encoder = tiny.clip_vocabulary()
        self.decoder = {number: token for token, number in self.encoder.items()}
        self.bpe_ranks = {pair: rank for rank, pair in enumerate(tiny.CLIP_MERGES)}
        self.sot_token_id, self.eot_token_id = self.encoder[tiny.START], self.encoder[tiny.END]
        self.lower, self.inner = lower, hf.CLIPTokenizer(vocab=self.encoder, merges=tiny.CLIP_MERGES)

    def __call__(self, texts):
        ids = torch.zeros(len(texts), 77, dtype=torch.long)
        for row, text in enumerate(texts):
            made = self.inner(text if self.lower else text.replace("THE", "cats"))["input_ids"]
            ids[row, : len(made)] = torch.tensor(made)
        return ids


def open_clip(model=Dual, cutter=Cutter):
    made = module("open_clip")

    def create_model(name, pretrained):
        if pretrained not in (None, "known"):
            raise RuntimeError(f"Pretrained value '{pretrained}' is not a known tag")
        return {"RN50": Convolved, "coca": CoCa}.get(name, model)()

    made.create_model, made.get_tokenizer = create_model, lambda name: cutter()
    return {"open_clip": made}


def module(name):
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    return made
