"""What people have on disk is imported, or refused with advice: adapters, folders a part, a connector, wrappers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_import_published import check, known  # noqa: F401

from remora.errors import DataError, RemoraError
from remora.inference.bundle_average import average_bundles
from remora.inference.exporting import export_bundle
from remora.inference.importing import import_checkpoint
from support.exchange_fake import tiny_vlm
from support.exchange_layouts import factory, llava_hf, original

R, ALPHA = 4, 6
PEFT = {"peft_type": "LORA", "r": R, "lora_alpha": ALPHA, "target_modules": ["q_proj", "v_proj"]}


def rewrite(source, change):
    """The checkpoint's tensors as `change` leaves them."""
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, source / "model.safetensors")


def adapted(model, scale=ALPHA / R):
    """Adapters of q_proj and v_proj by their layers' names, already added to the model: what a merge must give."""
    adapters, generator = {}, torch.Generator().manual_seed(5)
    for name, module in model.llm.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            a = torch.randn(R, module.in_features, generator=generator)
            b = torch.randn(module.out_features, R, generator=generator) * 0.2
            adapters |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
            module.weight += scale * (b @ a)
    assert len(adapters) == 8
    return adapters


def llava_lora(tmp_path, model, tokenizer, adapters, kind="llava_llama", vision="clip", llm="llama", **peft):
    """What LLaVA's finetune_lora.sh leaves, written before the adapters were merged: adapter, config, the connector."""
    source = original(tmp_path / "in", model, tokenizer, vision, llm, kind, "bin", tower=False)
    (source / "pytorch_model.bin").unlink()
    save_file({f"base_model.model.{k}": v for k, v in adapters.items()}, source / "adapter_model.safetensors")
    (source / "adapter_config.json").write_text(json.dumps(PEFT | {"base_model_name_or_path": "./base"} | peft))
    connector = {f"base_model.model.model.mm_projector.{k}": v for k, v in model.connector.state_dict().items()}
    torch.save(connector, source / "non_lora_trainables.bin")
    model.vision.module.save_pretrained(tmp_path / "tiny" / vision)  # replaces the hub
    return source


def save_base(model, folder):
    model.llm.save_pretrained(folder)


@pytest.mark.slow
def test_a_lora_result_of_llava_is_merged_into_the_base_that_it_names(tmp_path, known, monkeypatch):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    save_base(model, tmp_path / "base")
    source = llava_lora(tmp_path, model, tokenizer, adapted(model))
    monkeypatch.chdir(tmp_path)
    made = import_checkpoint(source, tmp_path / "out")
    assert made.notes == ("its adapters are merged into base",) and made.at_hub == ("vision",)
    check(model, tmp_path, 1)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"adapters on \./base, which does not exist; .* --base DIR"):
        import_checkpoint(source, tmp_path / "out")
    import_checkpoint(source, tmp_path / "out", base=str(tmp_path / "elsewhere"))
    check(model, tmp_path, 1)


def test_rank_stabilised_adapters_have_their_own_scale(tmp_path, known, monkeypatch):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    save_base(model, tmp_path / "base")
    source = llava_lora(tmp_path, model, tokenizer, adapted(model, ALPHA / R**0.5), use_rslora=True)
    monkeypatch.chdir(tmp_path)
    import_checkpoint(source, tmp_path / "out")
    check(model, tmp_path, 1)


def test_a_base_with_a_heads_bias_loses_it_as_in_llavas_classes(tmp_path, known, monkeypatch):  # noqa: F811
    """Phi-2 as Microsoft published it has one; Bunny's and LLaVA's classes have none and never load it."""
    model, tokenizer = tiny_vlm("siglip", "phi")
    model.llm.lm_head.bias.data.normal_()
    save_base(model, tmp_path / "base")
    model.llm.lm_head.bias.data.zero_()
    source = llava_lora(tmp_path, model, tokenizer, adapted(model), "bunny-phi", "siglip", "phi")
    monkeypatch.chdir(tmp_path)
    import_checkpoint(source, tmp_path / "out")
    check(model, tmp_path, 0)


