"""Another trainer's script as a job and a recipe, by the rows of trainers.yaml; nothing of it is dropped in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from remora import catalog
from remora.errors import SpecError, nearest
from remora.spec import Spec, read_yaml, validate

TABLES = Path(__file__).with_name("trainers.yaml")
Role = Literal[
    "data", "images", "cap", "held-out", "each", "accumulation", "devices", "deepspeed", "benchmarks",
    "rate vision", "rate connector", "rate llm",
]  # fmt: skip


class FlagRule(Spec):
    """What becomes of one flag of another trainer."""

    to: str | None = None
    words: dict[str, object] = Field(default_factory=dict)
    by: str | None = None
    list: bool = False
    sets: dict[str, dict[str, object]] = Field(default_factory=dict)
    if_: dict[str, tuple[object, ...]] = Field(default_factory=dict, alias="if")
    with_: str | None = Field(None, alias="with")
    role: Role | None = None
    drop: str | None = None
    none: str | None = None


class FlagRow(Spec):
    """A row of a table: what it says, and the rules of the flags in it."""

    theirs: str
    ours: str
    flags: dict[str, FlagRule] = Field(default_factory=dict)


class OtherTrainer(Spec):
    """Another trainer: its table, and what its scripts leave out."""

    title: str
    head: str
    like: str | None = None
    defaults: dict[str, object] = Field(default_factory=dict)
    lora: dict[str, object] = Field(default_factory=dict)
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


def _default(name: str, which: Literal["defaults", "lora"]) -> dict[str, object]:
    one = trainers()[name]
    found: dict[str, object] = getattr(one, which)
    return found or (_default(one.like, which) if one.like else {})


@dataclass
class Translation:
    """One script: keys of the job and of its stage, and what did not come along."""

    keys: dict[str, object] = field(default_factory=dict)
    """Our keys by their dotted names; `stage.` before those of the stage."""
    translated: list[str] = field(default_factory=list)
    needless: dict[str, str] = field(default_factory=dict)
    """Flag -> why nothing is to be written."""
    missing: dict[str, str] = field(default_factory=dict)
    """Flag -> why it has no counterpart, or none for its value."""
    unknown: dict[str, object] = field(default_factory=dict)
    assumed: dict[str, object] = field(default_factory=dict)
    """The trainer's own defaults that were taken."""

    def stage(self) -> dict[str, object]:
        """The stage's keys as a tree."""
        tree: dict[str, object] = {}
        for key, value in self.keys.items():
            if key.startswith("stage."):
                _put(tree, key.split(".")[1:], value)
        return tree


def trainer_of(flags: Mapping[str, object], file: Path) -> str:
    """The trainer whose script it is, by flags that only it has.

    Raises:
        SpecError: the flags are none of theirs.
    """
    votes = {name: len(flags.keys() & set(one.signs)) for name, one in trainers().items()}
    best = max(votes, key=lambda name: votes[name])
    if not votes[best]:
        raise SpecError(f"{file}: no flag tells whose it is; give --trainer: {', '.join(trainers())}")
    return best


def translate(name: str, flags: Mapping[str, object], devices: int | None = None) -> Translation:
    """A script's flags in our keys.

    Raises:
        SpecError: there is no such trainer.
    """
    if name not in trainers():
        raise SpecError(f"no trainer {name!r}{nearest(name, trainers())}; there are: {', '.join(trainers())}")
    rules, made = rules_of(name), Translation()
    roles: dict[str, object] = {}
    flag_of: dict[str, str] = {}
    made.keys |= _default(name, "defaults")
    order = sorted(flags, key=lambda flag: flag in rules and not rules[flag].sets)
    given: set[str] = set()
    for flag in order:
        before = dict(made.keys)
        if flag not in rules:
            made.unknown[flag] = flags[flag]
            continue
        if (role := rules[flag].role) is not None:
            roles[role] = flags[flag]
            flag_of[role] = flag
            made.translated.append(flag)
            continue
        _apply(made, flag, rules[flag], flags)
        given |= {key for key in made.keys if key not in before or made.keys[key] != before[key]}
        given |= {rules[flag].to or ""}
    steps = made.keys.get("stage.steps")
    if isinstance(steps, int) and steps > 0:
        made.keys.pop("stage.epochs", None)
    else:
        made.keys.pop("stage.steps", None)
    for of, why in _roles(made, roles, devices).items():
        made.missing[flag_of[of]] = why
    _lora(made, _default(name, "lora"))
    made.assumed |= {
        key.removeprefix("stage."): value
        for key, value in _default(name, "defaults").items()
        if key not in given and made.keys.get(key) == value
    }
    return made


def _apply(made: Translation, flag: str, rule: FlagRule, flags: Mapping[str, object]) -> None:
    value, word = flags[flag], _word(flags[flag])
    if rule.drop is not None:
        made.needless[flag] = rule.drop
    elif any(_word(flags.get(other)) not in map(_word, values) for other, values in rule.if_.items()):
        made.needless[flag] = f"it acts with {', '.join(rule.if_)} only"
    elif rule.with_ and rule.with_ not in flags:
        made.needless[flag] = f"it acts with {rule.with_} only"
    elif rule.sets:
        if word in rule.sets:
            made.keys |= rule.sets[word]
            made.translated.append(flag)
        else:
            made.missing[flag] = f"only {', '.join(rule.sets)} is known here"
    elif rule.to is None:
        made.missing[flag] = rule.none or "it has no counterpart"
    elif rule.by:
        if (named := known_name(rule.by, str(value))) is None:
            made.missing[flag] = f"{value} is not in the catalog (remora catalog {rule.by})"
        else:
            made.keys[rule.to] = named
            made.translated.append(flag)
    elif rule.words and word not in rule.words and not rule.list:
        made.missing[flag] = f"{value} has no counterpart; known: {', '.join(rule.words)}"
    else:
        found = rule.words.get(word, value)
        if rule.list and not isinstance(found, list) and found not in ("all-linear",):
            found = [part.strip() for part in str(found).split(",")]
        if found is not None:
            made.keys[rule.to] = found
        made.translated.append(flag)


