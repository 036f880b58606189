"""A first spec for someone's data, hardware and model, with a comment on every line (`remora init`).

Batches and steps follow from the number of samples, length and rates from the model, the cluster block from the device.
On a GPU of the catalog every stage is fitted into its memory, which imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml

from remora import catalog
from remora.catalog import Device
from remora.catalog.compatibility import check_composition
from remora.errors import SpecError
from remora.runs import checked_stages
from remora.spec import PARTS, Cluster, MixtureEntry, Stage, Variant, parse_yaml, validate

STEPS = 200
"""Steps that a stage has at least where the data is small."""
ON_CPU = 512
"""Tokens of a sample on CPUs, beside its pictures."""
LOGITS = 1 << 30
"""Bytes that a pass's logits may take on a CPU."""
LAST, LAST_LR, ABOVE_LR = 6, 2.0e-4, 1.0e-3
"""What trains of a pretrained language model on CPUs, as in jobs/smollm2.yaml: its last blocks, and at which rates."""
FROM_NOTHING = (1.0e-3, 5.0e-4)
"""Rates of the first and the last stage above a language model that was trained from nothing (docs/start.md)."""
PARTS_FOR: tuple[tuple[int, str, str], ...] = (
    (0, "siglip2-base-224", "smollm2-360m-instruct"),
    (20_000, "siglip-l-384", "qwen2.5-0.5b"),
    (75_000, "siglip-so400m-384", "phi-2"),
)
"""MiB of a GPU from which on an encoder and a language model are proposed."""
TOKENS = 8192
"""Tokens of a pass on a GPU, before it is fitted."""


@dataclass(frozen=True)
class Wish:
    """What somebody wants to train, and on what."""

    vision: str
    connector: str
    llm: str
    recipe: str
    device: Device
    workers: int
    """GPUs, or processes on CPUs."""
    data: str | None = None
    images: str | None = None
    samples: int = 0
    """Of the data."""
    benchmarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Line:
    key: str
    value: object
    about: str


def proposed(device: Device) -> tuple[str, str]:
    """An encoder and a language model for a device; on CPUs those that need no hub."""
    if not device.is_gpu:
        return "efficientnet-lite0", "demo-2m"
    return next((vision, llm) for least, vision, llm in reversed(PARTS_FOR) if (device.memory or 0) >= least)


def drafted(wish: Wish, opening: Sequence[str], fit: bool = True) -> tuple[str, Variant]:
    """The text of a spec, with `opening` as comments before it, and the variant that it is.

    Raises:
        UnknownName: a part, recipe or benchmark is not in the catalog.
        SpecError: the parts do not fit each other or the recipe, or a stage fits the device by no setting.
    """
    stages = {stage.name: list(_stage_lines(wish, stage, i)) for i, stage in enumerate(_stages(wish))}
    cluster = _cluster(wish)
    text = _text(wish, stages, cluster, opening)
    variant = _read(text)
    resolved = checked_stages(variant)
    if fit and wish.device.is_gpu:
        fitted = _fitted(variant, resolved, wish)
        if fitted != variant.cluster:
            text = _text(wish, stages, _said(cluster, fitted), opening)
            variant = _read(text)
    return text, variant


def _read(text: str) -> Variant:
    raw, lines = parse_yaml(text, "the new spec")
    return validate(Variant, raw, "the new spec", lines)


def _stages(wish: Wish) -> tuple[Stage, ...]:
    return catalog.recipe(wish.recipe).stages


def _template(wish: Wish, stage: Stage) -> str:
    """The recipe's if the model takes it, else its first; with own data always that (`plain` hides questions)."""
    takes = catalog.llm(wish.llm).templates
    if wish.data:
        return takes[0] if takes else _stages(wish)[-1].template
    return stage.template if not takes or stage.template in takes else takes[0]


def _stage_lines(wish: Wish, stage: Stage, number: int) -> Iterator[_Line]:
    """What the spec changes in a stage of the recipe."""
    model, last = catalog.llm(wish.llm), number == len(_stages(wish)) - 1
    template = _template(wish, stage)
    if wish.data:
        entry = MixtureEntry(path=wish.data, images=wish.images).model_dump(exclude_defaults=True)
        yield _Line("mixture", [entry], "what it reads; more entries are mixed (docs/mixtures.md)")
    if template != stage.template:
        yield _Line(
            "template", template, f"how a conversation becomes a prompt; {wish.llm} takes {_some(model.templates)}"
        )
    if wish.samples:
        batch = _batch(stage.batch, wish.samples)
        passes = max(stage.epochs or 0.0, STEPS * batch / wish.samples)
        yield _Line("batch", batch, "samples a step, over all workers")
        if passes > (stage.epochs or 0):
            yield _Line("steps", STEPS, f"{passes:.3g} passes over {wish.samples:,} samples")
        else:
            yield _Line("epochs", stage.epochs, f"passes over {wish.samples:,} samples")
    if not wish.device.is_gpu:
        yield _Line("max_length", _length(wish), "tokens of a sample; longer ones are cut at the end of a turn")
    if wish.data and model.loader == "scratch":
        yield _Line("lr", FROM_NOTHING[last], "peak learning rate")
    elif last and not wish.device.is_gpu and stage.tune.llm.mode == "full" and model.layers > LAST:
        tune = {"llm": {"last": LAST, "lr": LAST_LR}}
        yield _Line("tune", tune, "what trains of each part; on a GPU leave it out: then all of the model trains")
        yield _Line("lr", ABOVE_LR, "peak learning rate of the others that train")
        yield _Line("clip", 1.0, "most norm of a step's gradient")


