"""The options of the verbs that help with specs and shells: schema, completion, init, import-config."""

# ruff: noqa: RUF009 (`option` and `argument` are dataclasses.field)

from dataclasses import dataclass
from pathlib import Path

from remora.commands.declaring import argument, option
from remora.commands.options import Options


@dataclass(frozen=True, kw_only=True)
class SchemaOptions(Options):
    """JSON schemas of every YAML, for completion and checks in an editor"""

    kind: str | None = argument("variant, space, recipe, condensation, … (default: list them)", None)
    out: Path | None = option("write all of them to DIR, and print the line for the top of a YAML", metavar="DIR")


@dataclass(frozen=True, kw_only=True)
class CompletionOptions(Options):
    """a script that completes verbs, flags and values in a shell"""

    shell: str = argument("bash | zsh | fish", choices=["bash", "zsh", "fish"])
