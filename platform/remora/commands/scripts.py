"""The flags of another trainer's script: a shell script, a YAML or a Python file of fields."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from remora.errors import DataError
from remora.spec import parse_yaml, read_yaml


def flags_of(file: Path) -> dict[str, object]:
    """The flags of a script: a shell script's last command with flags, a YAML's keys, or a Python file's fields.

    Raises:
        DataError: it cannot be read, or has none.
    """
    if file.suffix in (".yaml", ".yml", ".json"):
        raw, _ = read_yaml(file)
        found = raw if isinstance(raw, dict) else {}
    else:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"{file}: cannot be read ({getattr(e, 'strerror', None) or 'not text'})") from None
        found = dict(_fields(text, file)) if file.suffix == ".py" else _arguments(text)
    if not found:
        raise DataError(f"{file} has no flags; give the script that starts the training")
    return found


def _fields(text: str, file: Path) -> Iterator[tuple[str, object]]:
    try:
        tree = ast.parse(text)
    except SyntaxError as e:
        raise DataError(f"{file}:{e.lineno}: not Python: {e.msg}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            try:
                yield node.target.id, ast.literal_eval(node.value)
            except ValueError:
                yield node.target.id, "(computed)"


VARIABLE = re.compile(r"\$\{?(\w+)\}?")


def _arguments(text: str) -> dict[str, object]:
    lines = re.sub(r"\\\s*\n", " ", "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#")))
    variables: dict[str, str] = {}
    found: dict[str, object] = {}
    for line in lines.split("\n"):
        try:
            plain = re.sub(r"\s#\s.*", "", line)
            words = shlex.split(_filled(plain, variables))
        except ValueError:  # an open quote
            continue
        while words and (said := re.fullmatch(r"(\w+)=(.*)", words[0].strip())):
            variables[said[1]] = said[2]
            words = words[1:]
        if words[:1] == ["export"]:
            variables |= dict(word.split("=", 1) for word in words[1:] if "=" in word)
        if any(word.startswith("--") for word in words):
            found |= dict(_pairs(words))
    for name in ("NPROC_PER_NODE", "CUDA_VISIBLE_DEVICES"):
        if name in variables and not found.keys() & {"include", "num_gpus", "nproc_per_node"}:
            found["nproc_per_node"] = variables[name]
    return found


def _filled(line: str, variables: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda found: variables.get(found[1], found[0]), line)


def _pairs(words: list[str]) -> Iterator[tuple[str, object]]:
    """`--flag`, `--flag VALUE …` and `--flag=VALUE`."""
    at = 0
    while at < len(words):
        if not words[at].startswith("--"):
            at += 1
            continue
        flag, equals, joined = words[at][2:].partition("=")
        at += 1
        values = [joined] if equals else []
        while at < len(words) and not words[at].startswith("--") and not equals:
            if values and words[at].endswith(".py"):  # the program, after the launcher's own flags
                break
            values.append(words[at])
            at += 1
        read = [parse_yaml(value, flag)[0] if value else "" for value in values]
        yield flag.replace("-", "_"), True if not read else read[0] if len(read) == 1 else list(map(str, read))