def _batch(most: int, samples: int) -> int:
    """A power of two: the recipe's batch, or less where the data is so small that few steps would be left."""
    return max(4, min(1 << (most.bit_length() - 1), 1 << max(0, (samples // 25).bit_length() - 1)))


def _length(wish: Wish) -> int:
    model = catalog.llm(wish.llm)
    pictures = check_composition(catalog.vision(wish.vision), catalog.connector(wish.connector), model)
    return min(model.context, 128 * math.ceil((pictures + ON_CPU) / 128))


def _cluster(wish: Wish) -> list[_Line]:
    model, device = catalog.llm(wish.llm), wish.device
    batch = min((_batch(s.batch, wish.samples) if wish.samples else s.batch) for s in _stages(wish))
    each = max(1, batch // wish.workers)
    if not device.is_gpu:
        room = LOGITS // (4 * model.vocabulary * _length(wish))
        return [
            _Line("workers", wish.workers, "processes, each with a CPU"),
            _Line("micro_batch", max(1, min(16, each, room)), "samples of one pass; it changes no loss"),
            _Line("zero", 0, "each process has the whole model"),
        ]
    longest = max(stage.length(model.context) for stage in _stages(wish))
    precision = next(kind for kind in ("bf16", "fp16", "fp32") if device.peak(kind))
    return [
        _Line("workers", wish.workers, "GPUs"),
        _Line("gpus_per_worker", 1, "below 1, small models share a GPU"),
        _Line("precision", precision, f"of passes on {device.named}; weights and AdamW stay fp32"),
        _Line("micro_batch", max(1, min(each, TOKENS // longest)), "samples of one pass; it changes no loss"),
        _Line("activation_checkpointing", model.parameters > 1e9, "less memory for a third more compute"),
        _Line("zero", 2, "what is sharded over the GPUs (DeepSpeed)"),
    ]


def _fitted(variant: Variant, stages: Sequence[Stage], wish: Wish) -> Cluster:
    """The cluster block with which every stage fits the device, and leaves a tenth of it free: nothing has compared the
    count with a GPU's own.

    Raises:
        SpecError: one fits by no setting, or only with more GPUs.
    """
    from remora.planning.fitting import cheapest_fit
    from remora.planning.serving import USED
    from remora.runs.memory import PlacedStage, stage_memory

    parts = {part: getattr(variant, part) for part in PARTS}
    cluster = variant.cluster
    room = wish.device.model_copy(update={"memory": int((wish.device.memory or 0) * USED)})
    for stage in stages:
        placed = PlacedStage(stage, parts, cluster, wish.workers, room)
        if stage_memory(placed).fits:
            continue
        change = cheapest_fit(placed)
        if change is None or change.ranks != wish.workers:
            more = f"; {change.ranks} of them would do" if change else ""
            raise SpecError(
                f"stage {stage.name!r} of {wish.llm} with {wish.vision} does not fit {wish.workers} x "
                f"{wish.device.named} with {1 - USED:.0%} of its memory free{more}; take a smaller --llm or "
                "--vision, more --gpus, or a recipe with LoRA (llava-1.5-lora)"
            )
        cluster = cluster.model_copy(update=dict(change.settings))
    return cluster


def _said(lines: Sequence[_Line], cluster: Cluster) -> list[_Line]:
    """The lines of a cluster block with what fitting has changed."""
    said = [_Line(line.key, getattr(cluster, line.key), line.about) for line in lines]
    if cluster.offload != "none":
        said.append(_Line("offload", cluster.offload, "what is kept in the host's memory"))
    return said


def _text(wish: Wish, stages: dict[str, list[_Line]], cluster: Sequence[_Line], opening: Sequence[str]) -> str:
    vision, llm = catalog.vision(wish.vision), catalog.llm(wish.llm)
    names = ", ".join(stages)
    top = [
        _Line("vision", wish.vision, f"the encoder, {vision.image_size} px; others: remora catalog vision"),
        _Line("connector", wish.connector, "from picture tokens to embeddings; others: remora catalog connectors"),
        _Line("llm", wish.llm, f"{llm.parameters / 1e6:,.0f} M parameters, {llm.licence}; others: remora catalog llm"),
        _Line("recipe", wish.recipe, f"stages {names}; see: remora catalog recipes {wish.recipe}"),
    ]
    lines = [*opening, *_written(top)]
    if any(stages.values()):
        lines.append("overrides:  # keys of the recipe's stages; all of them: remora docs yaml-recipes")
        for name, said in stages.items():
            lines += [f"  {name}:", *_written(said, "    ")] if said else []
    seed = _Line("seed", 0, "decides order, dropout and new weights; another seed is another model")
    measured = _Line("benchmarks", list(wish.benchmarks), "measured at the end; names, or a YAML of your own questions")
    lines += [*_written([seed]), "cluster:", *_written(cluster, "  "), *_written([measured])]
    return "\n".join(lines) + "\n"


def _written(lines: Sequence[_Line], indent: str = "") -> list[str]:
    """Lines of YAML, the comments below each other where there is room."""
    said = [f"{indent}{line.key}: {_value(line.value)}" for line in lines]
    width = max((len(text) for text in said if len(text) <= 40), default=0)
    return [f"{text:<{width}}  # {line.about}" for text, line in zip(said, lines, strict=True)]


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}".replace("e-0", "e-") if value < 0.01 else f"{value:g}"
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("...\n").strip()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) or "any"
