"""EVA02-CLIP's image encoder against a slow reference from the paper, and the published checkpoint's layout."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file

from remora.errors import DataError, SpecError
from remora.model.vision import Unread, build_tower
from support.encoders import pixels, shaken, vision

CONFIG = {"image_size": 30, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8, "mlp_ratio": 2.6667}
"""3 heads of 8 channels, a grid of 3 x 3 patches, 64 channels inside the feed-forward layer."""
WIDTH, HEAD, LAYERS, GRID, INNER = 24, 8, 3, 3, 64


def entry(**changes):
    facts = {"config": CONFIG, "prefix": 1, "width": WIDTH, "blocks": LAYERS, "layer": -2}
    return vision("eva-clip", **(facts | changes))


def published(dtype=torch.float64) -> dict[str, torch.Tensor]:
    """A random checkpoint with the names and shapes of EVA02_CLIP_L_336_psz14_s6B.pt, at a small size."""
    shapes = {"patch_embed.proj.weight": (WIDTH, 3, 8, 8), "patch_embed.proj.bias": (WIDTH,)}
    shapes |= {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + GRID * GRID, WIDTH)}
    for i in range(LAYERS):
        block = {f"attn.{p}_proj.weight": (WIDTH, WIDTH) for p in "qkv"} | {f"attn.{p}_bias": (WIDTH,) for p in "qv"}
        block |= {"attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,), "mlp.w3.weight": (WIDTH, INNER)}
        block |= {f"mlp.w{j}.weight": (INNER, WIDTH) for j in (1, 2)} | {f"mlp.w{j}.bias": (INNER,) for j in (1, 2)}
        block |= {"mlp.w3.bias": (WIDTH,), "mlp.ffn_ln.weight": (INNER,), "mlp.ffn_ln.bias": (INNER,)}
        for norm in ("norm1", "norm2", "attn.inner_attn_ln"):
            block |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
        shapes[f"blocks.{i}.attn.rope.freqs_cos"] = shapes[f"blocks.{i}.attn.rope.freqs_sin"] = (GRID * GRID, HEAD)
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,), "head.weight": (5, WIDTH), "head.bias": (5,)}
    shapes |= {"rope.freqs_cos": (GRID * GRID, HEAD), "rope.freqs_sin": (GRID * GRID, HEAD)}
    generator = torch.Generator().manual_seed(0)
    state = {
        f"visual.{n}": torch.randn(s, generator=generator, dtype=torch.float64) * 0.3 + ("ln.w" in n or "m1.w" in n)
        for n, s in shapes.items()
    }
    state |= {"text.positional_embedding": torch.ones(7, 5), "logit_scale": torch.tensor(4.6)}
    return {n: t.to(dtype) for n, t in state.items()}


def slow_forward(state: dict[str, torch.Tensor], picture: torch.Tensor, read: int) -> list[list[float]]:
    """One picture [3, 30, 30] through the first `read` blocks, number by number, in Python's doubles."""
    w = {n.removeprefix("visual."): t.double().tolist() for n, t in state.items()}

    def linear(x, name, bias=None):
        rows, b = w[f"{name}.weight"], w[bias or f"{name}.bias"] if bias != "none" else None
        return [sum(a * c for a, c in zip(row, x, strict=True)) + (b[i] if b else 0.0) for i, row in enumerate(rows)]

    def norm(x, name):
        mean = sum(x) / len(x)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-6)
        return [
            (v - mean) / deviation * g + b for v, g, b in zip(x, w[f"{name}.weight"], w[f"{name}.bias"], strict=True)
        ]

    def turned(x, row, column):
        """A head's 8 channels: pairs 0 and 1 turn with the row, pairs 2 and 3 with the column.

        A grid of 3 represents the 16 patches of pretraining, so a step is 16/3 of theirs; half a head is 4 channels,
        whose two pairs turn by 1 and by 10000^(-2/4) = 1/100 radians a step.
        """
        out = list(x)
        for pair, angle in enumerate([row * 16 / 3, row * 16 / 3 / 100, column * 16 / 3, column * 16 / 3 / 100]):
            a, b = x[2 * pair], x[2 * pair + 1]
            out[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            out[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    tokens = [w["cls_token"][0][0]]
    kernel, pixel = w["patch_embed.proj.weight"], picture.double().tolist()
    for r in range(GRID):
        for c in range(GRID):
            cells = [(k, y, x) for k in range(3) for y in range(8) for x in range(8)]
            tokens.append(
                [
                    sum(kernel[o][k][y][x] * pixel[k][8 * r + y][8 * c + x] for k, y, x in cells)
                    + w["patch_embed.proj.bias"][o]
                    for o in range(WIDTH)
                ]
            )
    xs = [[a + b for a, b in zip(t, p, strict=True)] for t, p in zip(tokens, w["pos_embed"][0], strict=True)]
    for i in range(read):
        at = f"blocks.{i}."
        normed = [norm(x, at + "norm1") for x in xs]
        q = [linear(x, at + "attn.q_proj", at + "attn.q_bias") for x in normed]
        k = [linear(x, at + "attn.k_proj", "none") for x in normed]
        v = [linear(x, at + "attn.v_proj", at + "attn.v_bias") for x in normed]
        joined = [[0.0] * WIDTH for _ in xs]
        for head in range(WIDTH // HEAD):
            cut = slice(head * HEAD, (head + 1) * HEAD)
            qs, ks = [q[0][cut]], [k[0][cut]]  # the class token does not turn
            for place in range(GRID * GRID):
                qs.append(turned(q[1 + place][cut], *divmod(place, GRID)))
                ks.append(turned(k[1 + place][cut], *divmod(place, GRID)))
            for t, query in enumerate(qs):
                scores = [math.exp(sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(HEAD)) for key in ks]
                for channel in range(HEAD):
                    weighted = sum(s * v[u][head * HEAD + channel] for u, s in enumerate(scores))
                    joined[t][head * HEAD + channel] = weighted / sum(scores)
        said = [linear(norm(x, at + "attn.inner_attn_ln"), at + "attn.proj") for x in joined]
        xs = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(xs, said, strict=True)]
        for t, x in enumerate(xs):
            inner = norm(x, at + "norm2")
            gate, up = linear(inner, at + "mlp.w1"), linear(inner, at + "mlp.w2")
            gated = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]
            out = linear(norm(gated, at + "mlp.ffn_ln"), at + "mlp.w3")
            xs[t] = [a + b for a, b in zip(x, out, strict=True)]
    return xs[1:]


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("layer", [-1, -2])
def test_every_number_is_the_papers(layer, tmp_path, doubles):
    state = published()
    torch.save(state, tmp_path / "EVA.pt")
    tower = build_tower(entry(hub=str(tmp_path), layer=layer), dtype=torch.float64)
    picture = pixels(30, 1).double()
    with torch.no_grad():
        tokens = tower(picture)
    expected = torch.tensor(slow_forward(state, picture[0], LAYERS + 1 + layer))
    assert tokens.shape == (1, 9, WIDTH)
    # Double precision both: a few thousand roundings of 1e-16 on numbers of size 10.
    assert torch.allclose(tokens[0], expected, rtol=0, atol=1e-10)


def write_pt(folder, state):
    torch.save(state, folder / "w.pt")


def write_wrapped(folder, state):
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}, folder / "w.pt")


