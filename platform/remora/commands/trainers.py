"""The tables of other trainers' flags, trainers.yaml, as they are read."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from remora.spec import Spec, read_yaml, validate

TABLES = Path(__file__).with_name("trainers.yaml")
Role = Literal[
    "data", "images", "cap", "held-out", "each", "accumulation", "devices", "deepspeed", "benchmarks", "layer",
    "warmup", "rate vision", "rate connector", "rate llm", "beta1", "beta2",
]  # fmt: skip


class FlagRule(Spec):
    """What becomes of one flag of another trainer."""

    to: str | None = None
    words: dict[str, object] = Field(default_factory=dict)
    by: str | None = None
    list: bool = False
    sets: dict[str, dict[str, object]] = Field(default_factory=dict)
    implies: dict[str, dict[str, object]] = Field(default_factory=dict)
    with_lora: dict[str, dict[str, object]] = Field(default_factory=dict)
    lora_note: str | None = None
    llm_only: tuple[str, ...] = ()
    last: bool = False
    if_: dict[str, tuple[object, ...]] = Field(default_factory=dict, alias="if")
    with_: tuple[str, ...] = Field((), alias="with")
    unless: str | None = None
    zero: str | None = None
    role: Role | None = None
    drop: str | None = None
    none: str | None = None


class FlagRow(Spec):
    """A row of a table: what it says, and the rules of the flags in it."""

    theirs: str
    ours: str
    flags: dict[str, FlagRule] = Field(default_factory=dict)


class DeepspeedConfig(Spec):
    """What a trainer's own DeepSpeed config decides besides the ZeRO stage."""

    sets: dict[str, object]
    flags: dict[str, str]
    """Flag that has no effect with it -> why."""
    differs: dict[str, str]


class OtherTrainer(Spec):
    """Another trainer: its table, and what it does where its scripts leave a flag out."""

    title: str
    head: str
    like: str | None = None
    defaults: dict[str, object] = Field(default_factory=dict)
    fixed: dict[str, object] = Field(default_factory=dict)
    least_batch: int = 1
    differs: dict[str, str] = Field(default_factory=dict)
    configs: dict[str, DeepspeedConfig] = Field(default_factory=dict)
    signs: tuple[str, ...]
    rows: tuple[FlagRow, ...]
    more: dict[str, FlagRule] = Field(default_factory=dict)


STARTED = FlagRule(drop="Ray starts the workers")
LAUNCHER: dict[str, FlagRule] = {
    **{flag: FlagRule(role="devices") for flag in ("include", "num_gpus", "nproc_per_node", "num_processes")},
    **{flag: STARTED for flag in ("master_port", "master_addr", "nnodes", "node_rank", "hostfile", "local_rank")},
}
"""Flags of deepspeed, torchrun and accelerate."""


@cache
def trainers() -> dict[str, OtherTrainer]:
    """Every trainer whose scripts are understood, by name."""
    raw, lines = read_yaml(TABLES)
    assert isinstance(raw, dict)
    return {name: validate(OtherTrainer, one, name, {k[1:]: n for k, n in lines.items()}) for name, one in raw.items()}


def rules_of(name: str) -> dict[str, FlagRule]:
    """The rules of a trainer's flags, with those of the one that it is like."""
    one = trainers()[name]
    below = rules_of(one.like) if one.like else LAUNCHER
    return below | one.more | {flag: rule for row in one.rows for flag, rule in row.flags.items()}


def defaults_of(name: str) -> dict[str, object]:
    """The values of a trainer's flags where a script leaves them out."""
    one = trainers()[name]
    return {**(defaults_of(one.like) if one.like else {}), **one.defaults}


def fixed_of(name: str) -> dict[str, object]:
    """Our keys for what a trainer does without a flag."""
    one = trainers()[name]
    return {**(fixed_of(one.like) if one.like else {}), **one.fixed}


def configs_of(name: str) -> dict[str, DeepspeedConfig]:
    """A trainer's own DeepSpeed configs by their files' names."""
    one = trainers()[name]
    return {**(configs_of(one.like) if one.like else {}), **one.configs}
