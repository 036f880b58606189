"""The page of error messages: the tree of RemoraError, and every message that the code can raise, by class."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import remora
from remora import errors
from remora.errors import RemoraError

ROOT = Path(remora.__file__).parent
RULES = ("spec", "catalog", "serving/args.py", "serving/canary/args.py")
"""Where pydantic's ValueErrors become SpecErrors."""


@dataclass(frozen=True)
class ErrorClass:
    """A class of RemoraError's tree, as the source has it."""

    name: str
    base: str
    doc: str


def page() -> str:
    """The page's Markdown."""
    found = messages()
    text = [
        "# Error messages",
        "An error that you can act on is one line: the rule, the value that breaks it, what exists, the next command. "
        "`remora` prints it and exits with 1; Python raises it as the class below. Search this page for words of "
        "your message; `…` stands for a value.",
        "Any other error is a fault of Remora. It is one line, too, and names the file in `<run folder>/logs` that has "
        "the trace. `--debug` prints the trace at once.",
        "```text\n" + _tree() + "\n```",
    ]
    for cls in classes():
        about, _, advice = cls.doc.partition("\n\n")
        text += [f"## {cls.name}", " ".join(about.split())]
        if cls.base not in ("Exception", RemoraError.__name__):
            text.append(f"A kind of [{cls.base}](#{cls.base.lower()}).")
        text += [" ".join(part.split()) for part in advice.split("\n\n") if part]
        text += ["\n".join(f"- {_shown(message)}" for message in found.get(cls.name, []))]
    return "\n\n".join(filter(None, text)) + "\n"


@cache
def classes() -> tuple[ErrorClass, ...]:
    """RemoraError and all that descend from it: those of errors.py in its order, then those of other modules."""
    found = {RemoraError.__name__: ErrorClass(RemoraError.__name__, "Exception", inspect.getdoc(RemoraError) or "")}
    paths = [ROOT / "errors.py", *sorted(ROOT.rglob("*.py"))]
    defined = [node for path in paths for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # as deep as the tree is: a class may stand before its base
        for node in defined:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in found]
            if bases:
                found.setdefault(node.name, ErrorClass(node.name, bases[0], ast.get_docstring(node) or ""))
    return tuple(found.values())


def _tree() -> str:
    return inspect.cleandoc((errors.__doc__ or "").split("\n\n")[1])


def messages() -> dict[str, list[str]]:
    """The messages of each class as the code has them, `…` for what is filled in; each once, sorted."""
    names = {cls.name for cls in classes()}
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        for name, message in _raised(ast.parse(path.read_text())):
            if name == "ValueError" and place.startswith(RULES):
                name = "SpecError"
            if name in names and len(re.sub(r"[…\W]+", "", message)) >= 12:
                found[name].add(message)
    return {name: sorted(of, key=str.casefold) for name, of in found.items()}


def _raised(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        function = node.func
        name = (
            function.id
            if isinstance(function, ast.Name)
            else function.attr
            if isinstance(function, ast.Attribute)
            else ""
        )
        if message := _text(node.args[0]):
            yield name, " ".join(message.split())


def _text(node: ast.expr) -> str:
    """A string, or an f-string with `…` in place of each value; empty for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left) or "…") + (_text(node.right) or "…")
    return ""


def _shown(message: str) -> str:
    """As code, whatever is in it."""
    fence = "``" if "`" in message else "`"
    space = " " if "`" in message else ""
    return f"{fence}{space}{message}{space}{fence}"