def write_safetensors(folder, state):
    save_file(state, folder / "w.safetensors")


def write_image_encoder_alone(folder, state):
    save_file({n[7:]: t for n, t in state.items() if n.startswith("visual.")}, folder / "w.safetensors")


LAYOUTS = [write_pt, write_wrapped, write_safetensors, write_image_encoder_alone]


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_every_layout_loads(write, dtype, tmp_path):
    state = published(dtype)
    write(tmp_path, state)
    tower = build_tower(entry(hub=str(tmp_path)))
    held = tower.state_dict()
    assert all(t.dtype == torch.float32 for t in held.values())
    for name, tensor in held.items():
        name = name.replace("q_proj.bias", "q_bias").replace("v_proj.bias", "v_bias")
        assert torch.equal(tensor, state[f"visual.{name}"].float())
    expected = {n for n in state if n.startswith("visual.") and "rope" not in n}
    unread = {n for n in expected if n.startswith(("visual.blocks.2.", "visual.norm.", "visual.head."))}
    assert len(held) == len(expected - unread)


def test_the_named_file_of_several(tmp_path):
    other = {n: t + 1 for n, t in published().items()}
    torch.save(published(), tmp_path / "a.pt")
    torch.save(other, tmp_path / "b.pt")
    tower = build_tower(entry(hub=str(tmp_path), config=CONFIG | {"file": "b.pt"}))
    assert torch.equal(tower.cls_token, other["visual.cls_token"].float())
    refused(DataError, "no single weights file; name one as `file`", "a.pt, b.pt", hub=str(tmp_path))
    refused(DataError, "no c.pt; there are a.pt, b.pt", hub=str(tmp_path), config=CONFIG | {"file": "c.pt"})


