"""Towers of transformers' encoders: the published hidden states, from any layout, without unused modules."""

from __future__ import annotations

import json
from logging import Handler

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
from transformers.utils import logging

from remora.errors import DataError, SpecError
from remora.model.tuning import freeze_and_train, tuning_table
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel
from remora.spec import Stage, Tuning
from support.encoders import CONFIGS, PREFIX, entry, pixels, shaken, vision, whole

KINDS = list(CONFIGS)
TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def hidden(model: nn.Module, of: str, side: int, layer: int) -> torch.Tensor:
    return model(pixel_values=pixels(side), output_hidden_states=True).hidden_states[layer][:, PREFIX[of] :]


@pytest.fixture(autouse=True)
def quiet_saving():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [-1, -2, -4])
def test_tokens_are_the_hidden_states_of_the_whole_model(kind, layer, tmp_path):
    model = whole(kind)
    model.save_pretrained(tmp_path)
    encoder = entry(kind, hub=str(tmp_path), layer=layer)
    tower = build_tower(encoder)
    with torch.no_grad():
        tokens = tower(pixels(encoder.image_size))
        expected = hidden(model, kind, encoder.image_size, layer)
    assert tokens.shape == (2, encoder.tokens, encoder.width)
    # The same arithmetic; attention may be split differently over a batch, which moves fp32's last digits.
    assert torch.allclose(tokens, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [-1, -2])
def test_a_tower_holds_exactly_what_its_output_depends_on(kind, layer):
    model = whole(kind)
    encoder = entry(kind, layer=layer)
    hidden(model, kind, encoder.image_size, layer).square().sum().backward()
    read = {n: p.shape for n, p in model.named_parameters() if p.grad is not None}
    tower = build_tower(encoder, pretrained=False)
    assert {n.removeprefix("net."): p.shape for n, p in tower.named_parameters()} == read
    assert len(tower.state_dict()) == len(read)  # and each of them once
    tower(pixels(encoder.image_size)).square().sum().backward()
    assert all(p.grad is not None for p in tower.parameters())


@pytest.mark.parametrize(("kind", "config", "family"), [
    ("clip_vision_model", CLIPConfig, CLIPModel),
    ("siglip_vision_model", SiglipConfig, SiglipModel),
])  # fmt: skip
def test_a_checkpoint_with_a_text_tower(kind, config, family, tmp_path):
    model = shaken(family(config(vision_config=CONFIGS[kind], text_config=TEXT)))
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {"vision_model", "text_model"} <= {n.partition(".")[0] for n in names}
    tower = build_tower(entry(kind, hub=str(tmp_path), layer=-2))
    with torch.no_grad():
        assert torch.equal(tower(pixels(30)), hidden(model.vision_model, kind, 30, -2))


