"""`remora data show`: what the model reads, from a variant's stages or a dataset by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.commands.data_options import DataShowOptions
from remora.commands.saying import say
from remora.data.conversation import Sample, image_field, name_of, parse_turns, short
from remora.data.held_out import trained_on
from remora.data.index_state import size_of
from remora.data.locations import absolute, join
from remora.data.mixture import locate, open_entry
from remora.data.outputs import writes
from remora.data.pictures import Picture
from remora.data.pixels import decode
from remora.data.sources import Raw, find_source, picture_folder
from remora.errors import DataError, MissingDataset, SpecError, nearest, several
from remora.model.llm import load_tokenizer, pretrained_folder, train_tokenizer
from remora.model.seeds import seed_for
from remora.reading.batches import StageData
from remora.reading.prompt import Prompter
from remora.reading.shown import View
from remora.reading.view import Opener, free_reader, lengths, picture_view, rendered, view
from remora.reporting.bars import Hear
from remora.reporting.samples import Section, print_sections, section_as_json, write_page
from remora.runs import Store, path, read_variant, resolve_stages
from remora.spec import MixtureEntry, Stage, Variant
from remora.spec.paths import YAMLS
from remora.training.build import first_words

HISTOGRAM = 300
"""Samples of each dataset in the page's histogram of lengths: enough for a shape; none of them opens a picture."""
LENGTH = 2048
"""Maximum tokens of a dataset's samples outside a stage."""
EXCERPT = 400
"""Characters shown of an invalid record."""


def sections_of(options: DataShowOptions, console: Console, progress: Hear) -> list[Section]:
    """The requested samples: those of each stage of a variant, or of a dataset.

    Raises:
        DataError: no target, options that it does not have, or no such sample.
    """
    if options.samples < 1 or options.first < 0:
        raise DataError(f"-n {options.samples} --from {options.first}: no such samples; give -n 3 --from 0")
    of_variant = options.target.endswith(YAMLS)
    misplaced = ("template", "llm", "vision", "images") if of_variant else ("stage", "seed")
    if given := [f"--{name}" for name in misplaced if getattr(options, name) is not None]:
        why = "a variant's stages define it" if of_variant else "a dataset has no stages and only its own order"
        raise DataError(
            f"{', '.join(given)}: {why}; leave it out, or show {'a dataset' if of_variant else 'a variant'}"
        )
    return list(_stages(options, console, progress) if of_variant else _dataset(options))


def show(options: DataShowOptions, console: Console, sections: Sequence[Section]) -> None:
    """Print samples, or write them as a page."""
    if options.json:
        say(json.dumps([section_as_json(section) for section in sections], indent=1))
    if options.html:
        with writes(options.html, "--html"):
            write_page(options.html, options.target, sections)
        console.print(
            f"{options.html}: {several(sum(len(s.views) for s in sections), 'sample')}", highlight=False, soft_wrap=True
        )
    elif not options.json:
        print_sections(console, sections, ids=options.tokens)


# A variant: each stage's mixture in its order.


def _stages(options: DataShowOptions, console: Console, progress: Hear) -> Iterator[Section]:
    variant, store = read_variant(options.target, options.settings), Store(options.runs)
    if options.seed is not None:
        variant = variant.model_copy(update={"seed": options.seed})
    vision, llm = catalog.vision(variant.vision), catalog.llm(variant.llm)
    embeddings = check_composition(vision, catalog.connector(variant.connector), llm)
    stages = resolve_stages(variant)
    names = [stage.name for stage in stages]
    if options.stage is not None and options.stage not in names:
        raise SpecError(
            f"--stage {options.stage}: no such stage{nearest(options.stage, names)}; there are: {', '.join(names)}"
        )
    chosen = [stage for stage in stages if options.stage in (None, stage.name)]
    datasets = {  # with a progress bar: the first time, every record and picture is read
        entry: open_entry(entry, store.data, progress=partial(progress, _name(entry)))
        for stage in chosen
        for entry in stage.mixture
    }
    tokenizer = _tokenizer(variant, store, console)
    for stage in chosen:
        prompter = Prompter(catalog.template(stage.template), tokenizer, embeddings)
        encoder = variant.vision if "vision" in stage.tune.present else None
        seed = seed_for(variant.seed, f"order/{stage.name}")
        data = StageData(
            stage, trained_on(stage, [datasets[e] for e in stage.mixture]), prompter, encoder, seed, llm.context
        )
        entries = [_name(entry) for entry in stage.mixture]
        last = min(options.first + options.samples, data.total)
        if options.first >= last:
            raise DataError(f"--from {options.first}: stage {stage.name!r} reads {data.total:,} samples; give less")
        views = [view(data, position, entries) for position in range(options.first, last)]
        drawn = {n: lengths(data, i, HISTOGRAM) for i, n in enumerate(entries)} if options.html else {}
        yield Section(f"stage {stage.name}", _facts(stage, data, variant), views, drawn, data.max_length)


def _name(entry: MixtureEntry) -> str:
    return entry.dataset or str(entry.path)


