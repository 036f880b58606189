"""Sizes: published models have the sizes in their papers, and each stage trains what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora import catalog
from remora.spec import Variant

DOCS = Path(__file__).parents[2] / "docs"
PUBLISHED = catalog.entries("published")
SIZED = [name for name, model in PUBLISHED.items() if model.size]


def variant(recipe, vision="clip-l-336", llm="tinyllama-1.1b-chat", **more) -> Variant:
    return Variant(vision=vision, connector="mlp2x_gelu", llm=llm, recipe=recipe, **more)


@pytest.fixture(scope="module")
def counting():
    """remora.planning.sizes, which imports torch."""
    from remora.planning import sizes

    return sizes


@pytest.fixture(scope="module")
def sizes(counting):
    return counting.sizes


@pytest.mark.parametrize("name", SIZED)
def test_a_published_model_is_as_large_as_its_paper_says(name, counting):
    model = catalog.published(name)
    assert counting.as_published(counting.part_sizes(model.vision, model.connector, model.llm), model) == model.size


def test_the_documented_table_is_what_is_counted(counting):
    assert counting.published_table() in (DOCS / "catalog.md").read_text()


CONNECTOR = (1024 + 1) * 2048 + (2048 + 1) * 2048
CLIP_BLOCK = 4 * (1024 + 1) * 1024 + (1024 + 1) * 4096 + (4096 + 1) * 1024 + 2 * 2 * 1024
TINYLLAMA = 1_100_048_384


@pytest.mark.slow
def test_share_trains_the_later_blocks_that_are_read(sizes):
    size = sizes(variant("share"))
    assert (size.vision, size.connector, size.llm) == (303_507_456, CONNECTOR, TINYLLAMA)
    assert size.total == 303_507_456 + CONNECTOR + TINYLLAMA
    assert size.embeddings == 2 * 32_000 * 2048
    # Blocks 12 to 22: the features come from the last block but one, so no gradient reaches block 23.
    assert size.trained == {
        "align": {"vision": 0, "connector": CONNECTOR, "llm": 0},
        "pretrain": {"vision": 11 * CLIP_BLOCK, "connector": CONNECTOR, "llm": TINYLLAMA},
        "finetune": {"vision": 0, "connector": CONNECTOR, "llm": TINYLLAMA},
    }


def test_mipha_trains_the_encoder_up_to_its_features(sizes):
    width, inner = 1152, 4304
    block = 4 * (width + 1) * width + (width + 1) * inner + (inner + 1) * width + 2 * 2 * width
    embeddings = 3 * 14 * 14 * width + width + 729 * width
    size = sizes(variant("mipha", "siglip-so400m-384", "phi-2"))
    assert size.trained["finetune"]["vision"] == embeddings + 26 * block
    assert size.vision - size.trained["finetune"]["vision"] == block + 2 * width + 15_238_352  # norm and pooling head


@pytest.mark.slow
def test_lora_trains_two_thin_matrices_a_linear_layer(sizes):
    # TinyLlama's layers: q and o 2048 x 2048, k and v 2048 x 256, three of 2048 x 5632; not the output head.
    ends = 22 * (2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 5632))
    size = sizes(variant("llava-1.5-lora"))
    assert size.trained["finetune"] == {"vision": 0, "connector": CONNECTOR, "llm": 128 * ends}
    assert size.llm == TINYLLAMA
    smaller = sizes(variant("llava-1.5-lora", overrides={"finetune": {"tune": {"llm": {"lora": {"r": 8}}}}}))
    assert smaller.trained["finetune"]["llm"] == 8 * ends


@pytest.mark.slow
def test_scales_widen_the_connector_and_nothing_else(sizes):
    one, three = sizes(variant("base")), sizes(variant("base", "clip-l-336-s2"))
    assert three.connector - one.connector == 2 * 1024 * 2048
    assert (three.vision, three.llm) == (one.vision, one.llm)


def test_a_language_model_from_scratch_has_its_own_stage(sizes):
    trained = sizes(variant("base", "efficientnet-lite0", "demo-2m")).trained
    assert trained["language"] == {"vision": 0, "connector": 0, "llm": 2_016_960}
    assert list(trained) == ["language", "align", "finetune"]
