"""Another trainer's script as a job and a recipe, by the rows of trainers.yaml; nothing of it is dropped in silence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from remora import catalog
from remora.commands.trainers import DeepspeedConfig, FlagRule, configs_of, defaults_of, fixed_of, rules_of, trainers
from remora.errors import SpecError, nearest
from remora.spec import PARTS

GIVEN = re.compile(r"\$\{?\d")
"""A positional argument of the script: `$1`, `${2}`."""
UNSET = re.compile(r"\$[\w{(]|`")
"""What stays in a value whose variable the script does not set."""


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
    implied: dict[str, object] = field(default_factory=dict)
    """Keys that follow from a flag's value, unless another flag sets them."""
    taken: dict[str, object] = field(default_factory=dict)
    """Keys, and flags without one of ours, that have the trainer's own default."""
    differs: dict[str, str] = field(default_factory=dict)
    """Flag or key -> how the trainer's default differs from what is done here."""

    def stage(self) -> dict[str, object]:
        """The stage's keys as a tree."""
        tree: dict[str, object] = {}
        for key, value in sorted(self.keys.items(), key=lambda one: one[0].count(".")):  # a part's mode before its rate
            if key.startswith("stage."):
                _put(tree, key.split(".")[1:], value)
        return tree


def trainer_of(flags: Mapping[str, object], file: Path) -> str:
    """The trainer whose script it is, by flags that only it has.

    Raises:
        SpecError: no flag is a sign of a known trainer.
    """
    votes = {name: len(flags.keys() & set(one.signs)) for name, one in trainers().items()}
    for name, one in trainers().items():  # its own sign, and it has those of the one that it is like as well
        votes[name] += votes[one.like] if one.like and votes[name] else 0
    best = max(votes, key=lambda name: (votes[name], len(flags.keys() & rules_of(name).keys())))
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
    one, rules, defaults = trainers()[name], rules_of(name), defaults_of(name)
    unset = {f: _why_unset(str(v)) for f, v in flags.items() if _is_unset(rules.get(f), v)}
    script, flags = flags, {flag: value for flag, value in flags.items() if flag not in unset}
    left_out = {flag: value for flag, value in defaults.items() if flag not in flags and value is not None}
    said, theirs, made = {**left_out, **flags}, Translation(), Translation(missing=unset)
    last = {flag for flag, rule in rules.items() if rule.last}
    for into, some in ((theirs, left_out), (made, flags)):
        for flag in (flag for flag in some if flag not in last):
            _apply(into, flag, rules, said)
    made.taken = {**fixed_of(name), **theirs.keys, **theirs.implied, **made.implied}
    made.taken = {key: value for key, value in made.taken.items() if key not in made.keys}
    made.keys = {**made.taken, **made.keys}
    steps = made.keys.get("stage.steps")
    made.keys.pop("stage.epochs" if isinstance(steps, int) and steps > 0 else "stage.steps", None)
    with_role = {flag: rules[flag].role for flag in said if flag in rules and rules[flag].role}
    flag_of = {str(role): flag for flag, role in with_role.items()}
    roles = {role: said[flag] for role, flag in flag_of.items()}
    made.taken |= {flag: value for flag, value in left_out.items() if flag in with_role}
    for of, why in _roles(made, roles, devices, one.least_batch).items():
        made.missing[flag_of[of]] = why
    _lora(made, rules, said)
    for flag in (flag for flag in flags if flag in last):
        _apply(made, flag, rules, said)
    _no_rate_of_frozen(made, rules)
    if made.keys.get("stage.tune.llm") == "frozen":
        made.keys = {key: value for key, value in made.keys.items() if not key.startswith("stage.tune.llm.")}
    made.taken = {
        key: value for key, value in made.taken.items() if made.keys.get(key, None if "." in key else value) == value
    }
    made.differs = {flag: why for flag, why in one.differs.items() if flag not in script}
    if config := configs_of(name).get(str(said.get("deepspeed", "")).rpartition("/")[2]):
        _configured(made, config, said)
    return made


