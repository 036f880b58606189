"""The published benchmarks, one record each. The class that `protocol` names implements the rules."""

from __future__ import annotations

from dataclasses import dataclass

HERE = "remora.evaluation.benchmarks"


@dataclass(frozen=True)
class Paper:
    """A published benchmark. In scores.yaml, its headline figure has the benchmark's name."""

    title: str
    protocol: str
    """Its protocol class (evaluation/benchmarks/protocol.py), as module:Class."""
    folders: tuple[str, ...] = ()
    """Folders below playground/data/eval (LLaVA's layout) that may have its files; default: its name."""
    reported: tuple[str, ...] = ()
    """Its other figures in scores.yaml, such as mme.cognition or a split that its server scores."""


PAPERS: dict[str, Paper] = {
    "vqav2": Paper("VQAv2", f"{HERE}.vqav2:VQAv2"),
    "gqa": Paper("GQA", f"{HERE}.gqa:GQA"),
    "scienceqa": Paper("ScienceQA", f"{HERE}.scienceqa:ScienceQA"),
    "textvqa": Paper("TextVQA", f"{HERE}.textvqa:TextVQA"),
    "pope": Paper("POPE", f"{HERE}.pope:POPE"),
    "mme": Paper("MME", f"{HERE}.mme:MME", ("mme", "MME"), ("mme.cognition",)),
    "mmbench": Paper("MMBench", f"{HERE}.mmbench:MMBench", reported=("mmbench.test",)),
    "mmbench-cn": Paper("MMBench-CN", f"{HERE}.mmbench:MMBench", ("mmbench-cn", "mmbench_cn"), ("mmbench-cn.test",)),
    "seed": Paper("SEED-Bench", f"{HERE}.seed:SEED", ("seed", "seed_bench"), ("seed.image",)),
    "mmmu": Paper("MMMU", f"{HERE}.mmmu:MMMU", ("mmmu", "MMMU"), ("mmmu.test",)),
    "vizwiz": Paper("VizWiz", f"{HERE}.vizwiz:VizWiz"),
    "mmvet": Paper("MM-Vet", f"{HERE}.mmvet:MMVet", ("mmvet", "mm-vet")),
    "llava-bench": Paper(
        "LLaVA-Bench (In-the-Wild)", f"{HERE}.llava_bench:LLaVABench", ("llava-bench", "llava-bench-in-the-wild")
    ),
}
