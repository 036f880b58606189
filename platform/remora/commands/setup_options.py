"""The options of the verbs that help with specs and shells: schema, completion, init, import-config."""

# ruff: noqa: RUF009 (`option` and `argument` are dataclasses.field)

from dataclasses import dataclass
from pathlib import Path

from remora.commands.declaring import REQUIRED, argument, option
from remora.commands.options import Options


@dataclass(frozen=True, kw_only=True)
class InitOptions(Options):
    """write a new spec that works for your data, hardware and model; asks for what no flag gives"""

    out: Path = argument("the new file (default: job.yaml)", Path("job.yaml"))
    data: str | None = option("your data (default: the recipe's own)", metavar="PATH")
    images: str | None = option("the folder of its pictures (default: its own)", metavar="DIR")
    gpu: str | None = option("device of the catalog, or cpu (default: this machine's)", metavar="NAME")
    gpus: int | None = option("how many (default: this machine's, or 1)", metavar="N")
    llm: str | None = option("language model (default: what the device takes)", metavar="NAME")
    vision: str | None = option("vision encoder (default: what the device takes)", metavar="NAME")
    connector: str | None = option("connector (default: mlp2x_gelu)", metavar="NAME")
    recipe: str | None = option("recipe (default: base)", metavar="NAME")
    benchmarks: tuple[str, ...] = option("what to measure at the end (default: nothing)", (), metavar="NAME")
    yes: bool = option("ask nothing, take the defaults", False)


@dataclass(frozen=True, kw_only=True)
class ImportConfigOptions(Options):
    """a job and a recipe from the scripts of LLaVA, Bunny, TinyLLaVA Factory, LLaMA-Factory, ms-swift or nanoVLM"""

    scripts: tuple[Path, ...] = argument("in their order, one a stage: .sh, .yaml, .py", metavar="SCRIPT")
    out: Path = option("the new job; its recipe is written beside it", REQUIRED, metavar="FILE")
    trainer: str | None = option("whose they are (default: told by their flags)", metavar="NAME")
    gpus: int | None = option("GPUs that they ran on (default: what they say, or 1)", metavar="N")
    vision: str | None = option("vision encoder, where they name none of the catalog", metavar="NAME")
    connector: str | None = option("connector, where they name none", metavar="NAME")
    llm: str | None = option("language model, where they name none of the catalog", metavar="NAME")
    data: str | None = option("data in place of theirs", metavar="PATH")
    images: str | None = option("the folder of its pictures", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class SchemaOptions(Options):
    """JSON schemas of every YAML, for completion and checks in an editor"""

    kind: str | None = argument("variant, space, recipe, condensation, … (default: list them)", None)
    out: Path | None = option("write all of them to DIR, and print the line for the top of a YAML", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class CompletionOptions(Options):
    """a script that completes verbs, flags and values in a shell"""

    shell: str = argument("bash | zsh | fish", choices=["bash", "zsh", "fish"])
