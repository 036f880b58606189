"""Small answerers whose language models vLLM's CPU kernels take, and the Python that has vLLM."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from remora.errors import ServingError
from remora.inference import Answerer
from remora.inference.vllm.process import PYTHON, vllm_python
from support.small_answerers import answerer_of

MADE = Path(__file__).resolve().parents[2] / ".venv-vllm" / "bin" / "python"
"""By `make vllm`."""
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"num_key_value_heads": 2, "vocab_size": 340, "max_position_embeddings": 1024}
SHAPE |= {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}


STANDIN = """\
#!/bin/sh
[ "$1" = -c ] || exec {python} {standin} "$2"
"""


def standin(folder: Path) -> Path:
    """An executable in place of the Python that has vLLM: its worker is vllm_standin.py."""
    made = folder / "python"
    made.write_text(STANDIN.format(python=sys.executable, standin=Path(__file__).with_name("vllm_standin.py")))
    made.chmod(0o755)
    return made


def python_or_skip() -> Path:
    """The Python that has vLLM; skips the test where none has."""
    try:
        return vllm_python(MADE if not os.environ.get(PYTHON) and MADE.exists() else None)
    except ServingError as e:
        pytest.skip(f"{e}")


def llm_for_vllm(kind: str = "llama", **other: Any) -> PreTrainedModel:
    """Random weights, large enough that answers hang on what was read."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE | other)
    llm = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.08)
    return llm.eval()


def answerer_for_vllm(tokenizer: PreTrainedTokenizerBase, folder: Path, kind: str = "llama", **other: Any) -> Answerer:
    """An answerer whose language model is also in `folder`."""
    llm = llm_for_vllm(kind, **other)
    llm.save_pretrained(folder)
    return answerer_of(kind, tokenizer, llm=llm)
