"""How a verb's options are declared: `argument` and `option` make dataclass fields that the command line reads too."""

from __future__ import annotations

from dataclasses import MISSING, field
from enum import Enum
from typing import Any, TypeVar


class Required(Enum):
    """In place of a default."""

    REQUIRED = "must be given"


REQUIRED = Required.REQUIRED
T = TypeVar("T")


def argument(help: str | None = None, default: T | Required = REQUIRED, **parsing: object) -> T:
    """A positional field; `parsing` goes to argparse."""
    return _field(default, flags=(), parsing={"help": help, **parsing})


def option(
    help: str | None = None,
    default: T | Required | None = None,
    flag: str = "",
    either: bool = False,
    **parsing: object,
) -> T:
    """A field that is a flag: `flag`, or the field's own name. Of those with `either`, a command line may have one."""
    return _field(default, flags=(flag,), parsing={"help": help, **parsing}, either=either)


def _field(default: object, **metadata: object) -> Any:
    return field(default=MISSING if default is REQUIRED else default, metadata=metadata)