def _facts(stage: Stage, data: StageData, variant: Variant) -> list[str]:
    """The settings that determine the stage's samples."""
    seen = (
        f"{variant.vision} {data.encoder.input_size} x {data.encoder.input_size}, {stage.aspect}"
        if data.encoder
        else ""
    )
    mixture = " + ".join(f"{_name(e)} ({len(s):,})" for e, s in zip(stage.mixture, data.samples, strict=True))
    facts = [mixture, f"template {stage.template}", f"{variant.llm}'s tokenizer", seen or "text only"]
    return [*facts, f"at most {data.max_length:,} tokens", f"{data.total:,} samples in {data.steps:,} steps"]


def _tokenizer(variant: Variant, store: Store, console: Console) -> PreTrainedTokenizerBase:
    """The variant's tokenizer; for a model from scratch, as its first stage has trained or would train it."""
    entry = catalog.llm(variant.llm)
    if entry.loader != "scratch":
        return load_tokenizer(pretrained_folder(variant.llm, entry, store.cache / "llm"))
    first = path(variant, store.data)[0]
    if folder := store.llm_folder(first):
        return load_tokenizer(folder)
    words = first_words(first.stage, first.datasets)
    console.print(
        f"{variant.llm} has no tokenizer before stage {first.stage.name!r} has run; trained here as that stage will, "
        f"on {len(words):,} conversations",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    return train_tokenizer(words, entry.vocabulary)


# A dataset: its records in their own order, read in place, without an index.


def _dataset(options: DataShowOptions) -> Iterator[Section]:
    name = hint = ""
    if options.target in catalog.entries("datasets"):
        location, images, hint = locate(MixtureEntry(dataset=options.target), Store(options.runs).data)
        name = options.target
    else:
        location = absolute(options.target)
        images = picture_folder(location)
    images = absolute(options.images) if options.images else images
    reader = _reader(options)
    try:
        source = find_source(location)
        for file in source.files:
            size_of(file)  # one line if it is not there
        records = (
            (number, raw) for shard in source.shards() for number, raw in enumerate(source.read(shard), shard.first)
        )
        chosen = list(islice(records, options.first, options.first + options.samples))
    except MissingDataset as e:
        raise MissingDataset(f"{e}{hint}") from None
    if not chosen:
        raise DataError(f"--from {options.first}: {location} has no such record; give less")
    views = [reader(raw, images, View(number, name or location, number, "")) for number, raw in chosen]
    facts = (
        [f"pictures in {images}"]
        if not options.template
        else [f"template {options.template}", f"{options.llm}'s tokenizer"]
    )
    yield Section(name or location, facts, views, {}, LENGTH if options.template else None)


ReadView = Callable[[Raw, str, View], View]


def _reader(options: DataShowOptions) -> ReadView:
    """A reader of records: only turns and pictures, or rendered with the given template and llm."""
    if (options.template is None) != (options.llm is None) or (options.vision and not options.template):
        raise DataError("--template NAME, --llm NAME: a prompt needs both, and --vision them; give both or none")
    if options.template is None or options.llm is None:
        return _plain
    entry = catalog.llm(options.llm)
    if entry.loader == "scratch":
        raise SpecError(
            f"llm {options.llm!r} has no tokenizer without a variant; show one that uses it, or choose another"
        )
    encoder = catalog.vision(options.vision or "clip-l-336")
    folder = pretrained_folder(options.llm, entry, Store(options.runs).cache / "llm")
    prompter = Prompter(catalog.template(options.template), load_tokenizer(folder), encoder.tokens)
    reader = free_reader(prompter, encoder, "square", min(LENGTH, entry.context))

    def read(raw: Raw, images: str, place: View) -> View:
        plain = _plain(raw, images, place)
        if plain.problems:
            return plain
        return rendered(reader, Sample(plain.id, plain.turns, ()), _pictures(raw, images), plain)

    return read


def _plain(raw: Raw, images: str, place: View) -> View:
    found = [f"{kind}: {why}" for kind, why in raw.flaws()]
    if found:
        found[-1] += f"; the record is {short(raw.record, EXCERPT)}"
        return View(place.position, place.dataset, place.record, "", problems=tuple(found))
    pictures = tuple(picture_view(name, opened, None, "square") for name, opened in _pictures(raw, images))
    return View(
        place.position,
        place.dataset,
        place.record,
        name_of(raw.record) or "",
        parse_turns(raw.record),
        pictures,
    )


def _pictures(raw: Raw, images: str) -> list[tuple[str, Opener]]:
    """Name and opener of each picture of a valid record."""
    if raw.pictures is None:
        held: list[Picture | bytes] = [Picture(join(images, name)) for name in image_field(raw.record)]
    else:
        held = list(raw.pictures)
    names = [str(p) if isinstance(p, Picture) else f"picture {i} in the record" for i, p in enumerate(held)]
    return [
        (name, p.open if isinstance(p, Picture) else partial(decode, p, name))
        for name, p in zip(names, held, strict=True)
    ]
