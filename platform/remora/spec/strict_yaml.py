"""YAML, read strictly: text, numbers, true, false, null, lists and mappings, as YAML 1.2's core schema spells them.

PyYAML only composes the nodes. Its constructor follows YAML 1.1, where `no` is false, `12:30` is 750, `1e-3` is text, a
date is an object, the last of two equal keys wins, and tags make sets and bytes, which have no canonical form. Here
keys are text as written, a duplicate key is an error, and every value knows its line.
"""

from __future__ import annotations

import math
import re
from itertools import accumulate
from pathlib import Path

import yaml

from remora.errors import SpecError

KeyLines = dict[tuple[str | int, ...], int]
MOST_BYTES = 1 << 20
"""Maximum size of a file, a hundred times that of a real spec."""
MOST_VALUES = 20_000
"""Maximum values of a file with its aliases expanded; a few lines can expand to billions."""
DEEPEST = 200
"""Maximum nesting of lists and mappings."""
TAG = "tag:yaml.org,2002:"
MERGE = f"{TAG}merge"
NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
CONSTANTS = {"null": None, "true": True, "false": False, "": None, "~": None}


class _Loader(yaml.SafeLoader):
    """Composes nodes with the tags of YAML 1.2's core schema, and `<<`."""

    # PyYAML's own has the rules of YAML 1.1
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("merge", r"<<", ["<"]),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"{TAG}{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def parse_yaml(text: str, name: str) -> tuple[object, KeyLines]:
    """Parse YAML and find the line of every key and list item.

    Raises:
        SpecError: the text is not valid YAML, a key is written twice, or an alias contains itself or expands too far.
    """
    reader = _Reader(name)
    try:
        if _unclosed(text) > DEEPEST:  # PyYAML takes seconds to find the same
            raise RecursionError
        node = yaml.compose(text, Loader=_Loader)
        return (None if node is None else reader.value(node, ())), reader.lines
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or str(e).splitlines()[0]
        if problem == "but found another document":
            problem = "a second document begins here (---); a file holds one"
        raise SpecError(f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {problem}") from None
    except RecursionError:
        raise SpecError(f"{name}: not valid YAML: lists and mappings are nested too deeply") from None


def read_yaml(path: Path | str) -> tuple[object, KeyLines]:
    """Read a YAML file; see `parse_yaml`."""
    path = Path(path)
    try:
        with path.open("rb") as f:
            content = f.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as e:
        raise SpecError(f"{path}: cannot read: {e.strerror}; give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not a text file in UTF-8; give the path of a YAML file") from None
    except ValueError:  # a NUL in the name
        raise SpecError(f"{str(path)!r}: no file has such a name; give the path of a YAML file") from None
    if len(content) > MOST_BYTES:
        raise SpecError(f"{path}: more than {MOST_BYTES >> 20} MiB, which no spec has; give the path of a YAML file")
    return parse_yaml(text, str(path))


def _unclosed(text: str) -> int:
    """Upper estimate of the nesting of brackets and braces, by counting characters."""
    steps = (1 if c in "[{" else -1 for c in text if c in "[]{}")
    return max(accumulate(steps), default=0)


class _Reader:
    """Converts nodes to values. `lines` maps the path of every key and list item to its line (from 1)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: KeyLines = {}
        self._values = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: tuple[str | int, ...]) -> object:
        """The value of a node."""
        self._values += 1
        if self._values > MOST_VALUES:
            raise self._problem(node, f"its aliases expand to more than {MOST_VALUES:,} values")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self._problem(node, "an alias contains itself")
        self._open.add(id(node))
        found: object
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            found = self._list(node, path)
        elif isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            found = self._mapping(node, path)
        else:
            raise self._unknown(node)
        self._open.discard(id(node))
        return found

    def _list(self, node: yaml.SequenceNode, path: tuple[str | int, ...]) -> list[object]:
        found = []
        for i, item in enumerate(node.value):
            self.lines[(*path, i)] = item.start_mark.line + 1
            found.append(self.value(item, (*path, i)))
        return found

    def _mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, object]:
        """The merged keys (`<<`) that the mapping does not have itself, then its own keys in order."""
        own: dict[str, yaml.Node] = {}
        merged: dict[str, object] = {}
        written: set[str] = set()
        for key_node, item in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._problem(key_node, "a list or a mapping cannot be a key")
            key = self._text(key_node)
            if key in written:
                raise self._problem(key_node, f"key {key!r} is written twice")
            written.add(key)
            if key_node.tag == MERGE:
                for k, v in self._merged(item, path).items():
                    merged.setdefault(k, v)
            else:
                self.lines[(*path, key)] = key_node.start_mark.line + 1
                own[key] = item
        lines = {(*path, key): self.lines[(*path, key)] for key in own}
        found = {k: v for k, v in merged.items() if k not in own}
        found |= {key: self.value(item, (*path, key)) for key, item in own.items()}
        self.lines |= lines
        return found

    def _merged(self, node: yaml.Node, path: tuple[str | int, ...]) -> dict[str, object]:
        """The value of `<<`: a mapping, or several merged so that the first one with a key wins."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, object] = {}
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise self._problem(source, "<< takes an alias of a mapping, or a list of them")
            value = self.value(source, path)
            assert isinstance(value, dict)
            for key, item in value.items():
                found.setdefault(key, item)
        return found

    def _scalar(self, node: yaml.ScalarNode) -> object:
        text = self._text(node)
        kind = node.tag.removeprefix(TAG)
        try:
            if kind in ("str", "merge"):
                return text
            if kind in ("null", "bool"):
                return CONSTANTS[text.lower()]
            if kind == "int":
                return self._whole(node, int(text, 0 if text[:2] in ("0x", "0o") else 10))
            if kind == "float":
                return self._number(node, text)
        except (ValueError, KeyError):  # a tag that was written out, or more digits than Python reads
            raise self._problem(node, f"{_short(text)} is not a readable {kind}") from None
        raise self._unknown(node)

    def _whole(self, node: yaml.Node, number: int) -> int:
        if abs(number) >= 1 << 63:
            raise self._problem(node, "a whole number of more than 63 bits")
        return number

    def _number(self, node: yaml.Node, text: str) -> float:
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if math.isinf(number) and "inf" not in text.lower():
            raise self._problem(node, f"{_short(text)} is too large a number")
        return number

    def _text(self, node: yaml.ScalarNode) -> str:
        """The scalar's text: no control characters except tabs and line breaks, no lone surrogates."""
        if no_text := NO_TEXT.search(node.value):
            raise self._problem(node, f"character {no_text[0]!r} is not text")
        return str(node.value)

    def _unknown(self, node: yaml.Node) -> SpecError:
        return self._problem(
            node,
            f"tag {_short(node.tag)} is not known; values are text, numbers, true, false, null, lists and mappings",
        )

    def _problem(self, node: yaml.Node, problem: str) -> SpecError:
        return SpecError(f"{self.name}:{node.start_mark.line + 1}: not valid YAML: {problem}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
