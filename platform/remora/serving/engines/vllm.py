"""The engine whose language model runs in vLLM, in a process of its own; vision encoder and connector run here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from remora.inference.vllm.engine import VllmEngine, check_equal, near_of
from remora.inference.vllm.process import VllmProcess, vllm_python
from remora.serving.engines.builtin import ROWS
from remora.serving.engines.threaded import ThreadedEngine

if TYPE_CHECKING:
    from remora.inference import Answerer

CHUNK = 512
"""Tokens in a step of vLLM, those of prompts included."""


class VllmServing(ThreadedEngine):
    """A `ServingEngine` with a VllmEngine. Its process is started again after it died, and ends with this one."""

    process: VllmProcess

    @classmethod
    def of(
        cls,
        answerer: Answerer,
        llm: Path,
        cache_bytes: int,
        python: Path | None = None,
        log: Path = Path("vllm.log"),
    ) -> VllmServing:
        """For a model in memory whose language model is also in the folder `llm`, which `python`'s vLLM loads, with a
        key-value cache of so many bytes. vLLM gets as many threads as torch has here.

        Raises:
            ServingError: no vLLM there, or it cannot run this language model as ours does.
        """
        process = VllmProcess(
            vllm_python(python),
            {
                "model": str(llm),
                "dtype": str(answerer.dtype).removeprefix("torch."),
                "max_length": answerer.max_length,
                "rows": ROWS,
                "chunk": CHUNK,
                "cache_bytes": cache_bytes,
                "near": near_of(answerer.dtype),
            },
            torch.get_num_threads(),
            log,
        )
        try:
            check_equal(answerer, VllmEngine(answerer, process, 1))
        except BaseException:
            process.kill()
            raise
        engine = cls(answerer, lambda rows: VllmEngine(answerer, process, rows), ROWS)
        engine.process = process
        return engine

    def abandon(self, error: BaseException) -> None:
        """As `ThreadedEngine.abandon`; the process, which may be what hangs, is ended."""
        super().abandon(error)
        self.process.kill()

    async def drain(self) -> None:
        """As `ServingEngine.drain` says; thread and process end."""
        await super().drain()
        self.process.kill()