@pytest.mark.parametrize("modern", [False, True])
def test_an_adapter_of_peft_on_a_whole_checkpoint(tmp_path, known, modern):  # noqa: F811
    """Without a config: the base's is used, by its old and present names; the connector was fully trained."""
    model, tokenizer = tiny_vlm("clip", "llama")
    base = llava_hf(tmp_path / "base", model, tokenizer, "clip", "llama", "shards", modern)
    adapters = adapted(model)
    model.connector[0].weight += 0.1
    (tmp_path / "in").mkdir()
    named = {f"base_model.model.model.language_model.{k.removeprefix('model.')}": v for k, v in adapters.items()}
    trained = model.connector[0].weight.clone()
    named["base_model.model.model.multi_modal_projector.linear_1.modules_to_save.default.weight"] = trained
    if not modern:  # as peft named them on transformers 4
        named = {k.replace("model.model.language_model.", "model.language_model.model."): v for k, v in named.items()}
        named = {k.replace("model.model.multi_modal", "model.multi_modal"): v for k, v in named.items()}
    save_file(named, tmp_path / "in/adapter_model.safetensors")
    about = PEFT | {"base_model_name_or_path": str(base), "modules_to_save": ["linear_1"]}
    (tmp_path / "in/adapter_config.json").write_text(json.dumps(about))
    import_checkpoint(tmp_path / "in", tmp_path / "out")
    check(model, tmp_path, 1)


def factory_folders(tmp_path, model, tokenizer, vision="clip", llm="llama"):
    """What TinyLLaVA Factory's training leaves: one folder per part."""
    source = factory(tmp_path / "in", model, tokenizer, vision, llm)
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    for part, prefix in (("language_model", ""), ("vision_tower", "_vision_tower."), ("connector", "_connector.")):
        (source / part).mkdir()
        held = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
        torch.save({k.removeprefix(prefix): v for k, v in held.items()}, source / part / "pytorch_model.bin")
    return source


def test_factorys_folder_a_part(tmp_path, known):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = factory_folders(tmp_path, model, tokenizer)
    assert import_checkpoint(source, tmp_path / "out").layout == "TinyLLaVA Factory"
    check(model, tmp_path, 1)
    (source / "connector/pytorch_model.bin").unlink()
    with pytest.raises(DataError, match="no weights in connector/; copy"):
        import_checkpoint(source, tmp_path / "other")


def test_factorys_lora_result(tmp_path, known):  # noqa: F811
    """Its language model is saved with peft's `base_layer` in its names, and the adapter is beside the folders."""
    model, tokenizer = tiny_vlm("clip", "llama")
    source = factory_folders(tmp_path, model, tokenizer)
    file = source / "language_model/pytorch_model.bin"
    held = {
        k.replace("_proj.weight", "_proj.base_layer.weight") if k.endswith(("q_proj.weight", "v_proj.weight")) else k: v
        for k, v in torch.load(file).items()
    }
    torch.save(held, file)
    named = {f"base_model.model.language_model.{k}": v for k, v in adapted(model).items()}
    torch.save(named, source / "adapter_model.bin")
    (source / "adapter_config.json").write_text(json.dumps(PEFT))
    import_checkpoint(source, tmp_path / "out")
    check(model, tmp_path, 1)


def test_a_connector_alone_is_put_between_the_parts_that_its_config_names(tmp_path, known, monkeypatch):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = original(
        tmp_path / "in", model, tokenizer, "clip", "llama", "llava_llama", tower=False, _name_or_path="tiny/llama"
    )
    (source / "model.safetensors").unlink()
    connector = {f"model.mm_projector.{k}": v for k, v in model.connector.state_dict().items()}
    torch.save(connector, source / "mm_projector.bin")
    model.vision.module.save_pretrained(tmp_path / "tiny/clip")
    model.llm.save_pretrained(tmp_path / "tiny/llama")
    tokenizer.save_pretrained(tmp_path / "tiny/llama")
    monkeypatch.chdir(tmp_path)
    made = import_checkpoint(source, tmp_path / "out")
    assert made.at_hub == ("vision", "llm") and "only a connector" in made.notes[0]
    check(model, tmp_path, 1)
    said = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(said | {"_name_or_path": "/home/somebody/vicuna"}))
    with pytest.raises(DataError, match=r"leaves the language model at .* choose with --llm NAME"):
        import_checkpoint(source, tmp_path / "other")
    import_checkpoint(source, tmp_path / "other", llm="llama")
    (source / "config.json").unlink()
    with pytest.raises(DataError, match=r"mm_projector\.bin is only a connector: copy the config\.json"):
        import_checkpoint(source, tmp_path / "third")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["module.", "nested", "folder", "loose"])
