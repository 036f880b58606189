"""Encoders at another size than they were trained at: interpolated by transformers, or refused when they are read."""

from __future__ import annotations

import json
import re

import pytest
import torch
import yaml
from pydantic import ValidationError
from transformers import CONFIG_MAPPING, AutoModel
from transformers.utils import logging

from remora import catalog
from remora.catalog.resolution import FAMILIES
from remora.cli import main
from remora.errors import SpecError, UnknownName
from remora.model.vision import build_tower
from remora.runs import variant_name
from remora.spec import Variant
from support.encoders import CONFIGS, PREFIX, entry, pixels, whole

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"image_size": 32, "patch_size": 8}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_reads_other_sizes_as_its_facts_say(kind):
    """On a real model of transformers: what comes out, and whether it has to be asked to interpolate."""
    family, config = FAMILIES[kind], CONFIG_MAPPING[kind]
    default = config()
    assert (default.image_size, default.patch_size) == (family.image, family.patch)
    assert getattr(default, "num_register_tokens", 0) == family.registers
    model = AutoModel.from_config(config(**SMALL)).eval()
    for side in (32, 48, 52):
        with torch.no_grad():
            told = {"interpolate_pos_encoding": True} if family.other == "asked" and side != 32 else {}
            tokens = model(pixel_values=pixels(side, 1), **told).last_hidden_state.shape[1]
        assert tokens == (side // 8) ** 2 + family.leading(SMALL)
        if told:
            with pytest.raises((ValueError, RuntimeError)), torch.no_grad():
                model(pixel_values=pixels(side, 1))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_tower_at_another_size_has_transformers_own_interpolated_states(kind, tmp_path):
    logging.disable_progress_bar()
    model = whole(kind)
    model.save_pretrained(tmp_path)
    side = 48
    encoder = entry(kind, hub=str(tmp_path), image_size=side, tokens=36, layer=-2)
    told = {"interpolate_pos_encoding": True} if encoder.interpolated else {}
    assert bool(told) == (not kind.startswith("dinov2"))
    with torch.no_grad():
        states = model(pixel_values=pixels(side), output_hidden_states=True, **told).hidden_states[-2]
        tower = build_tower(encoder)
        tokens = tower(pixels(side))
    assert tokens.shape == (2, 36, 16)
    assert torch.allclose(tokens, states[:, PREFIX[kind] :], rtol=0, atol=1e-6)
    tower(pixels(side)).square().sum().backward()  # the positions train through the interpolation
    assert all(p.grad is not None for p in tower.parameters())
    logging.enable_progress_bar()


def test_a_size_that_was_trained_is_read_as_before():
    tower = build_tower(entry("clip_vision_model"), pretrained=False)
    assert tower.told == {}


INTERPOLATED = {"clip-l-448": (1024, 32), "dinov2-l-336": (576, 24), "vit-l-336-in21k": (441, 21)}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("name", "expected"), INTERPOLATED.items(), ids=INTERPOLATED)
def test_the_shipped_encoders_at_other_sizes(name, expected):
    found = catalog.vision(name)
    tokens, side = expected
    assert (found.tokens, side**2) == (tokens, tokens)
    with torch.device("meta"):
        assert build_tower(found, pretrained=False)(torch.zeros(1, 3, *[found.image_size] * 2)).shape[1] == tokens


@pytest.mark.parametrize(
    ("name", "tokens", "short"),
    [
        ("clip-l-336@448", 1024, "C.448"),
        ("clip-l-336@224", 256, "C.224"),
        ("siglip-so400m-384@224", 256, "Sig.224"),
        ("dinov2-l-224@518", 1369, "DINO.518"),
        ("vit-l-224-in21k@384", 576, "ViT.384"),
        ("efficientnet-lite0@128", 16, "Eff.128"),
        ("clip-l-448@336", 576, "C448.336"),
    ],
)
def test_a_size_is_part_of_an_encoders_name(name, tokens, short):
    base, found = catalog.vision(name.partition("@")[0]), catalog.vision(name)
    assert (found.tokens, found.short, found.image_size) == (tokens, short, int(name.partition("@")[2]))
    kept = {"hub", "revision", "config", "parameters", "mean", "std", "fit", "layer", "prefix", "resample"}
    assert found.model_dump(include=kept) == base.model_dump(include=kept)
    variant = Variant(vision=name, connector="mlp2x_gelu", llm="tinyllama-1.1b-chat", recipe="base")
    assert variant_name(variant) == f"base-{short}-TL-mlp"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "layer", "short", "pixels"),
    [("clip-l-336@-1", -1, "C.L1", 336), ("siglip-so400m-384@224@-12", -12, "Sig.224.L12", 224)],
)
def test_so_is_the_layer_that_is_read(name, layer, short, pixels):
    base, found = catalog.vision(name.rpartition("@")[0]), catalog.vision(name)
    assert (found.layer, found.short, found.image_size) == (layer, short, pixels)
    assert found.blocks_read == base.blocks + layer + 1
    assert found.model_dump(exclude={"layer", "short", "source"}) == base.model_dump(
        exclude={"layer", "short", "source"}
    )
    with torch.device("meta"):
        assert build_tower(found, pretrained=False)(torch.zeros(1, 3, pixels, pixels)).shape[1] == base.tokens


