"""The flags of another trainer's script: a shell script, a YAML or a Python file of fields."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from remora.commands.trainers import rules_of, trainers
from remora.errors import DataError
from remora.spec import parse_yaml, read_yaml

SHELLS = ("bash", "sh", "source", ".")
DEEPEST = 3
"""Scripts that call one another, at most."""


def stages_of(file: Path, given: Sequence[str] = (), depth: int = 0) -> list[tuple[Path, dict[str, object]]]:
    """Each script that trains, with its flags: the file itself or, if it only calls others, those, with what it gives
    them as `$1`, `$2`, ….

    Raises:
        DataError: as of `flags_of`; or a script that it calls is not there.
    """
    if file.suffix not in (".yaml", ".yml", ".json", ".py") and depth < DEEPEST:
        text = _text(file)
        variables = _positional(given)
        called = [found for words in _commands(text, variables) if (found := _call(words))]
        if called and not _arguments(text, file, given):
            return [one for script, words in called for one in stages_of(_beside(script, file), words, depth + 1)]
    return [(file, flags_of(file, given))]


def _call(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """The script that a command calls, and what it gives to it."""
    plain = [word for word in words if word]
    if plain and plain[0] in SHELLS:
        words = words[1:]
    return (words[0], list(words[1:])) if words and words[0].endswith(".sh") else None


def _beside(script: str, caller: Path) -> Path:
    """A script as its caller names it: from the working folder, or from a folder that the caller is in."""
    folders = [Path(), *caller.absolute().parents]
    found = next((folder / script for folder in folders if (folder / script).is_file()), None)
    if found is None:
        raise DataError(f"{caller} calls {script}, which is not there; put it where it is called, or give it itself")
    return found


def _positional(given: Sequence[str]) -> dict[str, str]:
    return {str(number): word for number, word in enumerate(given, 1)}


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{file}: cannot be read ({getattr(e, 'strerror', None) or 'not text'})") from None


def flags_of(file: Path, given: Sequence[str] = ()) -> dict[str, object]:
    """The flags of a script: of the command that trains in a shell script, a YAML's keys, or a Python file's fields.

    Args:
        given: What a shell script is called with, its `$1`, `$2`, ….

    Raises:
        DataError: it cannot be read, has none, or has several commands that train.
    """
    if file.suffix in (".yaml", ".yml", ".json"):
        raw, _ = read_yaml(file)
        found = raw if isinstance(raw, dict) else {}
    else:
        text = _text(file)
        found = dict(_fields(text, file)) if file.suffix == ".py" else _arguments(text, file, given)
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


VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})")
REDIRECTED = re.compile(r"\s[0-9&]?>>?(?:&\s*\d|\s*[^\s&|;]+)")
GIVEN_ON = re.compile(r"\$(?:[@*]|\{\w+\[[@*]\]\})")
"""An array, whose flags are read where it is written, or the script's own arguments."""
OPERATORS = "|&;"
QUOTED = 100
"""Lines after which an open quote is taken for an apostrophe."""


def _arguments(text: str, file: Path, given: Sequence[str] = ()) -> dict[str, object]:
    variables = _positional(given)
    loose: dict[str, object] = {}  # of lines without a command: an array's
    commands: list[dict[str, object]] = []
    for words in _commands(text, variables):
        if any(word.startswith("--") for word in words):
            flags = dict(_pairs(words))
            if words[0].startswith("--"):
                loose |= flags
            else:
                commands.append(flags)
    signs = {sign for one in trainers().values() for sign in one.signs}
    data = {flag for name in trainers() for flag, rule in rules_of(name).items() if rule.role == "data"}
    signed = [flags for flags in commands if flags.keys() & signs]
    training = [flags for flags in signed if flags.keys() & data] or signed
    if len(training) > 1:
        raise DataError(f"{file} has {len(training)} commands that train; give a script for each, in the stages' order")
    found = loose | (training or commands or [{}])[-1]
    for name in ("NPROC_PER_NODE", "CUDA_VISIBLE_DEVICES"):
        if name in variables and found and not found.keys() & {"include", "num_gpus", "nproc_per_node"}:
            found["nproc_per_node"] = variables[name]
    return found


def _commands(text: str, variables: dict[str, str]) -> Iterator[list[str]]:
    """The words of each command, variables replaced; assignments go to `variables`."""
    kept = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\s*\n", " ", kept).split("\n")
    while lines:
        words, taken = _words_of(lines, variables)
        lines = lines[taken:]
        command: list[str] = []
        for word in [*words, ";"]:
            if not word or word.strip(OPERATORS):
                command.append(word)
                continue
            while command and (said := re.fullmatch(r"(?s)(\w+)=(.*)", command[0].strip())):
                variables[said[1]] = said[2]
                command = command[1:]
            if command[:1] == ["export"]:
                variables |= dict(said.split("=", 1) for said in command[1:] if "=" in said)
            elif command:
                yield command
            command = []


def _words_of(lines: list[str], variables: Mapping[str, str]) -> tuple[list[str], int]:
    """The words of the first line, and how many lines they are: more than one if a quote closes later."""
    for taken in range(1, min(len(lines), QUOTED) + 1):
        plain = re.sub(r"\s#.*", "", "\n".join(lines[:taken]))
        plain = re.sub(r"^\s*\w+\+?=\(", " ", plain)  # an array begins
        plain = plain.rstrip().removesuffix(")") if "(" not in plain else plain
        filled = VARIABLE.sub(lambda m: variables.get(m[1] or m[2], m[0] if m[3] is None else m[3]), plain)
        reader = shlex.shlex(REDIRECTED.sub(" ", filled), posix=True, punctuation_chars=OPERATORS)
        reader.whitespace_split, reader.commenters = True, ""
        try:
            return [word for word in reader if not GIVEN_ON.fullmatch(word)], taken
        except ValueError:  # an open quote
            continue
    return [], 1


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
            # the program, or `-m MODULE`, after the launcher's own flags
            if (values and words[at].endswith(".py")) or re.match("-[A-Za-z]", words[at]):
                break
            values.append(words[at])
            at += 1
        read = [parse_yaml(value, flag)[0] if value else "" for value in values]
        yield flag.replace("-", "_"), True if not read else read[0] if len(read) == 1 else list(map(str, read))