def known_name(kind: str, named: str) -> str | None:
    """The catalog's name of a hub id, or of a folder that is called as one; None if it has none."""
    entries, last = catalog.entries(kind), named.rstrip("/").rpartition("/")[2].lower()
    if named in entries:
        return named
    by_hub = {str(getattr(entry, "hub", "") or "").lower(): name for name, entry in reversed(entries.items())}
    by_last = {hub.rpartition("/")[2]: name for hub, name in by_hub.items() if hub}
    return by_hub.get(named.lower()) or by_last.get(last) or (last if last in entries else None)


def _roles(made: Translation, roles: Mapping[str, object], devices: int | None) -> dict[str, str]:
    """Batch, data, devices and rates, which several flags make together; returns role -> what has no counterpart."""
    missing: dict[str, str] = {}
    found = devices or _devices(roles.get("devices")) or 1
    if not (devices or roles.get("devices")):
        made.assumed["GPUs"] = "1, since the script names none; --gpus N"
    each, steps = _whole(roles.get("each"), 8), _whole(roles.get("accumulation"), 1)
    made.keys |= {"stage.batch": each * steps * found, "cluster.micro_batch": each}
    made.keys |= {"cluster.workers": found, "cluster.gpus_per_worker": 1}
    if (said := roles.get("deepspeed")) and (why := _deepspeed(made, str(said))):
        missing["deepspeed"] = why
    if data := roles.get("data"):
        made.keys["stage.mixture"] = [_entry(one, roles) for one in _several(data)]
    if held := roles.get("held-out"):
        made.keys["stage.validate.mixture"] = [_entry(one, {}) for one in _several(held)]
    if named := roles.get("benchmarks"):
        names = _several(named)
        made.keys["benchmarks"] = [name for name in names if name in catalog.PAPERS]
        if left := [name for name in names if name not in catalog.PAPERS]:
            missing["benchmarks"] = f"{', '.join(left)}: not measured here (docs/lmms-eval.md)"
    rates = {part: roles[f"rate {part}"] for part in ("vision", "connector", "llm") if f"rate {part}" in roles}
    for part, rate in rates.items():
        if isinstance(rate, int | float) and rate > 0:
            made.keys[f"stage.tune.{part}"] = {"mode": "full", "lr": float(rate)}
            made.keys["stage.lr"] = float(rate)
        else:
            made.keys[f"stage.tune.{part}"] = "frozen"
    return missing


def _deepspeed(made: Translation, said: str) -> str:
    """Set the ZeRO stage that a config's name says; returns why not, if it says none."""
    name = said.rpartition("/")[2].lower()
    if not (level := re.search(r"z(?:ero)?_?([0-3])", name)):
        return f"{said}: its name does not say which ZeRO stage (cluster.zero)"
    made.keys["cluster.zero"] = int(level[1])
    if "offload" in name:
        made.keys["cluster.offload"] = "all" if level[1] == "3" else "optimizer"
    return ""


def _lora(made: Translation, defaults: Mapping[str, object]) -> None:
    """The trainer's own rank and scale, where the script leaves them out."""
    tune = made.stage().get("tune")
    part = tune.get("llm") if isinstance(tune, dict) else None
    if part != "lora" and not (isinstance(part, dict) and "lora" in part):
        return
    said = part.get("lora", {}) if isinstance(part, dict) else {}
    whole = {**defaults, **(said if isinstance(said, dict) else {})}
    whole.setdefault("alpha", 2 * _whole(whole.get("r"), 8))
    others = {k: v for k, v in part.items() if k != "lora"} if isinstance(part, dict) else {}
    for key in [key for key in made.keys if key == "stage.tune.llm" or key.startswith("stage.tune.llm.")]:
        del made.keys[key]
    made.keys["stage.tune.llm"] = {"lora": whole, **others}


def _entry(said: str, roles: Mapping[str, object]) -> dict[str, object]:
    """`FILE#1000` is ms-swift's for the first thousand records."""
    path, _, cap = said.partition("#")
    entry: dict[str, object] = {"path": path}
    if images := roles.get("images"):
        entry["images"] = str(images)
    if limit := cap or roles.get("cap"):
        entry["cap"] = _whole(limit, 1)
    return entry


def _several(said: object) -> list[str]:
    items = said if isinstance(said, list) else str(said).split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def _devices(said: object) -> int | None:
    """`8`, `localhost:0,1` or `0,1`."""
    if said is None or isinstance(said, bool):
        return None
    text = ",".join(map(str, said)) if isinstance(said, list) else str(said)
    _, colon, listed = text.rpartition(":")
    return len(listed.split(",")) if colon or "," in text else _whole(text, 1)


def _whole(said: object, otherwise: int) -> int:
    return int(str(said)) if str(said).isdigit() and int(str(said)) else otherwise


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _put(tree: dict[str, object], path: list[str], value: object) -> None:
    """Set a nested key; a word that is there already (`full`) becomes a mode."""
    key, *below = path
    if not below:
        tree[key] = value
        return
    inner = tree.get(key)
    short: dict[str, object] = {"mode": inner} if isinstance(inner, str) else {}
    if inner == "lora":
        short = {"lora": {}}
    tree[key] = dict(inner) if isinstance(inner, dict) else {} if below[0] == "last" else short
    inner = tree[key]
    assert isinstance(inner, dict)
    _put(inner, below, value)
