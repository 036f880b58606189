"""A published checkpoint becomes a bundle whose logits are those of the layout's own forward pass."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from remora import catalog
from remora.commands import exchange as commands
from remora.commands.options import ExportOptions, ImportOptions
from remora.errors import DataError
from remora.inference.bundle import read_bundle
from remora.inference.exporting import export_bundle
from remora.inference.importing import import_checkpoint
from remora.model.parts import compose
from remora.token_ids import IMAGE
from support.exchange_fake import LLM, MLP2, ROWS, VISION, encoder, tiny_vlm
from support.exchange_layouts import factory, llava_hf, original

EXACT = 1e-5  # fp32: the same matrices; a cut tower runs the same blocks


def llm_entry(name):
    config = {k: v for k, v in LLM[name].to_diff_dict().items() if k not in ("transformers_version", "dtype")}
    config |= {"model_type": LLM[name].model_type, "vocab_size": ROWS[name]}
    config |= {k: getattr(LLM[name], k) for k in ("hidden_size", "num_hidden_layers")}
    facts = {"short": name, "loader": "transformers", "hub": f"tiny/{name}", "config": config}
    return catalog.LLM(**facts, parameters=1, licence="none", source="a test")


@pytest.fixture
def known(monkeypatch):
    """A catalog of the tiny parts; what a test adds or removes affects no other test."""
    shipped = catalog.entries
    kinds = {
        "vision": {name: encoder(name) for name in VISION},
        "llm": {name: llm_entry(name) for name in LLM},
        "connectors": {"mlp2x_gelu": MLP2},
    }
    monkeypatch.setattr(catalog, "entries", lambda kind: kinds.get(kind) or shipped(kind))
    return kinds


def reference(model, ids, pixels, drop):
    """Logits as LLaVA-style code computes them: text and picture embeddings cut and joined, whole tower, block -2."""
    states = model.vision.module(pixels, output_hidden_states=True).hidden_states[-2][:, drop:]
    said = []
    left = 0
    (places,) = torch.where(ids == IMAGE)
    table = model.llm.get_input_embeddings()
    for n, at in enumerate([*places.tolist(), len(ids)]):
        said.append(table(ids[left:at]))
        if n < len(places):
            said.append(model.connector(states[n]))
        left = at + 1
    return model.llm(inputs_embeds=torch.cat(said)[None]).logits[0]


def logits_of(bundle, ids, pixels, cache):
    read = read_bundle(bundle, cache)
    model, _ = compose(read.parts, read.seed)
    expanded = torch.cat([torch.full((model.image_tokens,), IMAGE) if i == IMAGE else i[None] for i in ids])
    return model.llm(inputs_embeds=model.embed(expanded[None], pixels)).logits[0]


@torch.no_grad()
def check(model, tmp_path, drop):
    generator = torch.Generator().manual_seed(3)
    ids = torch.tensor([7, 8, IMAGE, 9, 100, 11, IMAGE, 12])
    pixels = torch.randn(2, 3, 16, 16, generator=generator)
    expected = reference(model, ids, pixels, drop)
    classes = 0 if model.vision.module.config.model_type == "siglip_vision_model" else 1
    assert len(expected) == 6 + 2 * (16 + classes - drop)
    torch.testing.assert_close(logits_of(tmp_path / "out", ids, pixels, tmp_path), expected, rtol=EXACT, atol=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "llm", "form", "modern"),
    [
        ("clip", "llama", "safetensors", False),
        ("clip", "qwen2", "shards", True),
        ("siglip", "phi", "bin", False),
        ("siglip", "gpt_neox", "safetensors", False),
        ("siglip", "gemma", "shards", False),
        ("clip", "phi3", "safetensors", True),
    ],
)
def test_llava_hf(tmp_path, known, vision, llm, form, modern):
    model, tokenizer = tiny_vlm(vision, llm)
    source = llava_hf(tmp_path / "in", model, tokenizer, vision, llm, form, modern)
    made = import_checkpoint(source, tmp_path / "out")
    assert (made.layout, made.parts["vision"], made.parts["llm"]) == ("llava-hf", vision, llm)
    check(model, tmp_path, 0 if vision == "siglip" else 1)


@pytest.mark.parametrize(("llm", "form"), [("phi", "safetensors"), ("llama", "shards")])
def test_tinyllava_factory(tmp_path, known, llm, form):
    model, tokenizer = tiny_vlm("clip", llm)
    if llm == "phi":
        model.llm.lm_head.bias.data.normal_()  # Factory builds transformers' own class, with its bias
    source = factory(tmp_path / "in", model, tokenizer, "clip", llm, form)
    made = import_checkpoint(source, tmp_path / "out")
    assert (made.layout, made.parts["llm"], made.aspect) == ("TinyLLaVA Factory", llm, "square")
    check(model, tmp_path, 1)


def test_factorys_patch_drops_siglips_first_patch_and_so_does_the_import(tmp_path, known, capsys):
    """SigLIP has no class token: 728 of 729 patches are what the published models were trained on and answer with."""
    model, tokenizer = tiny_vlm("siglip", "llama")
    source = factory(tmp_path / "in", model, tokenizer, "siglip", "llama")
    with pytest.raises(DataError, match="the catalog has no vision") as caught:
        import_checkpoint(source, tmp_path / "out")
    assert "siglip-15:" in caught.value.__notes__[0] and "prefix: 1" in caught.value.__notes__[0]
    known["vision"]["siglip-15"] = encoder("siglip").model_copy(update={"prefix": 1, "tokens": 15})
    made = import_checkpoint(source, tmp_path / "out")
    assert made.parts["vision"] == "siglip-15"
    check(model, tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "llm", "kind", "changes"),
    [
        ("siglip", "phi", "bunny-phi", {}),
        ("siglip", "qwen2", "bunny-qwen", {}),
        ("siglip", "stablelm", "bunny-stablelm", {}),
        ("clip", "llama", "llava_llama", {}),
    ],
)
def test_bunny_and_llava_with_their_towers(tmp_path, known, vision, llm, kind, changes):
    model, tokenizer = tiny_vlm(vision, llm)
    if llm == "stablelm":  # as StableLM was published before transformers had it
        changes = {"rope_pct": 0.5, "norm_eps": 1e-3, "rope_theta": 10000.0}
    source = original(tmp_path / "in", model, tokenizer, vision, llm, kind, **changes)
    if llm == "stablelm":
        said = json.loads((source / "config.json").read_text())
        for key in ("partial_rotary_factor", "rope_parameters", "layer_norm_eps"):
            said.pop(key, None)
        (source / "config.json").write_text(json.dumps(said))
    made = import_checkpoint(source, tmp_path / "out")
    assert made.layout == ("Bunny" if kind.startswith("bunny") else "LLaVA")
    assert made.parts["llm"] == llm and made.aspect == "pad" and not made.at_hub
    check(model, tmp_path, 0 if vision == "siglip" else 1)


def test_llava_without_its_towers_weights_refers_to_the_hub(tmp_path, known, monkeypatch):
    model, tokenizer = tiny_vlm("clip", "llama")
    source = original(tmp_path / "in", model, tokenizer, "clip", "llama", "llava", "bin", tower=False)
    model.vision.module.save_pretrained(tmp_path / "tiny" / "clip")  # replaces the hub
    monkeypatch.chdir(tmp_path)
    made = import_checkpoint(source, tmp_path / "out")
    assert made.at_hub == ("vision",) and not (tmp_path / "out" / "vision").exists()
    check(model, tmp_path, 1)


def test_what_is_exported_comes_back_the_same(tmp_path, known):
    model, tokenizer = tiny_vlm("siglip", "qwen2")
    import_checkpoint(llava_hf(tmp_path / "in", model, tokenizer, "siglip", "qwen2"), tmp_path / "out")
    assert export_bundle(tmp_path / "out", tmp_path / "stock", tmp_path).layout == "llava"
    assert str(tmp_path) not in (tmp_path / "stock/config.json").read_text(), "a folder of this machine"
    known["llm"]["qwen2-chat"] = known["llm"]["qwen2"].model_copy(update={"hub": "tiny/qwen2-chat"})  # by its hub id
    (tmp_path / "again").mkdir()
    made = import_checkpoint(tmp_path / "stock", tmp_path / "again/out")
    assert made.parts == {"vision": "siglip", "connector": "mlp2x_gelu", "llm": "qwen2"}
    ids, pixels = torch.tensor([7, IMAGE, 9]), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        a = logits_of(tmp_path / "out", ids, pixels, tmp_path)
        b = logits_of(tmp_path / "again/out", ids, pixels, tmp_path)
    torch.testing.assert_close(b[:, : a.shape[1]], a, rtol=EXACT, atol=EXACT)


def test_a_bundle_without_a_stock_layout_is_written_whole(tmp_path, known):
    model, tokenizer = tiny_vlm("clip", "phi")
    model.llm.lm_head.bias.data.normal_()
    import_checkpoint(factory(tmp_path / "in", model, tokenizer, "clip", "phi"), tmp_path / "out")
    made = export_bundle(tmp_path / "out", tmp_path / "whole", tmp_path)
    assert made.layout == "remora" and "has a bias" in made.reason
    (tmp_path / "out").rename(tmp_path / "first")
    (tmp_path / "whole").rename(tmp_path / "out")
    assert all(ref.folder is not None for ref in read_bundle(tmp_path / "out", tmp_path / "nowhere").parts.values())
    check(model, tmp_path, 1)
    with pytest.raises(DataError, match="not empty"):
        export_bundle(tmp_path / "first", tmp_path / "out", tmp_path)


def test_an_unmatched_part_comes_with_the_entry_to_add(tmp_path, known):
    """What is printed is what is missing: pasted into the catalog, the import goes through."""
    import yaml

    model, tokenizer = tiny_vlm("siglip", "stablelm")
    source = llava_hf(tmp_path / "in", model, tokenizer, "siglip", "stablelm")
    for kind, model_of, name in (("vision", catalog.Vision, "siglip"), ("llm", catalog.LLM, "stablelm")):
        del known[kind][name]
        with pytest.raises(DataError, match=f"the catalog has no {kind}") as caught:
            import_checkpoint(source, tmp_path / "out")
        assert "\n" not in str(caught.value)
        ((new, facts),) = yaml.safe_load(caught.value.__notes__[0]).items()
        facts["hub"] = "tiny/anything"
        known[kind][new] = model_of(**facts)
    import_checkpoint(source, tmp_path / "out")
    check(model, tmp_path, 0)


def test_the_commands_say_what_they_did(tmp_path, known, capsys):
    model, tokenizer = tiny_vlm("siglip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "siglip", "llama")
    asked = ImportOptions(folder=source, out=tmp_path / "out")
    entry = known["vision"].pop("siglip")
    with pytest.raises(DataError, match="the catalog has no vision"):
        commands.import_(asked)
    assert capsys.readouterr().out.startswith("siglip-vision-model-24:\n  short:")
    known["vision"]["siglip"] = entry
    commands.import_(asked)
    said = capsys.readouterr().out
    assert "from a llava-hf checkpoint, template vicuna" in said and "vision: siglip" in said
    commands.export(ExportOptions(model=str(tmp_path / "out"), out=tmp_path / "stock", runs=tmp_path))
    assert "the stock llava layout" in capsys.readouterr().out


def test_two_of_one_architecture_are_asked_for(tmp_path, known):
    known["llm"]["llama-2"] = known["llm"]["llama"].model_copy(update={"hub": "tiny/other"})
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    with pytest.raises(DataError, match=r"llama, llama-2 are all .* --llm llama"):
        import_checkpoint(source, tmp_path / "out")
    assert import_checkpoint(source, tmp_path / "out", llm="llama-2").parts["llm"] == "llama-2"
    with pytest.raises(DataError, match="--vision siglip is not what the checkpoint holds: prefix 0 != 1"):
        import_checkpoint(source, tmp_path / "other", vision="siglip", llm="llama")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("language_model.model.layers.1.mlp.up_proj.weight"), "1 tensors are missing, e.g. .*up_proj"),
        (lambda t: t.pop("vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias"), "tower: 1 tensors are missing"),
        (lambda t: t.update({"language_model.model.extra": torch.ones(1)}), "1 tensors are unknown, e.g. .*extra"),
        (lambda t: t.update({"vision_tower.vision_model.extra": torch.ones(1)}), "tower: 1 tensors are unknown"),
        (lambda t: t.update({"something.else": torch.ones(1)}), "belong to no part, e.g. something.else"),
        (lambda t: t.update({"multi_modal_projector.linear_1.bias": torch.ones(31)}), r"0.bias is \(31,\)"),
        (lambda t: t.pop("multi_modal_projector.linear_2.bias"), "2.bias is missing"),
        (lambda t: t.update({"language_model.model.norm.weight": torch.ones(31)}), "(?s)norm.weight.*31.*32"),
        (lambda t: t.update({"language_model.lm_head.weight": torch.ones(340, 32)}), None),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path, known, change, match):
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors")
    if match is None:
        import_checkpoint(source, tmp_path / "out")
        return
    with pytest.raises(DataError, match=match) as caught:
        import_checkpoint(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_blocks_and_norms_behind_the_block_that_is_read_may_be_absent(tmp_path, known):
    """Bunny's published towers are cut; LLaVA's are whole."""
    model, tokenizer = tiny_vlm("siglip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "siglip", "llama")
    tensors = load_file(source / "model.safetensors")
    kept = {
        k: v for k, v in tensors.items() if not any(w in k for w in ("encoder.layers.2", "post_layernorm", ".head."))
    }
    assert len(kept) < len(tensors)
    save_file(kept, source / "model.safetensors")
    import_checkpoint(source, tmp_path / "out")
    check(model, tmp_path, 0)


def test_a_tied_head_that_is_stored_must_be_the_embeddings(tmp_path, known):
    model, tokenizer = tiny_vlm("siglip", "qwen2")
    source = llava_hf(tmp_path / "in", model, tokenizer, "siglip", "qwen2")
    tensors = load_file(source / "model.safetensors")
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors")
    import_checkpoint(source, tmp_path / "out")
    check(model, tmp_path, 0)
    tensors["language_model.lm_head.weight"][3, 3] += 1
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(DataError, match=r"ties the head to the embeddings, but lm_head\.weight differs"):
        import_checkpoint(source, tmp_path / "other")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"projector_hidden_act": "relu"}, "projector_hidden_act 'relu'"),
        ({"vision_feature_layer": [-2, -1]}, "several layers"),
        ({"model_type": "qwen2_vl"}, "model_type 'qwen2_vl' is not a layout"),
    ],
)
def test_what_has_no_place_here_is_refused(tmp_path, known, config, match):
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama", **config)
    with pytest.raises(DataError, match=match):
        import_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"mm_projector_type": "ldpnet"}, "connector 'ldpnet' cannot be imported"),
        ({"use_s2": True}, "several scales"),
        ({"mm_vision_select_feature": "cls_patch"}, "keeps a class token"),
        ({"image_aspect_ratio": "anyres"}, "makes several pictures of one"),
        ({"model_type": "bunny-minicpm"}, "has no language model of transformers"),
    ],
)
def test_what_the_llava_family_has_and_we_have_not_is_refused(tmp_path, known, config, match):
    model, tokenizer = tiny_vlm("clip", "llama")
    source = original(tmp_path / "in", model, tokenizer, "clip", "llama", "llava_llama", **config)
    with pytest.raises(DataError, match=match):
        import_checkpoint(source, tmp_path / "out")


def test_torn_downloads_are_named(tmp_path, known):
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama", "shards")
    (source / "model-00002-of-00002.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"names model-00002-of-00002\.safetensors, which does not exist"):
        import_checkpoint(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"no config\.json there"):
        import_checkpoint(tmp_path, tmp_path / "out")
    (source / "model-00002-of-00002.safetensors").write_bytes(b"\x01\x02")
    with pytest.raises(DataError, match="not readable"):
        import_checkpoint(source, tmp_path / "out")