def _configured(made: Translation, config: DeepspeedConfig, said: Mapping[str, object]) -> None:
    """What a known DeepSpeed config decides wins over the script's flags; a value `$flag` is that flag's."""
    for key, value in config.sets.items():
        flag = str(value)[1:] if str(value).startswith("$") else ""
        made.keys[key] = said.get(flag) if flag else value
        made.taken.pop(key, None)
        if made.needless.pop(flag, None):
            made.translated.append(flag)
        elif flag:
            made.taken[key] = made.keys[key]
    made.differs |= config.differs
    for flag in config.flags.keys() & set(made.translated):
        made.translated.remove(flag)
        made.needless[flag] = config.flags[flag]


def _apply(made: Translation, flag: str, rules: Mapping[str, FlagRule], said: Mapping[str, object]) -> None:
    """Put one flag's keys into a translation, or why it has none; `said` has the trainer's defaults as well."""
    value, word = said[flag], _word(said[flag])
    if flag not in rules:
        made.unknown[flag] = value
        return
    rule = rules[flag]
    if rule.drop is not None:
        made.needless[flag] = rule.drop
    elif any(_word(said.get(other)) not in map(_word, values) for other, values in rule.if_.items()):
        made.needless[flag] = f"it acts with {', '.join(rule.if_)} only"
    elif rule.with_ and not any(_acts(rules.get(other), said.get(other)) for other in rule.with_):
        made.needless[flag] = f"it acts with {' or '.join(rule.with_)} only"
    elif rule.unless and rule.unless in said:
        made.needless[flag] = f"it has no effect with {rule.unless}"
    elif rule.zero and value == 0:
        made.needless[flag] = rule.zero
    elif rule.role:
        made.translated.append(flag)
    elif rule.sets:
        if word in rule.sets:
            made.keys |= rule.sets[word]
            made.implied |= rule.implies.get(word, {})
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
            made.implied |= rule.implies.get(word, {})
        made.translated.append(flag)


def _why_unset(value: str) -> str:
    by = ", but by the one that calls it: give that one" if GIVEN.search(value) else ""
    return f"{value} is not set in the script{by}"


def _is_unset(rule: FlagRule | None, value: object) -> bool:
    return rule is not None and rule.drop is None and UNSET.search(str(value)) is not None


def _acts(rule: FlagRule | None, value: object) -> bool:
    return value is not None and not (rule is not None and rule.zero and value == 0)


def known_name(kind: str, named: str) -> str | None:
    """The catalog's name of a hub id, or of a folder that is called as one; None if it has none."""
    entries, last = catalog.entries(kind), named.rstrip("/").rpartition("/")[2].lower()
    if named in entries:
        return named
    by_hub = {str(getattr(entry, "hub", "") or "").lower(): name for name, entry in reversed(entries.items())}
    by_last = {hub.rpartition("/")[2]: name for hub, name in by_hub.items() if hub}
    return by_hub.get(named.lower()) or by_last.get(last) or (last if last in entries else None)


def _roles(made: Translation, roles: Mapping[str, object], devices: int | None, least: int) -> dict[str, str]:
    """Batch, data, devices and rates, which several flags make together; returns role -> what has no counterpart."""
    missing: dict[str, str] = {}
    found = devices or _devices(roles.get("devices")) or 1
    if not (devices or roles.get("devices")):
        made.taken["GPUs"] = "1, since the script names none; --gpus N"
    each, steps = _whole(roles.get("each"), 8), _whole(roles.get("accumulation"), 1)
    if "accumulation" not in roles:
        made.taken["gradient_accumulation_steps"] = steps = math.ceil(least / each / found)
    if "beta1" in roles or "beta2" in roles:
        made.keys["stage.betas"] = [roles.get("beta1", 0.9), roles.get("beta2", 0.999)]
    made.keys |= {"stage.batch": each * steps * found, "cluster.micro_batch": each}
    made.keys |= {"cluster.workers": found, "cluster.gpus_per_worker": 1}
    if (said := roles.get("deepspeed")) and (why := _deepspeed(made, str(said))):
        missing["deepspeed"] = why
    if (name := str(made.keys.get("vision", ""))) and roles.get("layer", own := catalog.vision(name).layer) != own:
        missing["layer"] = f"{name} is read at layer {own}; another takes an entry of your own (docs/catalog.md)"
    if (warm := roles.get("warmup")) and (why := _warmup(made, warm)):
        missing["warmup"] = why
    if data := roles.get("data"):
        made.keys["stage.mixture"] = [_entry(one, roles) for one in _several(data)]
    if held := roles.get("held-out"):
        made.keys["stage.validate.mixture"] = [_entry(one, {}) for one in _several(held)]
    if named := roles.get("benchmarks"):
        names = _several(named)
        made.keys["benchmarks"] = [name for name in names if name in catalog.PAPERS]
        if left := [name for name in names if name not in catalog.PAPERS]:
            missing["benchmarks"] = f"{', '.join(left)}: not measured here (docs/lmms-eval.md)"
    rates = {part: roles[f"rate {part}"] for part in PARTS if f"rate {part}" in roles}
    for part, rate in rates.items():
        if isinstance(rate, int | float) and rate > 0:
            made.keys[f"stage.tune.{part}"] = {"mode": "full", "lr": float(rate)}
            made.keys["stage.lr"] = float(rate)
        else:
            made.keys[f"stage.tune.{part}"] = "frozen"
    return missing


