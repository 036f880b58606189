"""What serving takes, against the modules themselves and against figures worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora import catalog
from remora.spec import Variant

SMALL = ("efficientnet-lite0", "mlp2x_gelu", "smollm2-135m")


@pytest.mark.slow
def test_weights_are_those_of_the_modules_by_their_kind() -> None:
    from torch import nn

    from remora.model.parts import sketch
    from remora.planning.serving import WEIGHTS, weight_bytes
    from remora.planning.sizes import part_sizes

    vision, connector, llm = SMALL
    model = sketch(catalog.vision(vision), catalog.connector(connector), catalog.llm(llm))
    head, found = model.llm.get_output_embeddings(), dict.fromkeys(WEIGHTS, 0.0)
    inner = sum(m.weight.numel() for m in model.llm.modules() if isinstance(m, nn.Linear) and m is not head)
    every = part_sizes(*SMALL).total
    for bits, each in WEIGHTS.items():
        found[bits] = inner * each + (every - inner) * max(2.0, each)
        assert weight_bytes(part_sizes(*SMALL), bits) == pytest.approx(found[bits], rel=0.001), bits  # norms


@pytest.mark.slow
def test_the_documented_weights_are_what_is_counted() -> None:
    from remora.planning.serving import PUBLISHED, weights_table

    assert weights_table(PUBLISHED) in (Path(__file__).parents[2] / "docs" / "planning.md").read_text()


@pytest.mark.parametrize(
    ("llm", "bytes_a_token"),
    [
        ("phi-2", 2 * 32 * 32 * 80 * 2),
        ("tinyllama-1.1b-chat", 2 * 22 * 4 * 64 * 2),  # four key heads
        ("smollm2-135m", 2 * 30 * 3 * 64 * 2),
    ],
)
def test_a_tokens_cache_has_keys_and_values_of_every_layer(llm: str, bytes_a_token: int) -> None:
    from remora.planning.serving import cache_bytes

    assert cache_bytes(catalog.llm(llm), "bf16") == cache_bytes(catalog.llm(llm), "int4") == bytes_a_token
    assert cache_bytes(catalog.llm(llm), "fp32") == 2 * bytes_a_token


def test_requests_fill_what_weights_leave_and_speed_follows_the_bandwidth() -> None:
    from remora.planning.serving import ANSWER, PROMPT, serving
    from remora.runs.memory import CONTEXT

    parts = dict(zip(("vision", "connector", "llm"), SMALL, strict=True))
    variants = [Variant(**parts, recipe=recipe) for recipe in ("base", "share")]
    device = catalog.device("l4")
    found = {one.weights: one for one in serving(variants, device)}
    assert list(found) == ["fp32", "bf16", "int8", "int4"]  # once, though two variants have it
    for one in found.values():
        assert one.cache == (one.picture + PROMPT + ANSWER) * 23040 * (2 if one.weights == "fp32" else 1)
        room = 0.9 * (device.memory << 20) - CONTEXT - one.size
        assert one.requests * one.cache <= room < (one.requests + 1) * one.cache
        assert one.together > one.alone * 10
    assert found["bf16"].alone == pytest.approx(0.3e12 / (2 * 134_515_008 + (9 + 64 + 128) * 23040), rel=0.001)
    assert found["int4"].alone > found["int8"].alone > found["bf16"].alone > found["fp32"].alone
    tiny = device.model_copy(update={"memory": 800})
    assert [one.requests for one in serving(variants[:1], tiny)] == [0, 0, 0, 0]
    assert {one.alone for one in serving(variants[:1], catalog.device("cpu"))} == {None}