def test_what_merging_scripts_and_wrappers_write(tmp_path, known, form):  # noqa: F811
    """DistributedDataParallel's prefix; a state_dict below a key; zero_to_fp32's folder of a file's name; no index."""
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    if form == "module.":
        torch.save({f"module.{k}": v for k, v in tensors.items()}, source / "pytorch_model.bin")
    elif form == "nested":
        torch.save({"state_dict": tensors, "epoch": 3}, source / "pytorch_model.bin")
    elif form == "folder":
        (source / "pytorch_model.bin").mkdir()
        torch.save(tensors, source / "pytorch_model.bin/pytorch_model.bin")
    else:
        names = sorted(tensors)
        for i in (1, 2):
            some = {k: tensors[k] for k in names[i - 1 :: 2]}
            save_file(some, source / f"model-0000{i}-of-00002.safetensors")
    import_checkpoint(source, tmp_path / "out")
    check(model, tmp_path, 1)
    if form == "loose":
        (source / "model-00001-of-00002.safetensors").unlink()
        with pytest.raises(DataError, match=r"model-00001-of-00002\.safetensors is missing, of 2 shards"):
            import_checkpoint(source, tmp_path / "other")


def test_torch_files_of_before_2020_are_read(tmp_path, known):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    import_checkpoint(source, tmp_path / "out")
    check(model, tmp_path, 1)


@pytest.mark.parametrize("part", ["vision_tower.vision_model.", "language_model.model."])
def test_old_integers_and_buffers_decide_no_type(tmp_path, known, part):  # noqa: F811
    """CLIP's position_ids, saved first, and rotary frequencies in fp32 beside weights of half precision."""
    model, tokenizer = tiny_vlm("clip", "llama")
    for parameter in model.parameters():
        parameter.data = parameter.half().float()
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")

    def old(tensors):
        tensors.update({k: t.half() for k, t in tensors.items()})
        tensors[f"{part}embeddings.position_ids"] = torch.arange(17)[None]
        tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    rewrite(source, old)
    made = import_checkpoint(source, tmp_path / "out")
    held = load_file(tmp_path / "out/llm/model.safetensors")
    assert {t.dtype for t in held.values()} == {torch.float16} and not made.notes
    check(model, tmp_path, 1)


def test_what_is_rounded_to_the_type_of_the_rest_is_noted(tmp_path, known):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    wide = ("language_model.model.norm.weight", "vision_tower.vision_model.pre_layrnorm.weight")
    rewrite(source, lambda t: t.update({k: v.bfloat16() for k, v in t.items() if k not in wide}))
    made = import_checkpoint(source, tmp_path / "out")
    assert made.notes == (
        "1 tensors of the language model are rounded to bfloat16, as most of it is, e.g. @.norm.weight",
    )
    norm = load_file(tmp_path / "out/vision/model.safetensors")
    (ours,) = (v for k, v in norm.items() if k.endswith("pre_layrnorm.weight"))
    assert torch.equal(ours, model.vision.module.state_dict()["pre_layrnorm.weight"]), "an encoder is not rounded"


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("language_model.model.layers.1.mlp.up_proj.weight", float("nan"), "llm: .*up_proj.weight has NaN"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias", float("-inf"), "vision: .*fc1.bias has an infin"),
        ("multi_modal_projector.linear_2.weight", float("inf"), r"connector: 2\.weight has an infinity"),
    ],
)
def test_numbers_that_are_none_are_found_by_name(tmp_path, known, name, value, what):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    rewrite(source, lambda t: t[name].view(-1)[3:4].fill_(value))
    with pytest.raises(DataError, match=what):
        import_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end: its prompts have <im_start> and <im_end>"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type 'spatial_unpad'"),
        ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio 'anyres_max_9'.*several pictures"),
        ({"mm_vision_select_feature": "slicefour_patch"}, "mm_vision_select_feature"),
        ({"mm_resampler_type": "perceiver"}, "a resampler before its connector"),
        ({"mm_spatial_pool_stride": 2}, "pools its features"),
        ({"s2": True}, "several scales"),
        ({"moe": {"top_k": 2}}, "experts"),
        ({"unfreeze_mm_vision_tower": True}, "unfreeze_mm_vision_tower says that its encoder was trained"),
        ({"mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter"}, "mm_tunable_parts says that its encoder was trained"),
        ({"mm_vision_select_layer": [-2, -5]}, "several layers"),
        ({"mm_vision_select_layer": "last"}, "is not a layer's number"),
        ({"mm_projector_type": ["mlp2x_gelu"]}, "is not a name"),
        ({"num_attention_heads": 0}, "no model can be built|makes no llama"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000, which no model has"),
    ],
)
def test_a_flag_is_acted_on_or_refused_by_name(tmp_path, known, change, what):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = original(tmp_path / "in", model, tokenizer, "clip", "llama", "llava_llama", tower=False, **change)
    with pytest.raises(DataError, match=what) as caught:
        import_checkpoint(source, tmp_path / "out", llm="llama")
    assert "\n" not in str(caught.value)


