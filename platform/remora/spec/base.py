"""Base of strict specs: YAML becomes a frozen pydantic model, or an error that names file, line, key and value."""

from __future__ import annotations

from typing import Annotated, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticKnownError

from remora.errors import SpecError, nearest
from remora.spec.messages import broken_rule, found
from remora.spec.strict_yaml import KeyLines

MISTAKES = 10
"""Maximum errors reported at once for one file."""


class Spec(BaseModel):
    """Base class of all specs: frozen; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)

    @classmethod
    def short_forms(cls) -> tuple[dict[str, object], ...]:
        """What a file may have in its place, as JSON schemas."""
        return ()

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: object, info: ValidationInfo) -> object:
        """pydantic would take true for 1, text for a number and a number for true; JSON schemas do not."""
        kinds = kinds_in(cls.model_fields[info.field_name or ""].annotation)
        number, scalars = kinds & {int, float}, {bool if isinstance(k, bool) else k for k in kinds}
        scalars &= {str, bool, int, float}
        for one in value if isinstance(value, list | tuple) else (value,):
            if number and not kinds & {str, bool, object} and _would_be_a_number(one):
                raise PydanticKnownError("float_type" if float in number else "int_type")
            if (
                scalars == {bool}
                and object not in kinds
                and isinstance(one, str | int | float)
                and type(one) is not bool
            ):
                raise PydanticKnownError("bool_type")
        return value


def _would_be_a_number(value: object) -> bool:
    """For pydantic, which says itself where in a list other text is."""
    if not isinstance(value, str):
        return isinstance(value, bool)
    try:
        float(value)
    except ValueError:
        return False
    return True


def whole_numbers(value: object) -> list[int]:
    """A whole number, or those of a list; empty if any is none. 2.0 is one, as for pydantic and JSON schemas."""
    listed = value if isinstance(value, list | tuple) else (value,)
    found = [int(n) for n in listed if type(n) is int or (isinstance(n, float) and n.is_integer())]
    return found if len(found) == len(listed) else []


def kinds_in(annotation: object) -> set[object]:
    """The types that an annotation is made of."""
    return {annotation}.union(*map(kinds_in, get_args(annotation))) if get_args(annotation) else {annotation}


def _file_name(name: str) -> str:
    if name.startswith(".") or "/" in name or not name.strip() or len(name.encode()) > 100:
        raise ValueError(f"{name[:40]!r} cannot name files: 1 to 100 bytes, without / and not beginning with a dot")
    return name


NAMES_FILES: dict[str, object] = {"type": "string", "maxLength": 100, "pattern": r"^(?!\s*$)[^./][^/]*$"}
FileName = Annotated[str, AfterValidator(_file_name), WithJsonSchema(NAMES_FILES)]
"""A name that is used for folders and files in the run folder."""
S = TypeVar("S", bound=BaseModel)


def validate(
    model: type[S], raw: object, name: str, lines: KeyLines | None = None, at: tuple[str | int, ...] = ()
) -> S:
    """Validate `raw` as `model`. Errors begin with `name` and, if `lines` has it, the line. `at` is its path in the
    file.

    Raises:
        SpecError: one line per error. Errors of keys that exist come first: a missing key may be a misspelt one.
    """
    if not isinstance(raw, dict):
        where = f"{name}:{lines[at]}: {_key(at)}" if lines and at in lines else name
        raise SpecError(f"{where}: expected keys and values ({', '.join(keys_of(model))}), found {found(raw)}")
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        broken = [err["loc"] for err in e.errors()]
        # pydantic also reports an invalid item as missing from its list: once is enough
        errors = [
            err
            for err in e.errors()
            if not (err["type"] == "too_short" and any(loc[: len(err["loc"])] == err["loc"] != loc for loc in broken))
        ]
        errors.sort(key=lambda err: _order(err, lines or {}, at))
        told = list(dict.fromkeys(_explain(model, err, name, lines or {}, at) for err in errors))
        if more := len(told) - MISTAKES:
            told = [*told[:MISTAKES], f"{name}: and {more:,} mistakes more"] if more > 0 else told
        raise SpecError("\n".join(told)) from None


def _order(err: ErrorDetails, lines: KeyLines, at: tuple[str | int, ...]) -> tuple[bool, int]:
    known = (*at, *err["loc"])
    while known and known not in lines:
        known = known[:-1]
    return err["type"] == "missing", lines.get(known, 0)


def _explain(model: type[BaseModel], err: ErrorDetails, name: str, lines: KeyLines, at: tuple[str | int, ...]) -> str:
    # pydantic adds names of union branches and validators to `loc`; the file has only keys and positions.
    loc = tuple(part for part in err["loc"] if not (isinstance(part, str) and "[" in part))
    if err["type"] == "extra_forbidden" and loc[-1:] != err["loc"][-1:]:
        loc = (*loc, err["loc"][-1])  # a key that was written with one
    known = (*at, *loc)
    while known and known not in lines:
        known = known[:-1]
    where = f"{name}:{lines[known]}" if known in lines else name
    if err["type"] == "extra_forbidden":
        fields = _fields_at(model, loc[:-1])
        hint = nearest(str(loc[-1]), fields)
        return f"{where}: unknown key {_key((*at, *loc))!r}{hint} (known: {', '.join(fields)})"
    if err["type"] == "missing":
        return f"{where}: key {_key((*at, *loc))!r} is missing"
    key = _key((*at, *loc))
    return f"{where}: {key}: {broken_rule(err)}" if key else f"{where}: {broken_rule(err)}"


def _key(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Field names of the model at `loc`, found by following annotations."""
    current = model
    for part in loc:
        models = models_in(keys_of(current)[str(part)]) if part in keys_of(current) else [current]
        current = models[0] if models else current
    return list(keys_of(current))


def keys_of(model: type[BaseModel]) -> dict[str, object]:
    """A model's keys as they are written in a file, with their annotations."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in models_in(arg)]
