"""The string below each field of a model's class: what the field means, for reference pages and editors."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from functools import cache

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from remora.spec.base import models_in


@cache
def doc_lines(model: type[BaseModel]) -> dict[str, str]:
    """Field name -> meaning, of a class and of those that it inherits from. Reads the source."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if not issubclass(owner, BaseModel) or owner is BaseModel:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for above, below in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(above, ast.AnnAssign)
                and isinstance(above.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[above.target.id] = inspect.cleandoc(below.value.value)
    return found


def meaning(model: type[BaseModel], name: str, info: FieldInfo) -> str:
    """What a field means; of a block's key without a line of its own, the first sentence about the block."""
    if line := doc_lines(model).get(name):
        return line
    first, *_ = [*models_in(info.annotation), BaseModel]
    return "" if first is BaseModel else re.split(r"(?<=[.])\s", " ".join((first.__doc__ or "").split()))[0]