def test_flags_that_say_nothing_new_pass_and_unknown_ones_are_noted(tmp_path, known):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    plain = {"mm_use_im_start_end": False, "mm_use_im_patch_token": True, "mm_patch_merge_type": "flat", "s2": None}
    plain |= {"tune_mm_mlp_adapter": False, "mm_projector_lr": 2e-5, "unfreeze_mm_vision_tower": True}
    source = original(tmp_path / "in", model, tokenizer, "clip", "llama", "llava_llama", mm_new_trick=7, **plain)
    made = import_checkpoint(source, tmp_path / "out")
    assert made.notes == ("1 keys of config.json that nothing here reads: mm_new_trick",)
    assert json.loads((tmp_path / "out/bundle.json").read_text())["about"]["imported"]["notes"] == list(made.notes)
    check(model, tmp_path, 1)


def bitsandbytes_8(t):
    t["language_model.model.layers.0.mlp.up_proj.SCB"] = torch.ones(48)


def bitsandbytes_4(t):
    t["language_model.model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4"] = torch.zeros(9).byte()


def gptq(t):
    t["language_model.model.layers.0.mlp.up_proj.qweight"] = torch.zeros(4, 4).int()


def float8(t):
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    t[name] = t[name].to(torch.float8_e4m3fn)


def ungathered(t):
    t["language_model.model.layers.0.mlp.up_proj.weight"] = torch.ones(0)


def integers(t):
    t["language_model.model.layers.0.mlp.up_proj.weight"] = torch.ones(48, 32).long()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (bitsandbytes_8, r"quantised \(bitsandbytes\), e\.g\. .*SCB; import the checkpoint that it was made from"),
        (bitsandbytes_4, r"quantised \(bitsandbytes\)"),
        (gptq, r"quantised \(GPTQ or AWQ\)"),
        (float8, r"quantised \(float8_e4m3fn\)"),
        (ungathered, "saved under ZeRO 3 without being gathered"),
        (integers, r"is torch\.int64, and weights must be floating"),
    ],
)
def test_weights_that_are_no_weights_are_named(tmp_path, known, change, what):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    rewrite(source, change)
    with pytest.raises(DataError, match=what):
        import_checkpoint(source, tmp_path / "out")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("files", "what"),
    [
        (
            ["global_step1000/zero_pp_rank_0_mp_rank_00_optim_states.pt", "latest"],
            "global_step1000 is a DeepSpeed .*py",
        ),
        (["mp_rank_00_model_states.pt"], "DeepSpeed checkpoint that was never merged"),
        (["checkpoint-900/config.json", "checkpoint-1000/config.json"], "give one of them: .*checkpoint-1000"),
        (["model-q4.gguf"], "llama.cpp's weights"),
        (["consolidated.00.pth"], "a torch file of no known layout"),
        (["non_lora_trainables.bin"], "beside a LoRA adapter, and the adapter is missing"),
        (["bundle.json"], "a bundle of Remora already"),
        ([], "looked for model.safetensors"),
    ],
)
@pytest.mark.parametrize("config", [True, False])
def test_what_cannot_be_read_is_called_by_its_name(tmp_path, known, files, what, config):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = original(tmp_path / "in", model, tokenizer, "clip", "llama", "llava_llama")
    (source / "model.safetensors").unlink()
    if not config:
        if "non_lora" in str(files):
            return
        (source / "config.json").unlink()
    for name in files:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"{}")
    with pytest.raises(DataError, match=what):
        import_checkpoint(source, tmp_path / "out")