def _warmup(made: Translation, said: object) -> str:
    """Set the share of the steps in which the rate rises; returns why not, if the steps are not known."""
    steps, count = made.keys.get("stage.steps"), _whole(said, 0)
    if not count:
        return "" if str(said) == "0" else f"{said} is not a number of steps"
    if not isinstance(steps, int) or steps <= count:
        return (
            f"warmup is a share of the steps, and the script does not say how many there are: set it to {count} / steps"
        )
    made.keys["stage.warmup"] = count / steps
    made.taken.pop("stage.warmup", None)
    if "warmup_ratio" in made.translated:
        made.translated.remove("warmup_ratio")
        made.needless["warmup_ratio"] = "warmup_steps wins"
    return ""


def _deepspeed(made: Translation, said: str) -> str:
    """Set the ZeRO stage that a config's name says; returns why not, if it says none."""
    name = said.rpartition("/")[2].lower()
    if not (level := re.search(r"z(?:ero)?_?([0-3])", name)):
        return f"{said}: its name does not say which ZeRO stage (cluster.zero)"
    made.keys["cluster.zero"] = int(level[1])
    if "offload" in name:
        made.keys["cluster.offload"] = "all" if level[1] == "3" else "optimizer"
    return ""


def _lora(made: Translation, rules: Mapping[str, FlagRule], said: Mapping[str, object]) -> None:
    """Adapters on other parts and their scale, if the language model's mode is LoRA; without it, no keys of LoRA."""
    lora, mode = "stage.tune.llm.lora.", made.keys.get("stage.tune.llm")
    if mode != "lora" and not (isinstance(mode, dict) and "lora" in mode):
        for key in [key for key in made.keys if key.startswith(lora)]:
            del made.keys[key]
        for flag in [flag for flag in made.translated if (rules[flag].to or "").startswith(lora)]:
            made.translated.remove(flag)
            made.needless[flag] = "it acts with LoRA only"
        return
    whole = dict(mode["lora"]) if isinstance(mode, dict) else {}
    whole |= {key.removeprefix(lora): value for key, value in made.keys.items() if key.startswith(lora)}
    if "alpha" not in whole:  # LLaMA-Factory's default, and the only trainer whose alpha follows from the rank
        whole["alpha"] = made.keys[f"{lora}alpha"] = made.taken[f"{lora}alpha"] = 2 * _whole(whole.get("r"), 8)
    whole.pop("bits", None)
    if any(_word(said.get(flag)) in rule.llm_only for flag, rule in rules.items()):
        return
    for flag, rule in rules.items():
        if (keys := rule.with_lora.get(_word(said.get(flag)))) is not None:
            made.keys |= {key: {"lora": whole} if value == "lora" else value for key, value in keys.items()}
            if rule.lora_note:
                made.missing[flag] = rule.lora_note


def _no_rate_of_frozen(made: Translation, rules: Mapping[str, FlagRule]) -> None:
    for part in ("vision", "connector"):
        key = f"stage.tune.{part}"
        if made.keys.get(key) == "frozen" and made.keys.pop(f"{key}.lr", None) is not None:
            for flag in [flag for flag in made.translated if rules[flag].to == f"{key}.lr"]:
                made.translated.remove(flag)
                made.needless[flag] = f"{part} is frozen"


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
