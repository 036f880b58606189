"""Broken specs are read as meant or refused with the file's own terms, and never anything else.

Variants, spaces, recipes and users' catalog entries, changed at random: values of other types, nesting, keys left out,
added or written twice, anchors and merges, tags, huge numbers, and letters of the file itself.
"""

from __future__ import annotations

import random
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cases import cases

from remora import catalog
from remora.errors import RemoraError, SpecError
from remora.files import digest
from remora.runs import read_space, read_variant, read_variants, resolve_stages
from remora.spec import Condensation, Recipe, load, parse_yaml

ROOT = Path(__file__).resolve().parents[2]
LEAKS = ("Input should", "pydantic", "validation error", "Traceback", "valid tuple", "object at 0x", "breaks the rule")
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 0.5, 1e308, 10**18, -(10**18), 2**62, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        " ",
        "x",
        "full",
        "1e-3",
        "null",
        "../up",
        "/",
        ".",
        "é" * 80,
        "a\nb",
        "\u2028",
        "0x1F",
        "12:30",
        "2024-01-01",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"a": {}},
        [1, "a"],
        {"mode": "last"},
        {"last": 2, "from": 1},
        {"lora": {"targets": ["x"]}},
    ),
]
TEXTS = [
    "!!python/object:os.system x",
    "!!set {a, b}",
    "!!binary aGk=",
    "!!int x",
    "!!bool maybe",
    "!!float 1e",
    "!x y",
]
TEXTS += [
    "&a [*a]",
    "*nothing",
    "9" * 5000,
    "0x" + "f" * 5000,
    "1e999",
    '"\\ud800"',
    '"\\0"',
    "{? [a] : b}",
    "[" * 2000,
]
TEXTS += [
    "{<<: 1}",
    "{<<: [{a: 1}, 2]}",
    "{a: 1, a: 2}",
    "|\n  x",
    "2024-13-45",
    "1_000",
    "~",
    "0o17",
    "- a",
    ": :",
    "%x",
    "\t",
]


AXES = """
name: axes
vision: [efficientnet-lite0]
connector: [mlp2x_gelu]
llm: [demo-2m]
recipe: [base, share]
overrides: {finetune: {mixture: [demo-finetune, demo-captions]}}
axes:
  finetune.lr: {low: 1.0e-5, high: 1.0e-3, log: true}
  align.tune.vision: [{last: 6}]
  finetune.mixture.demo-captions.weight: [0.5]
  pretrain.tune.vision.lr: {values: [1.0e-5], when: {recipe: share}}
  data: {a: {align.mixture: [demo-captions], align.batch: 8}, b: {max_length: 64}}
seeds: [3]
cases: [{when: {recipe: base, data: [a]}, overrides: {align: {lr: 1.0e-3}}}]
exclude: [{recipe: share, data: a}]
only: [{recipe: [base, share]}]
champion: {benchmark: easy-vqa-val}
sampler: {kind: random, trials: 3}
objectives: [easy-vqa, {figure: parameters, direction: min}]
smoke: {recipe: [base], axes: {align.lr: [0.1]}}
"""
"""A space with everything that the demo's does without."""


def documents() -> dict[str, Any]:
    """What is changed: every kind of spec that is shipped."""
    recipe = yaml.safe_load((ROOT / "platform/remora/catalog/recipes/bunny-lora.yaml").read_text())
    return {
        "variant": yaml.safe_load((ROOT / "jobs/demo-base.yaml").read_text()),
        "space": yaml.safe_load((ROOT / "tune/demo.yaml").read_text()),
        "axes": yaml.safe_load(AXES),
        "recipe": recipe,
        "condensation": yaml.safe_load((ROOT / "jobs/condense.yaml").read_text()),
        **{
            kind: {"own": entry(kind, name) | {"short": "Own"} if kind in ("vision", "llm") else entry(kind, name)}
            for kind, name in (("vision", "clip-l-336"), ("llm", "qwen3-0.6b"), ("templates", "vicuna"))
        },
    }


