"""The average of two variants answers like a model whose every weight is the average; other combinations are
refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from remora.catalog import llm
from remora.cli import main
from remora.errors import SpecError
from remora.inference import Bundle, read_bundle, write_bundle
from remora.inference.bundle_average import average_bundles
from remora.model.llm import create_from_scratch
from remora.model.lora import add_adapter, save_adapter
from remora.model.parts import compose, save_part
from remora.model.refs import PartRef
from remora.spec import Lora
from support.tiny import shrunk

WORDS = ["USER: What is this? ASSISTANT: a red circle"] * 3


def variant(root, seed, lora=False):
    """A bundle with its own connector and, with `lora`, an adapter on the language model that both start from."""
    entry = llm("demo-2m").model_copy(update={"config": shrunk(llm("demo-2m").config, 48, 64)})
    if not (root / "llm").exists():
        create_from_scratch(entry, WORDS, 1, root / "llm")
    parts = {
        "vision": PartRef("efficientnet-lite0"),
        "connector": PartRef("mlp2x_gelu"),
        "llm": PartRef("demo-2m", root / "llm"),
    }
    model, tokenizer = compose(parts, seed)
    save_part("connector", model, model.connector.state_dict(), tokenizer, root / f"{seed}-connector")
    parts["connector"] = replace(parts["connector"], folder=root / f"{seed}-connector")
    if lora:
        settings = Lora(r=2, alpha=4, dropout=0.0)
        add_adapter("llm", model.llm, settings, seed)
        with torch.no_grad():
            state = {n: torch.randn_like(p) for n, p in model.llm.named_parameters() if ".lora_" in n}
        (root / f"{seed}-adapter").mkdir()
        save_adapter(state, settings, root / f"{seed}-adapter")
        parts["llm"] = replace(parts["llm"], adapters=(root / f"{seed}-adapter",))
    write_bundle(root / f"v{seed}", Bundle(f"v{seed}", parts, "brief", "pad", 0), {})
    return root / f"v{seed}"


@pytest.mark.slow
def test_every_weight_is_the_average_with_adapters_merged(tmp_path, capsys):
    folders = [variant(tmp_path, 1, lora=True), variant(tmp_path, 2)]
    argv = ["average", *map(str, folders), "--weights", "0.3", "0.7", "--out", str(tmp_path / "mean")]
    main([*argv, "--runs", str(tmp_path)])
    (cards,) = (tmp_path / "cards").glob("mean-*")
    assert "It was averaged: 0.3 of v1, 0.7 of v2" in (cards / "README.md").read_text().replace("\n", " ")
    assert (cards / "bom.cdx.json").is_file() and f"bill of materials: {cards}" in capsys.readouterr().out
    made = read_bundle(tmp_path / "mean", tmp_path / "cache")
    assert (made.name, made.aspect, made.parts["vision"].folder) == ("mean", "pad", None)
    a, b, mean = (compose(read_bundle(f, tmp_path / "cache").parts, 0)[0] for f in (*folders, tmp_path / "mean"))
    one, two = a.state_dict(), b.state_dict()
    for name, tensor in mean.state_dict().items():
        torch.testing.assert_close(tensor, (0.3 * one[name].double() + 0.7 * two[name].double()).to(tensor.dtype))
    moved = "llm.model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(one[moved], two[moved])
    assert load_file(tmp_path / "mean" / "connector" / "model.safetensors")


def test_other_templates_and_weights_are_refused_before_anything_is_written(tmp_path):
    one, two = variant(tmp_path, 1), variant(tmp_path, 2)
    with pytest.raises(SpecError, match="sum to 1"):
        average_bundles([one, two], [0.3, 0.3], tmp_path / "mean", tmp_path / "cache")
    other = replace(read_bundle(two, tmp_path / "cache"), template="vicuna")
    write_bundle(tmp_path / "other", other, {})
    with pytest.raises(SpecError, match=r"other and .*v1 have template 'vicuna' and 'brief'"):
        average_bundles([one, tmp_path / "other"], [0.3, 0.7], tmp_path / "mean", tmp_path / "cache")
    assert not (tmp_path / "mean").exists()