class Runs:
    """Unpickled, it runs a command."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.touched}",)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, known):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama", "bin")
    for new in (True, False):
        torch.save({"x": Runs(tmp_path / "ran")}, source / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        with pytest.raises(DataError, match="not readable") as caught:
            import_checkpoint(source, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../in/model.safetensors", "/etc/passwd", "a/b.bin", "", "..", 7, None])
def test_an_index_names_files_of_its_own_folder_alone(tmp_path, known, name):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(DataError, match=r"does not exist|does not say which file"):
        import_checkpoint(source, tmp_path / "out")


def test_a_view_larger_than_its_bytes_takes_no_memory(tmp_path, known):  # noqa: F811
    """One number, said to be a tensor of 4 TB."""
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama", "bin")
    tensors = torch.load(source / "pytorch_model.bin")
    tensors["language_model.model.norm.weight"] = torch.ones(1).expand(1 << 40)
    torch.save(tensors, source / "pytorch_model.bin")
    with pytest.raises(DataError, match="a view that is larger than its bytes"):
        import_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("peft", "what"),
    [
        ({"peft_type": "IA3"}, "adapter of kind 'IA3'"),
        ({"use_dora": True}, "has use_dora"),
        ({"lora_alpha": "x"}, "lora_alpha 'x' is not a number"),
    ],
)
def test_adapters_of_another_kind_are_named(tmp_path, known, peft, what):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    with pytest.raises(DataError, match=what):
        import_checkpoint(llava_lora(tmp_path, model, tokenizer, adapted(model), **peft), tmp_path / "out")


def test_half_an_adapter_and_one_of_another_model_are_named(tmp_path, known, monkeypatch):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    save_base(model, tmp_path / "base")
    adapters = adapted(model)
    source = llava_lora(tmp_path, model, tokenizer, adapters)
    monkeypatch.chdir(tmp_path)
    half = {f"base_model.model.{k}": v for k, v in adapters.items() if "lora_A" in k}
    save_file(half, source / "adapter_model.safetensors")
    with pytest.raises(DataError, match="q_proj has only lora_A; the adapter is torn"):
        import_checkpoint(source, tmp_path / "out")
    wide = {f"base_model.model.{k}": torch.ones(64, R) if "lora_B" in k else v for k, v in adapters.items()}
    save_file(wide, source / "adapter_model.safetensors")
    with pytest.raises(DataError, match="the adapter was made for another model"):
        import_checkpoint(source, tmp_path / "out")
    (source / "adapter_config.json").unlink()
    with pytest.raises(DataError, match="an adapter without its adapter_config"):
        import_checkpoint(source, tmp_path / "out")


def test_a_base_is_asked_for_where_there_are_adapters_alone(tmp_path, known):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    with pytest.raises(DataError, match="has no adapters that need a base"):
        import_checkpoint(source, tmp_path / "out", base="x/y")
    with pytest.raises(DataError, match="is a file; give its folder"):
        import_checkpoint(source / "model.safetensors", tmp_path / "out")
    with pytest.raises(DataError, match="there is no such folder"):
        import_checkpoint(tmp_path / "nowhere", tmp_path / "out")


def test_an_out_that_cannot_be_written_is_one_line(tmp_path, known, monkeypatch):  # noqa: F811
    model, tokenizer = tiny_vlm("clip", "llama")
    source = llava_hf(tmp_path / "in", model, tokenizer, "clip", "llama")
    import_checkpoint(source, tmp_path / "bundle")
    (tmp_path / "file").write_text("")
    verbs = [
        lambda out: import_checkpoint(source, out),
        lambda out: export_bundle(tmp_path / "bundle", out, tmp_path),
        lambda out: average_bundles([tmp_path / "bundle"] * 2, [0.5, 0.5], out, tmp_path),
    ]
    for verb in verbs:
        for out, what in (
            (tmp_path / "file/out", "cannot be written"),
            (tmp_path / "file", "not empty|cannot be written"),
            (tmp_path / ("x" * 300), "cannot be written: file name too long"),
        ):
            with pytest.raises(RemoraError, match=what) as caught:
                verb(out)
            assert "\n" not in str(caught.value) and "--out" in str(caught.value)

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    before = sorted(p.name for p in tmp_path.iterdir())
    monkeypatch.setattr("safetensors.torch.serialize_file", full)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    for verb in verbs:
        with pytest.raises(RemoraError, match=r"No space left|the disk is full") as caught:
            verb(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == before, "what was begun is gone"