def entry(kind: str, name: str) -> dict[str, Any]:
    return catalog.entries(kind)[name].model_dump(mode="json", exclude_none=True)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in below for p in places(item, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    """`value` with the item at `path` replaced by `change` of it; removed if that is `...`."""
    if not path:
        return change(value)
    items = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    found = changed(items[path[0]], path[1:], change)
    items = {k: v for k, v in (items | {path[0]: found}).items() if v is not ...}
    return items if isinstance(value, dict) else list(items.values())


def with_key(key: str, value: Any, there: Any) -> Any:
    return {**there, key: value} if isinstance(there, dict) else there


def hurt(draw: random.Random, document: Any) -> str:
    """The document as YAML with one to three changes of its values or its text."""
    text = ""
    for _ in range(draw.randint(1, 3)):
        path = draw.choice(places(document))
        how = draw.randrange(6)
        if how == 0:
            document = changed(document, path, lambda _: draw.choice(VALUES))
        elif how == 1 and path:
            document = changed(document, path, lambda _: ...)
        elif how == 2:
            document = changed(document, path, lambda v: [v] if draw.random() < 0.5 else {"a": v})
        elif how == 3:
            new = draw.choice(["lr", "x", "name", "champion", "stages", "tune", "config", "<<"]), draw.choice(VALUES)
            document = changed(document, path, partial(with_key, *new))
        elif how == 4:
            document = changed(document, path, lambda v: f"MARK{draw.randrange(len(TEXTS))}K")
        if not isinstance(document, dict | list):
            break
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=draw.random() < 0.5)
    for number, other in enumerate(TEXTS):
        text = text.replace(f"MARK{number}K", other)
    if draw.random() < 0.3:
        at = draw.randrange(len(text) + 1)
        cut = draw.randint(0, 3)
        text = (
            text[:at]
            + "".join(draw.choice("{}[]:,-&*!|>'\"%@`\n\t #<~\0\ud800é") for _ in range(draw.randint(0, 3)))
            + text[at + cut :]
        )
    return text


def permuted(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict):
        keys = draw.sample(list(value), len(value))
        return {k: permuted(value[k], draw) for k in keys}
    return [permuted(v, draw) for v in value] if isinstance(value, list) else value


def read(kind: str, file: Path) -> Any:
    """A spec as its commands read it, as plain values."""
    if kind == "variant":
        found = read_variant(file)
        return found.model_dump(mode="json"), [s.model_dump(mode="json") for s in resolve_stages(found)]
    if kind in ("space", "axes"):
        found = read_space(file)
        assert read_variants(file)
        return found.model_dump(mode="json")
    if kind in ("recipe", "condensation"):
        return load(Recipe if kind == "recipe" else Condensation, file).model_dump(mode="json")
    catalog._entries.cache_clear()
    return {k: e.model_dump(mode="json") for k, e in catalog.entries(kind).items() if k not in SHIPPED[kind]}


SHIPPED = {kind: set(catalog.entries(kind)) for kind in ("vision", "llm", "templates")}


def test_a_hurt_spec_is_read_as_meant_or_refused_in_its_own_words(tmp_path, monkeypatch):
    draw, whole = random.Random(0), documents()
    kinds = list(whole)
    monkeypatch.setenv(catalog.OWN, str(tmp_path))
    accepted = 0
    try:
        for number in range(cases(600)):
            kind = kinds[number % len(kinds)]
            text = hurt(draw, whole[kind])
            file = tmp_path / f"{kind}.yaml"
            file.write_bytes(text.encode("utf-8", "surrogatepass"))
            try:
                found = read(kind, file)
            except RemoraError as e:
                said = str(e)
                assert not any(leak in said for leak in LEAKS), (said, text)
                assert len(said.splitlines()) <= 11 and all(len(line) < 1000 for line in said.splitlines()), said
            else:
                accepted += 1
                raw, _ = parse_yaml(text, "text")
                file.write_text(yaml.safe_dump(permuted(raw, draw), sort_keys=False, allow_unicode=True))
                assert digest(read(kind, file)) == digest(found), text
            finally:
                file.unlink()
    finally:
        catalog._entries.cache_clear()
    assert accepted > 20  # and not everything is refused


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "[" * 100_000, "{a: " * 100_000, "- " * 2_000 + "x", "&a [*a, *a]"])
def test_a_few_lines_that_stand_for_billions_are_refused_in_little_memory(text):
    tracemalloc.start()
    try:
        with pytest.raises(SpecError, match=r"^f\.yaml(:\d+)?: not valid YAML: ") as caught:
            parse_yaml(text, "f.yaml")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 200 * len(text) + (200 << 20)  # at most MOST_VALUES values, whatever is read