def refused(error, *parts, **changes):
    with pytest.raises(error) as caught:
        build_tower(entry(**changes))
    said = str(caught.value)
    assert "\n" not in said and all(p in said for p in parts), said


def test_files_that_do_not_hold_the_encoder(tmp_path):
    hub, file = str(tmp_path), tmp_path / "w.pt"
    refused(DataError, "there are none", hub=hub)
    torch.save({n: t for n, t in published().items() if "blocks.0.attn.q_bias" not in n}, file)
    refused(DataError, f"{file} lacks 1 of", "blocks.0.attn.q_proj.bias", hub=hub)
    torch.save(published(), file)
    refused(DataError, str(file), "pos_embed has shape [1, 10, 24]", "wants [1, 26, 24]", hub=hub,
            config=CONFIG | {"image_size": 40}, image_size=40, tokens=25)  # fmt: skip
    torch.save(torch.ones(3), file)
    refused(DataError, str(file), "unreadable weights", hub=hub)
    torch.save(published(), file)
    for content in (b"", b"no weights", file.read_bytes()[:2000]):
        file.write_bytes(content)
        refused(DataError, str(file), "unreadable weights", hub=hub)


def test_configs_that_describe_no_encoder(tmp_path):
    refused(SpecError, "no 'widht'; did you mean 'width'?", config=CONFIG | {"widht": 1})
    refused(SpecError, "config:", "'width'", config={k: v for k, v in CONFIG.items() if k != "width"})
    refused(SpecError, "needs hub", hub=None)
    with pytest.raises(ValueError, match="layer -4 lies before the first of 3 blocks"):
        entry(layer=-4)
    with pytest.raises(ValueError, match="is trained at 40 px and cannot be read at 30"):
        entry(config=CONFIG | {"image_size": 40})


def test_the_published_size():
    """EVA02-CLIP-L/14-336's image encoder has 304 M parameters (EVA-CLIP, arXiv 2303.15389, table 1), 304.43 M by
    timm's tables (eva02_large_patch14_clip_336), with the checkpoint's final norm and projection to 768 channels."""
    config = {"image_size": 336, "patch_size": 14, "width": 1024, "layers": 24, "head_width": 64, "mlp_ratio": 2.6667}
    with torch.device("meta"):
        tower = build_tower(entry(config=config, layer=-1, image_size=336, tokens=576), pretrained=False)
        assert tower(torch.empty(2, 3, 336, 336)).shape == (2, 576, 1024)
    final_norm, projection = 2 * 1024, 768 * 1024 + 768
    count = sum(p.numel() for p in tower.parameters())
    assert count == 303_643_584 and round((count + final_norm + projection) / 1e6, 2) == 304.43
    assert {t.device.type for t in [*tower.parameters(), *tower.buffers()]} == {"meta"}


def test_gradients_reach_every_weight_and_only_what_is_read():
    tower = shaken(build_tower(entry(), pretrained=False))
    assert [isinstance(b, Unread) for b in tower.blocks] == [False, False, True] and tower.tail == []
    tower(pixels(30)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tower.parameters())
