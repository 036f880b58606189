"""The image encoder of EVA02-CLIP, which transformers does not have.

A ViT with rotary positions in addition to learned ones, a gated feed-forward layer, and a norm inside attention and
feed-forward layer ("sub-LN"). Sources: EVA-02 (arXiv 2303.11331, section 2.1 and figure 2), EVA-CLIP (arXiv
2303.15389); names and shapes of weights as in the published checkpoint, QuanSun/EVA-CLIP,
EVA02_CLIP_L_336_psz14_s6B.pt, below its prefix `visual.`.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from remora.catalog import Vision
from remora.errors import DataError, SpecError, nearest
from remora.model.hub import FILES, snapshot
from remora.model.vision.tower import Tower, Unread, blocks_read

EPS = 1e-6
"""Epsilon of every layer norm."""
THETA = 10_000
"""Base of the rotary wavelengths."""
UNREADABLE = (OSError, RuntimeError, ValueError, AttributeError, EOFError, SafetensorError, pickle.UnpicklingError)
"""What torch and safetensors raise for files that are truncated or have no weights."""


@dataclass(frozen=True)
class EvaConfig:
    """`config` of a catalog entry, by the names of the published vision_cfg."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    head_width: int
    mlp_ratio: float
    pt_hw_seq_len: int = 16
    """Side of the pretraining patch grid, to which rotary positions are scaled."""
    file: str | None = None
    """The weight file in the hub repository; default: the only one there."""

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def heads(self) -> int:
        return self.width // self.head_width

    @property
    def inner(self) -> int:
        """Inner channels of the feed-forward layer: 2730 for a width of 1024 and the published ratio 2.6667."""
        return int(self.width * self.mlp_ratio)


def rotary_angles(config: EvaConfig) -> Tensor:
    """Rotation angles of a head's channel pairs, [grid * grid, head_width / 2], one row per patch.

    The first half of the pairs rotates with the patch's row, the second with its column, each by
    position * THETA ** (-2i / (head_width / 2)), where i counts the pairs of that half.
    """
    half = config.head_width // 2
    speed = THETA ** -(torch.arange(0, half, 2, dtype=torch.float64) / half)
    position = torch.arange(config.grid, dtype=torch.float64) * config.pt_hw_seq_len / config.grid
    turn = position[:, None] * speed  # [grid, head_width / 4]
    rows = turn[:, None].expand(-1, config.grid, -1)
    columns = turn[None].expand(config.grid, -1, -1)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs (0, 1), (2, 3), … of x [B, heads, N, head_width]; cos and sin are [N, head_width / 2].

    The class token, first in the sequence, has no position in the picture: its cos is 1 and its sin 0.
    """
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).type_as(x)


class Attention(nn.Module):
    """Self-attention with rotary positions; the concatenated heads are normalised before the output projection."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width, bias=False)
        self.v_proj = nn.Linear(config.width, config.width)
        self.inner_attn_ln = nn.LayerNorm(config.width, EPS)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, N, width] -> [B, N, width]."""
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.proj(self.inner_attn_ln(seen.transpose(1, 2).flatten(2)))


class GatedMlp(nn.Module):
    """w3(norm(silu(w1 x) * w2 x)): SwiGLU with a norm inside."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.width, config.inner)
        self.w2 = nn.Linear(config.width, config.inner)
        self.ffn_ln = nn.LayerNorm(config.inner, EPS)
        self.w3 = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


class Block(nn.Module):
    """Attention and feed-forward layer, each with a norm before it and a residual connection."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, EPS)
        self.mlp = GatedMlp(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Pixels [B, 3, H, W] -> one vector per patch, row by row [B, grid * grid, width]; a rest at the edge is
    ignored."""

    def __init__(self, config: EvaConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


class EvaClipTower(Tower):
    """EVA02-CLIP's image encoder: output of the chosen block, before the final norm, without the class token."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: EvaConfig, read: int, prefix: int) -> None:
        """Builds only the first `read` of the config's blocks."""
        super().__init__()
        self.prefix = prefix
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.grid**2, config.width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(Block(config) if i < read else Unread() for i in range(config.layers))
        self.tail = []
        angles = F.pad(rotary_angles(config), (0, 0, 1, 0))  # the class token is not rotated
        self.register_buffer("cos", angles.cos().to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sin", angles.sin().to(torch.get_default_dtype()), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed(pixels)
        x = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return x[:, self.prefix :]


def eva_clip(entry: Vision, pretrained: bool) -> Tower:
    """Build the entry's encoder, in fp32; pretrained weights come from its hub id or folder.

    Raises:
        SpecError: its config lacks a field or has an unknown one, or it has no such layer.
        DataError: the folder is not available, or does not have the weights.
    """
    known = [f.name for f in fields(EvaConfig)]
    for key in entry.config:
        if key not in known:
            raise SpecError(
                f"vision {entry.short}: an eva-clip tower has no {key!r}{nearest(key, known)}; "
                f"it has {', '.join(known)}"
            )
    try:
        config = EvaConfig(**entry.config)
    except TypeError as e:
        raise SpecError(f"vision {entry.short}: config: {str(e).partition(' ')[2]}") from None
    if entry.hub is None and pretrained:
        raise SpecError(f"vision {entry.short}: loader eva-clip needs hub, an id or a folder with the weights")
    tower = EvaClipTower(config, blocks_read(entry, config.layers), entry.prefix)
    if pretrained:
        _load(tower, _weights_file(_snapshot(entry, config.file), config.file))
    return tower


def _snapshot(entry: Vision, file: str | None) -> Path:
    # The hub repository has a dozen checkpoints of gigabytes each; download only one.
    return snapshot(cast(str, entry.hub), entry.revision, files=[file] if file else FILES)


def _weights_file(folder: Path, name: str | None) -> Path:
    files = sorted(p.name for p in folder.iterdir() if p.suffix in (".pt", ".safetensors", ".bin", ".pth"))
    if name is None and len(files) == 1:
        name = files[0]
    if name not in files:
        asked = f"no {name}" if name else "no single weights file; name one as `file` in the config"
        raise DataError(f"{folder}: {asked}; there are {', '.join(files) or 'none'}")
    return folder / name


def _load(tower: EvaClipTower, file: Path) -> None:
    """Load weights of a whole EVA-CLIP (`visual.` and `text.`) or of only its image encoder, in any float type."""
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        for wrapper in ("model", "module", "state_dict"):  # as training scripts save them
            state = state.get(wrapper, state)
    except UNREADABLE as e:
        reason = " ".join(str(e).split())[:300]
        raise DataError(f"{file}: unreadable weights: {reason}; download the model again") from e
    state = {k.removeprefix("module."): v for k, v in state.items()}
    image = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")} or state
    # The checkpoint has two biases outside the projections. Inside, LoRA and ZeRO 3 find them.
    state = {k.replace("q_bias", "q_proj.bias").replace("v_bias", "v_proj.bias"): v for k, v in image.items()}
    wanted = tower.state_dict()
    if missing := sorted(wanted.keys() - state.keys()):
        raise DataError(
            f"{file} lacks {len(missing)} of the encoder's {len(wanted)} weights ({', '.join(missing[:3])}, …); "
            "give a checkpoint of EVA02-CLIP, or the config that fits it"
        )
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise DataError(
                f"{file}: {name} has shape {list(state[name].shape)}, the catalog's config wants "
                f"{list(tensor.shape)}; correct the config or the file"
            )
    tower.load_state_dict({name: state[name] for name in wanted})
