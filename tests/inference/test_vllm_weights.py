"""The folder that vLLM loads: the bundle's own where it is the whole language model, else one that is made once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from remora.inference import Answerer, Bundle, Request, read_bundle, write_bundle
from remora.inference.vllm.weights import language_model_folder
from remora.model.lora import add_adapter, save_adapter
from remora.model.parts import compose
from remora.model.refs import PartRef
from remora.serving.args import EndpointArgs
from remora.serving.champion import ServedModel
from remora.serving.engines.chosen import engine_of
from remora.spec import Lora
from support.noise import write_noise
from support.small_answerers import conversations
from support.vllm_small import standin


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("bundle"))


def logits(llm: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return llm(input_ids=torch.arange(2, 14)[None]).logits


def test_a_whole_language_model_is_not_copied(bundle: Path, tmp_path: Path) -> None:
    assert language_model_folder(bundle, tmp_path) == bundle / "llm"
    assert not list(tmp_path.iterdir())


def test_adapters_are_merged_once(bundle: Path, tmp_path: Path) -> None:
    read = read_bundle(bundle, tmp_path)
    model, _ = compose(read.parts, 0)
    lora = Lora(r=2, alpha=8)
    add_adapter("llm", model.llm, lora, 0)
    state = {name: torch.randn_like(p) * 0.1 for name, p in model.llm.named_parameters() if ".lora_" in name}
    (tmp_path / "adapter").mkdir()
    save_adapter(state, lora, tmp_path / "adapter")
    adapted = PartRef(read.parts["llm"].name, bundle / "llm", (tmp_path / "adapter",))
    made = Bundle("made", {**read.parts, "llm": adapted}, read.template, read.aspect, 0)
    write_bundle(tmp_path / "made", made, {})
    folder = language_model_folder(tmp_path / "made", tmp_path / "cache")
    expected, _ = compose(read_bundle(tmp_path / "made", tmp_path).parts, 0)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(expected.llm))
    assert not torch.allclose(logits(expected.llm), logits(compose(read.parts, 0)[0].llm))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert language_model_folder(tmp_path / "made", tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_folder_without_its_class_is_written_again(bundle: Path, tmp_path: Path) -> None:
    """vLLM finds a model by `architectures`."""
    read = read_bundle(bundle, tmp_path)
    model, tokenizer = compose(read.parts, 0)
    model.llm.save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    config = tmp_path / "llm" / "config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "architectures"}))
    named = replace(read, parts={**read.parts, "llm": PartRef(read.parts["llm"].name, tmp_path / "llm")})
    write_bundle(tmp_path / "named", named, {})
    folder = language_model_folder(tmp_path / "named", tmp_path / "cache")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model.llm))


@pytest.mark.slow
def test_the_endpoints_arguments_choose_the_engine(bundle: Path, tmp_path: Path) -> None:
    """A bundle on disk, its files and its answers; vLLM's process has a stand-in."""
    answerer = Answerer.load(bundle)
    args = EndpointArgs(engine="vllm", vllm_python=standin(tmp_path), runs=tmp_path, cache_bytes=1 << 24).resolved()
    engine = engine_of(args, ServedModel(answerer, "1", folder=bundle))

    async def texts() -> list[str]:
        async def one(request: Request) -> str:
            return "".join([delta.text async for delta in engine.submit(request)])

        found = await asyncio.gather(*(one(request) for request in asked))
        await engine.drain()
        return found

    asked = [Request(conversation, 8) for conversation in conversations()[:12]]
    expected = [answerer.answer_alone(request).text for request in asked]
    assert asyncio.run(texts()) == expected and len(set(expected)) > 3
    assert [log.name.startswith("vllm-") for log in (tmp_path / "logs").iterdir()] == [True]
