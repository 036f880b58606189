"""`remora import-config`: a job and a recipe from the scripts of another trainer, and what of them did not come along.

remora import-config pretrain.sh finetune.sh --out jobs/mine.yaml
remora import-config scripts/train/train_phi.sh --out jobs/mine.yaml    # which calls both
remora import-config qwen2vl_lora_sft.yaml --vision siglip2-base-224 --llm qwen2-0.5b-instruct --out jobs/mine.yaml
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Sequence
from pathlib import Path
from shlex import quote

import yaml

from remora import catalog
from remora.commands.saying import say
from remora.commands.scripts import stages_of
from remora.commands.setup_options import ImportConfigOptions
from remora.commands.trainers import trainers
from remora.commands.translating import Translation, trainer_of, translate
from remora.data.outputs import writes
from remora.errors import SpecError
from remora.runs import checked_stages, read_variant
from remora.spec import PARTS

FROZEN = "frozen"


def import_config(options: ImportConfigOptions) -> None:
    """Write the job and its recipe, and list what has no counterpart.

    Raises:
        SpecError: a part is not known, data is not named, or the result would not be a valid job.
        DataError: a script cannot be read.
    """
    job_file, recipe_file = options.out, options.out.with_name(f"{options.out.stem}-recipe.yaml")
    for file in (job_file, recipe_file):
        if file.exists():
            raise SpecError(f"{file} exists, and import-config writes new files; give another --out")
    if options.gpus is not None and options.gpus < 1:
        raise SpecError(f"--gpus {options.gpus}: give how many GPUs they ran on, 1 or more")
    files, made = [], []
    for file, flags in (one for script in options.scripts for one in stages_of(script)):
        files.append(file)
        name = options.trainer or trainer_of(flags, file)
        made.append(translate(name, flags, options.gpus))
        say(f"{file}: {len(made[-1].translated)} flags of {trainers()[name].title.split(',')[0]} translated")
    job = _job(options, made, recipe_file)
    recipe = _recipe(options, made, str(job["llm"]))
    _check(job, recipe, recipe_file.name)
    head = "# " + " and ".join(file.name for file in options.scripts) + ", translated by `remora import-config`.\n"
    with writes(job_file, "--out"):
        job_file.parent.mkdir(parents=True, exist_ok=True)
        recipe_file.write_text(head + _dumped(recipe))
        job_file.write_text(head + _dumped(job))
    said = {key for one in made for key in one.keys.keys() - one.taken.keys() if not key.startswith("stage.")}
    lines = [*_overridden(options, files, made, said), *(line for one in made for line in told(one, said))]
    for line in dict.fromkeys(lines):
        say(line)
    say(f"{job_file}, with {recipe_file.name}", f"next: remora render {quote(str(job_file))}")


def told(made: Translation, said: Container[str] = ()) -> list[str]:
    """What a reader has to know: assumed defaults, but for keys that another script says, and every flag that is not in
    the job."""
    taken = {key.removeprefix("stage."): value for key, value in made.taken.items() if key not in said}
    lines = [f"assumed, as that trainer does: {key}: {_short(value)}" for key, value in taken.items()]
    lines += [f"differs: {key} ({why})" for key, why in made.differs.items()]
    lines += [f"nothing to write: --{flag} ({why})" for flag, why in made.needless.items()]
    lines += [f"no counterpart: --{flag} ({why})" for flag, why in made.missing.items()]
    return lines + [f"unknown: --{flag} {_short(value)}" for flag, value in made.unknown.items()]


def _overridden(
    options: ImportConfigOptions, files: Sequence[Path], made: Sequence[Translation], said: Container[str]
) -> list[str]:
    """A line for each key of the job that the scripts set differently: the job has one value, the last script's. A
    trainer's default does not count where another script sets the key."""
    found: dict[str, tuple[object, Path]] = {}
    lines = []
    for file, one in zip(files, made, strict=True):
        for key, value in one.keys.items():
            if (
                key.startswith("stage.")
                or (key in PARTS and getattr(options, key))
                or (key in one.taken and key in said)
            ):
                continue
            before, where = found.get(key, (value, file))
            if before != value:
                kept, left = f"{_short(value)} of {file.name}", f"{_short(before)} of {where.name}"
                lines.append(f"one for the whole job: {key}: {kept}, not {left}")
            found[key] = value, file
    return lines


def _short(value: object) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**6)).removesuffix("...\n").strip()


def _job(options: ImportConfigOptions, made: Sequence[Translation], recipe: Path) -> dict[str, object]:
    keys: dict[str, object] = {}
    for assumed in (True, False):  # what a script says wins over what another one leaves out
        for one in made:
            keys |= {key: value for key, value in one.keys.items() if (key in one.taken) == assumed}
    given = {part: getattr(options, part) for part in PARTS if getattr(options, part)}
    parts = {part: keys[part] for part in PARTS if part in keys} | given
    for part, kind in zip(PARTS, ("vision", "connectors", "llm"), strict=True):
        if part not in parts:
            why = "; ".join(f"--{flag}: {said}" for one in made for flag, said in one.missing.items() if kind in said)
            raise SpecError(f"the scripts name no {part} that is known{f' ({why})' if why else ''}; give --{part} NAME")
    cluster = {key.removeprefix("cluster."): value for key, value in keys.items() if key.startswith("cluster.")}
    job = {**parts, "recipe": recipe.name, "cluster": cluster}
    return job | {key: keys[key] for key in ("seed", "benchmarks") if key in keys}


def _recipe(options: ImportConfigOptions, made: Sequence[Translation], llm: str) -> dict[str, object]:
    stages: list[dict[str, object]] = []
    for one in made:
        tree = one.stage()
        if options.data:
            tree["mixture"] = [{"path": options.data, **({"images": options.images} if options.images else {})}]
        if "template" not in tree and (takes := catalog.llm(llm).templates):
            tree["template"] = takes[0]
        if "mixture" not in tree:
            raise SpecError("the script names no data; give --data FILE, and --images DIR")
        stages.append({"name": _name(tree, [str(stage["name"]) for stage in stages]), **tree})
    return {"name": f"{options.out.stem}-recipe", "stages": stages}


def _name(stage: dict[str, object], taken: Sequence[str]) -> str:
    """align, if only the connector trains; else finetune."""
    tune = stage.get("tune")
    frozen = isinstance(tune, dict) and (tune.get("vision"), tune.get("llm")) == (FROZEN, FROZEN)
    name = "align" if frozen else "finetune"
    return name if name not in taken else f"{name}-{len(taken) + 1}"


def _check(job: dict[str, object], recipe: dict[str, object], name: str) -> None:
    """Read both as `remora render` would, before anything is written."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(_dumped(recipe))
        file = Path(folder) / "job.yaml"
        file.write_text(_dumped(job))
        try:
            checked_stages(read_variant(file))
        except SpecError as e:
            raise SpecError(str(e).replace(f"{folder}/", "").replace("\n", "; ")) from None


def _dumped(content: object) -> str:
    return str(yaml.safe_dump(content, sort_keys=False, width=110, default_flow_style=None, allow_unicode=True))