def test_dinov2_resizes_in_proportion_before_it_crops():
    assert catalog.vision("dinov2-l-224@448").resize == 512
    assert catalog.vision("dinov2-l-336").resize == 384


@pytest.mark.parametrize(
    ("name", "error", "why"),
    [
        ("clip-l-336@", UnknownName, "'' is not a size; write clip-l-336@PIXELS"),
        ("clip-l-336@448px", UnknownName, "'448px' is not a size"),
        ("clip-l-336@0", UnknownName, "'0' is not a size"),
        ("clip-336@448", UnknownName, "unknown vision encoder 'clip-336'; did you mean 'clip-l-336'?"),
        ("clip-l-336@448@224", UnknownName, "unknown vision encoder 'clip-l-336@448'"),
        ("clip-l-336@10", SpecError, "a picture of 10 px has no patch of 14"),
        ("clip-l-336-s2@672", SpecError, "has scales of its own"),
        ("clip-l-336@-25", SpecError, "layer -25 lies before the first of 24 blocks"),
        ("clip-l-336@-1@448", UnknownName, "unknown vision encoder 'clip-l-336@-1'"),
        ("efficientnet-lite0@-2", SpecError, "has no other layer to read"),
        (
            "eva02-clip-l-336@448",
            SpecError,
            "eva-clip is trained at 336 px and cannot be read at 448; at other sizes: clip",
        ),
    ],
)
def test_a_size_that_cannot_be_read_is_refused(name, error, why):
    with pytest.raises(error, match=why) as caught:
        catalog.vision(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("clip_vision_model", {"image_size": 48}, "48 px is 6 x 6 patches of 8 and 1 before them, less a prefix of 1: "
         "tokens 36, not 9"),
        ("siglip_vision_model", {"tokens": 16}, "30 px is 3 x 3 patches of 8: tokens 9, not 16"),
        ("vit", {"prefix": 0, "tokens": 9}, "less a prefix of 0: tokens 10, not 9"),
        ("dinov2_with_registers", {"prefix": 4, "tokens": 16}, "3 x 3 patches of 8 and 4 before them"),
        ("clip_vision_model", {"config": {"model_type": "aimv2_vision_model", "image_size": 24, "patch_size": 8}},
         "aimv2_vision_model is trained at 24 px and cannot be read at 30; at other sizes: clip_vision_model, "),
        ("clip_vision_model", {"fit": "stretch", "resize": 40}, "resize 40 is for fit: crop"),
        ("clip_vision_model", {"fit": "crop", "resize": 20}, "at least image_size 30"),
    ],
)  # fmt: skip
def test_an_entry_that_gives_other_tokens_than_it_says_is_refused(kind, changes, why):
    with pytest.raises(ValidationError, match=re.escape(why)):
        entry(kind, **changes)


@pytest.mark.slow
def test_whoever_reads_the_spec_refuses_it_in_one_line(tmp_path, monkeypatch, capsys):
    """A user's encoder entry at an unsupported size: `catalog check`, `plan` and `render` all refuse it."""
    own = tmp_path / "own"
    own.mkdir()
    facts = catalog.vision("clip-l-336").model_dump(mode="json", exclude_none=True) | {"short": "Mine"}
    (own / "vision.yaml").write_text(yaml.safe_dump({"mine": facts | {"image_size": 448}}))
    (tmp_path / "v.yaml").write_text("vision: mine\nconnector: mlp2x_gelu\nllm: phi-2\nrecipe: base\n")
    monkeypatch.setenv("REMORA_CATALOG", str(own))
    for verb in (["catalog", "check"], ["plan", str(tmp_path / "v.yaml")], ["render", str(tmp_path / "v.yaml")]):
        with pytest.raises(SystemExit) as ended:
            main([*verb, "--runs", str(tmp_path / "runs")])
        said = str(ended.value)
        assert said.startswith("remora: ") and said.endswith("tokens 1024, not 576") and "\n" not in said
    monkeypatch.setenv("REMORA_CATALOG", str(own.rename(tmp_path / "mended")))  # a folder is read once a process
    (tmp_path / "mended" / "vision.yaml").write_text(
        yaml.safe_dump({"mine": facts | {"image_size": 448, "tokens": 1024}})
    )
    capsys.readouterr()
    main(["catalog", "check", "--json"])
    rows = json.loads(capsys.readouterr().out)
    told = {r["connector"]: r["embeddings"] for r in rows if (r["vision"], r["llm"]) == ("mine", "phi-2")}
    assert (told["mlp2x_gelu"], told["ldp"], told["pixel-shuffle-4"]) == (1024, 256, 64)


def test_one_entry_is_shown_by_any_name_that_a_spec_may_write(capsys):
    main(["catalog", "vision", "clip-l-336@448"])
    shown = yaml.safe_load(capsys.readouterr().out)["clip-l-336@448"]
    assert (shown["image_size"], shown["tokens"]) == (448, 1024)
    main(["catalog", "connectors", "mlp5x_gelu"])
    assert yaml.safe_load(capsys.readouterr().out)["mlp5x_gelu"]["depth"] == 5
