"""The engine that the endpoint's arguments name, for a model that was loaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from remora.errors import ServingError
from remora.serving.engines.builtin import BuiltinEngine

if TYPE_CHECKING:
    from remora.serving.args import EndpointArgs
    from remora.serving.champion import ServedModel
    from remora.serving.engines.threaded import ThreadedEngine


def engine_of(args: EndpointArgs, model: ServedModel) -> ThreadedEngine:
    """An engine for `model`, which runs from now on.

    Raises:
        ServingError: `engine: vllm`, and vLLM is not there or cannot run the language model.
    """
    if args.engine == "builtin":
        return BuiltinEngine.of(model.answerer, args.cache_bytes)
    from remora.inference.vllm.weights import language_model_folder
    from remora.serving.engines.vllm import VllmServing

    if model.folder is None:
        raise ServingError(f"engine vllm needs a bundle, which {model.answerer.name} has not; next: engine: builtin")
    assert args.runs is not None, "resolved at deployment"
    if args.weights != "float32":
        raise ServingError(f"engine vllm runs float32 weights; found weights: {args.weights}; next: engine: builtin")
    llm = language_model_folder(model.folder, args.runs / "cache")
    log = args.runs / "logs" / f"vllm-{os.getpid()}.log"
    return VllmServing.of(model.answerer, llm, args.cache_bytes, args.vllm_python, log)