def as_shards(folder, state):
    half = len(state) // 2
    parts = {
        f"model-0000{i}-of-00002.safetensors": dict(list(state.items())[half * (i - 1) :][: half + i]) for i in (1, 2)
    }
    for name, part in parts.items():
        save_file(part, folder / name, {"format": "pt"})
    weights = {key: name for name, part in parts.items() for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


LAYOUTS = {
    "safetensors": lambda folder, state: save_file(state, folder / "model.safetensors", {"format": "pt"}),
    "shards": as_shards,
    "bin": lambda folder, state: torch.save(state, folder / "pytorch_model.bin"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_precision_becomes_fp32(layout, dtype, tmp_path):
    state = {n: t.to(dtype).contiguous() for n, t in whole("clip_vision_model").state_dict().items()}
    extra = {"embeddings.position_ids": torch.arange(10)[None]}  # as published; it is no weight
    LAYOUTS[layout](tmp_path, state | extra)
    tower = build_tower(entry("clip_vision_model", hub=str(tmp_path)))
    held = {n.removeprefix("net."): t for n, t in tower.state_dict().items()}
    assert len(held) > 60 and held.keys() < state.keys()
    assert all(t.dtype == torch.float32 and torch.equal(t, state[n].float()) for n, t in held.items())


def test_the_weights_have_the_asked_precision(tmp_path):
    whole("siglip_vision_model").save_pretrained(tmp_path)
    tower = build_tower(entry("siglip_vision_model", hub=str(tmp_path)), dtype=torch.bfloat16)
    assert {p.dtype for p in tower.parameters()} == {torch.bfloat16}
    assert tower(pixels(30).bfloat16()).isfinite().all()


def test_loading_says_nothing_and_leaves_logging_as_it_was(tmp_path, capfd, monkeypatch):
    family = CLIPModel(CLIPConfig(vision_config=CONFIGS["clip_vision_model"], text_config=TEXT))
    family.save_pretrained(tmp_path)
    said = []
    listener = Handler()
    monkeypatch.setattr(listener, "emit", lambda record: said.append(record.getMessage()))
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    logging.add_handler(listener)
    capfd.readouterr()
    try:
        build_tower(entry("clip_vision_model", hub=str(tmp_path)))
        assert said == [] and capfd.readouterr() == ("", "")
        assert logging.get_verbosity() == logging.INFO and logging.is_progress_bar_enabled()
    finally:
        logging.remove_handler(listener)
        logging.set_verbosity(before)


def refused(error, *parts, **changes):
    kind = changes.pop("kind", "clip_vision_model")
    with pytest.raises(error) as caught:
        build_tower(entry(kind, **changes) if kind in CONFIGS else vision(config={"model_type": kind}, **changes))
    said = str(caught.value)
    assert "\n" not in said and all(p in said for p in parts), said


def test_missing_weights_are_named(tmp_path):
    state = whole("clip_vision_model").state_dict()
    gone = ["encoder.layers.1.mlp.fc1.bias", "pre_layrnorm.weight"]
    save_file({n: t for n, t in state.items() if n not in gone}, tmp_path / "model.safetensors", {"format": "pt"})
    refused(DataError, str(tmp_path), "lacks 2 of", *gone, hub=str(tmp_path))


def test_what_is_not_read_may_be_missing(tmp_path):
    model = whole("vit")
    state = {n: t for n, t in model.state_dict().items() if not n.startswith(("pooler", "layernorm", "layers.3"))}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with torch.no_grad():
        tokens = build_tower(entry("vit", hub=str(tmp_path), layer=-2))(pixels(24))
        assert torch.equal(tokens, hidden(model, "vit", 24, -2))


def test_a_checkpoint_of_something_else(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    refused(DataError, str(tmp_path), "lacks 69 of the encoder's 69 weights", hub=str(tmp_path))


def test_a_config_that_does_not_fit(tmp_path):
    whole("clip_vision_model").save_pretrained(tmp_path)
    wide = {"model_type": "clip_vision_model", **CONFIGS["clip_vision_model"], "intermediate_size": 48}
    refused(DataError, str(tmp_path), "has shape [24]", "wants [48]", hub=str(tmp_path), config=wide)


@pytest.mark.parametrize("content", [None, b"", b"\x10\0\0\0\0\0\0\0{", b"x" * 200])
def test_no_file_or_a_broken_one(content, tmp_path):
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    refused(DataError, str(tmp_path), "unreadable weights", hub=str(tmp_path))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"embeddings.class_embedding": Evil()}, tmp_path / "pytorch_model.bin")
    refused(DataError, "unreadable weights", hub=str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_entries_that_describe_no_encoder(tmp_path):
    hub = str(tmp_path)
    wide = {"model_type": "vit", **CONFIGS["vit"], "hidden_size": "wide"}
    refused(SpecError, "'clip_visoin_model'; did you mean 'clip_vision_model'?", kind="clip_visoin_model", hub=hub)
    refused(SpecError, "'clip' is not an encoder of equal blocks", "clip_vision_model", kind="clip", hub=hub)
    with pytest.raises(ValueError, match="layer -5 lies before the first of 4 blocks"):
        entry("clip_vision_model", layer=-5, hub=hub)
    with pytest.raises(ValueError, match="less than 0"):
        entry("clip_vision_model", layer=3, hub=hub)
    refused(SpecError, "config:", "hidden_size", config=wide, hub=hub)
    text = vision(config={"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1})
    with pytest.raises(SpecError, match=r"'llama' does not read pictures; it reads input_ids"):
        build_tower(text, pretrained=False)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_counted_without_memory(kind):
    encoder = entry(kind, layer=-2)
    with torch.device("meta"):
        tower = build_tower(encoder, pretrained=False)
        tokens = tower(torch.empty(1, 3, encoder.image_size, encoder.image_size))
    assert {t.device.type for t in [*tower.parameters(), *tower.buffers()]} == {"meta"}
    assert tokens.shape == (1, 9, 16)
    real = build_tower(encoder, pretrained=False)
    assert sum(p.numel() for p in tower.parameters()) == sum(p.numel() for p in real.parameters())


@pytest.mark.parametrize("kind", ["siglip_vision_model", "dinov2_with_registers", "vit"])
def test_a_trained_tower_is_saved_and_loaded_by_its_own_names(kind, tmp_path):
    encoder = entry(kind, layer=-2)
    tower = shaken(build_tower(encoder, pretrained=False))
    save_file(tower.state_dict(), tmp_path / "part.safetensors")  # refuses a weight that is there under two names
    again = build_tower(encoder, pretrained=False)
    again.load_state_dict(load_file(tmp_path / "part.safetensors"))
    with torch.no_grad():
        assert torch.equal(tower(pixels(encoder.image_size)), again(pixels(encoder.image_size)))


def in_a_model(kind: str, tiny_model, **tune):
    encoder = entry(kind, layer=-2)
    tower = build_tower(encoder, pretrained=False)
    model = VisionLanguageModel(tiny_model.llm, tower, nn.Linear(16, 16), encoder.image_size, 9)
    freeze_and_train(model, Tuning.model_validate(tune))
    return model


BLOCKS = {
    "clip_vision_model": "vision.net.encoder.layers",
    "dinov2": "vision.net.encoder.layer",
    "vit": "vision.net.layers",
}
"""Where a family keeps its blocks; each has 4, of which the last is not read."""


@pytest.mark.parametrize(("tuned", "trains"), [({"from": 1}, [1, 2]), ({"last": 2}, [2]), ({"last": 4}, [0, 1, 2])])
@pytest.mark.parametrize(("kind", "blocks"), BLOCKS.items(), ids=BLOCKS)
def test_blocks_are_counted_as_published(kind, blocks, tuned, trains, tiny_model):
    """`last` and `from` count the 4 blocks of the whole encoder: `{last: 2}` is blocks 2 and 3, and 3 is not read."""
    model = in_a_model(kind, tiny_model, vision=tuned)
    model.image_embeddings(pixels(model.image_size)).square().sum().backward()
    learnt = {n for n, p in model.named_parameters() if n.startswith("vision.") and p.grad is not None}
    beginnings = tuple(f"{blocks}.{i}." for i in trains)
    assert learnt == {n for n, _ in model.named_parameters() if n.startswith(beginnings)} and learnt
    rates = {"lr": 1e-3, "steps": 1, "mixture": ["x"], "name": "s", "tune": {"vision": tuned}}
    row = tuning_table(model, Stage.model_validate(rates))[0]
    assert row.trained == sum(p.numel() for n, p in model.named_parameters() if n in learnt)


@pytest.mark.parametrize("tuned", [{"last": 1}, {"from": 3}, {"last": 5}, {"from": 4}])
def test_a_tuning_that_reaches_only_what_is_not_read(tuned, tiny_model):
    with pytest.raises(SpecError, match=r"blocks 0 to 3, of which those after 2 are not read$"):
        in_a_model("clip_vision_model", tiny_model, vision=tuned)


def test_a_frozen_tower_leaves_no_gradients(tiny_model):
    model = in_a_model("clip_vision_model", tiny_model)
    model.image_embeddings(pixels(30)).sum().backward()
    assert model.connector.weight.grad is not None
    assert all(p.grad is None for p in model.vision.parameters())


def test_dropout_in_a_config_never_acts(tmp_path):
    config = {"model_type": "vit", **CONFIGS["vit"], "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    tower = build_tower(entry("vit", config=config), pretrained=False).train()
    assert torch.equal(tower(pixels(24)), tower(pixels(24)))
