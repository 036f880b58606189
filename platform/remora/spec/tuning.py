"""What each part of the model does in a stage: absent, frozen, trained whole, in its last blocks, or by adapters."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from remora.errors import SpecError
from remora.spec.base import Spec

PARTS = ("vision", "connector", "llm")


ALL_LINEAR = "all-linear"
TEXTS: dict[str, object] = {"type": ["string", "array"], "items": {"type": "string"}}
"""The JSON schema of a list of texts, or of a single one."""


class Lora(Spec):
    """Low-rank adapters on a part's linear layers (arXiv 2106.09685); the part's own weights stay frozen."""

    r: int = Field(128, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(256, gt=0)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout before the adapters."""
    targets: Annotated[tuple[str, ...], WithJsonSchema(TEXTS)] = ()
    """Linear layers that get an adapter, by the end of their names (q_proj, self_attn.q_proj). Default, and peft's
    `all-linear`: all but the head."""
    bits: Literal[4, 8] | None = None
    """Hold the frozen weights in 4 (NF4) or 8 bits; needs bitsandbytes: pip install 'remora[quantized]'."""

    @field_validator("targets", mode="before")
    @classmethod
    def _word_or_list(cls, value: object) -> object:
        names = [value] if isinstance(value, str) else value
        return () if isinstance(names, list | tuple) and ALL_LINEAR in names else names


MODES = ("last", "from", "lora")
"""Short forms of a tuning: a mapping with one of these keys."""


class PartTuning(Spec):
    """What one part does in a stage.

    Write a word (`frozen`, `full`, `lora`, `absent`), a short form (`{last: 6}`, `{from: 12}`, `{lora: {r: 64}}`), or
    all keys (`{mode: full, lr: 1e-4}`).
    """

    mode: Literal["absent", "frozen", "full", "last", "from", "lora"]
    """absent: the part is not built (a text-only stage). last, from: only the last n blocks, or blocks from n on,
    train."""
    blocks: int | None = Field(None, ge=0)
    """The n of last and from."""
    lora: Lora | None = None
    lr: float | None = Field(None, gt=0)
    """Peak learning rate; default: the stage's."""
    weight_decay: float | None = Field(None, ge=0)
    """Decoupled weight decay; default: the stage's."""
    dropout: bool = False
    """Whether a frozen part's dropout is active, as in the published runs: transformers' Trainer leaves it on for the
    whole model. In a part that trains, dropout is always active."""

    @classmethod
    def short_forms(cls) -> tuple[dict[str, object], ...]:
        own = {key: True for key in cls.model_fields if key not in ("mode", "blocks", "lora")}
        number = {"type": "integer", "minimum": 0}
        forms: dict[str, object] = {"last": number, "from": number, "lora": {"$ref": "#/$defs/Lora"}}
        words = [mode for mode in get_args(cls.model_fields["mode"].annotation) if mode not in ("last", "from")]
        return (
            {"enum": words},
            *(
                {"type": "object", "properties": {key: form, **own}, "required": [key], "additionalProperties": False}
                for key, form in forms.items()
            ),
        )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if isinstance(value, str):
            value = {"mode": value}
        if not isinstance(value, dict):
            return value
        value = dict(value)
        written = [k for k in ("last", "from", "mode", "blocks") if k in value]
        written += ["lora"] if value.get("lora") is not None and "mode" not in value else []
        if len(written) > 1 and written != ["mode", "blocks"]:
            raise ValueError(f"{' and '.join(written)} exclude each other; write a word, {{last: n}} or {{from: n}}")
        for mode in ("last", "from"):
            if mode in value:
                value |= {"mode": mode, "blocks": value.pop(mode)}
        if value.get("lora") is not None:
            value = {"mode": "lora"} | value
        elif value.get("mode") == "lora":
            value["lora"] = {}
        return value

    @model_validator(mode="after")
    def _settings_belong(self) -> Self:
        if (self.blocks is not None) != (self.mode in ("last", "from")):
            raise ValueError(
                f"mode {self.mode!r} and blocks {self.blocks!r} do not fit; write {{last: n}} or {{from: n}}"
            )
        if (self.lora is not None) != (self.mode == "lora"):
            raise ValueError(f"mode {self.mode!r} and lora do not fit; write {{lora: {{r: 128, alpha: 256}}}}")
        own = [f"{key}: {getattr(self, key):g}" for key in ("lr", "weight_decay") if getattr(self, key) is not None]
        if own and not self.trains:
            raise ValueError(f"{' and '.join(own)} has no effect on a part that is {self.mode}; leave it out")
        if self.dropout and self.mode != "frozen":
            raise ValueError(f"dropout: true is for a frozen part; mode {self.mode} has its dropout without it")
        return self

    @property
    def trains(self) -> bool:
        return self.mode in ("full", *MODES)

    def first_block(self, part: str, blocks: int, read: int) -> int:
        """Index of the first block that `last` or `from` trains, of a part with `blocks` blocks that runs the first
        `read`.

        Raises:
            SpecError: no block is left to train, or there are fewer blocks than asked for.
        """
        assert self.blocks is not None
        first = self.blocks if self.mode == "from" else blocks - self.blocks
        if not 0 <= first < read:
            behind = "" if read == blocks else f", of which those after {read - 1} are not read"
            raise SpecError(
                f"tune.{part}: {{{self.mode}: {self.blocks}}} leaves nothing to train or asks for too much; "
                f"{part} has blocks 0 to {blocks - 1}{behind}"
            )
        return first


class Tuning(Spec):
    """What every part does in a stage."""

    vision: PartTuning = PartTuning(mode="frozen")
    connector: PartTuning = PartTuning(mode="full")
    llm: PartTuning = PartTuning(mode="frozen")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.llm.mode == "absent":
            raise ValueError("the llm cannot be absent: it gives the loss")
        if (self.vision.mode == "absent") != (self.connector.mode == "absent"):
            raise ValueError("vision and connector are absent together or not at all")
        if self.connector.mode in MODES:
            raise ValueError("a connector trains whole (full) or not at all (frozen)")
        if not self.trained:
            raise ValueError("nothing trains; set at least one part to full, {last: n} or {from: n}")
        return self

    def __getitem__(self, part: str) -> PartTuning:
        return getattr(self, part)

    @property
    def present(self) -> tuple[str, ...]:
        return tuple(p for p in PARTS if self[p].mode != "absent")

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(p for p in PARTS if self[p].trains)
