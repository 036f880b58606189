"""The demo's training files in LLaVA's JSON: for alignment, for the language model, and for fine-tuning.

They contain only seen concepts and training pictures; `build` checks that afterwards.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from remora.data.conversation import LlavaRecord, LlavaTurn
from remora.demo import question_makers
from remora.demo.concepts import Concept
from remora.demo.openmoji import RENDITIONS
from remora.demo.question_makers import WHAT
from remora.demo.shapes import ShapePicture, category

CONVERSATIONS_A_PICTURE = 2
TURNS = 2
"""Only the first turn must be answered by looking at the picture: later ones can use what was said. So conversations
are short, and their first questions are drawn with these weights."""
FIRST_ABOUT_SHAPES = {"yes/no": 0.2, "color": 0.6, "shape": 0.2}
FIRST_ABOUT_CONCEPTS = {"kind": 0.5, "kind of four": 0.2, "name": 0.1, "name of four": 0.2}

TEXTS_A_CONCEPT = 5

Round = tuple[str, str]


def captions(
    seen: Sequence[Concept], training: Sequence[ShapePicture], phrases: Mapping[str, str]
) -> list[LlavaRecord]:
    """One "What is this?" per picture, without easy-VQA pictures whose answers do not give both colour and shape."""
    records = [
        record(
            f"caption-{code}",
            [(WHAT, f"{concept.name}, {phrases[concept.kind]}")],
            f"openmoji/{code}.png",
        )
        for concept in seen
        for code in _codes(concept)
    ]
    for picture in training:
        if caption := picture.caption:
            file = f"easy-vqa/train/{picture.number}.png"
            records.append(record(f"caption-shape-{picture.number}", [(WHAT, caption)], file))
    return records


def finetune(seen: Sequence[Concept], training: Sequence[ShapePicture], seed: int) -> list[LlavaRecord]:
    """One conversation per picture, of several turns in shuffled order."""
    names, sizes = [c.name for c in seen], Counter(c.kind for c in seen)
    records = []
    for concept in seen:
        for code in _codes(concept):
            rng = random.Random(f"{seed}/finetune/{code}")
            turns = _about(concept, names, sizes, rng)
            records.append(record(f"finetune-{code}", turns, f"openmoji/{code}.png"))
    for picture in training:
        rng = random.Random(f"{seed}/finetune/shape/{picture.number}")
        for number in range(CONVERSATIONS_A_PICTURE):
            name = f"finetune-shape-{picture.number}-{number}"
            records.append(record(name, _chosen(picture, rng), f"easy-vqa/train/{picture.number}.png"))
    return records


def language(
    seen: Sequence[Concept], training: Sequence[ShapePicture], phrases: Mapping[str, str], seed: int
) -> list[LlavaRecord]:
    """Text only: the later captions, questions and answers, with the caption in place of the picture.

    A tiny language model trained from scratch learns the words from it, and to answer from the context. A connector
    that is aligned to the model then only has to express the picture in the model's embeddings.
    """
    names, sizes = [c.name for c in seen], Counter(c.kind for c in seen)
    records = []
    for concept in seen:
        rng = random.Random(f"{seed}/language/{concept.code}")
        caption = f"{concept.name}, {phrases[concept.kind]}"
        records.append(record(f"language-{concept.code}-caption", without_picture(caption, [(WHAT, caption)])))
        for number in range(TEXTS_A_CONCEPT):
            told = without_picture(caption, _about(concept, names, sizes, rng))
            records.append(record(f"language-{concept.code}-{number}", told))
    for picture in training:
        if shape := picture.caption:
            rng = random.Random(f"{seed}/language/shape/{picture.number}")
            records.append(record(f"language-shape-{picture.number}", without_picture(shape, _chosen(picture, rng))))
            if rng.random() < 0.2:
                name = f"language-shape-{picture.number}-caption"
                records.append(record(name, without_picture(shape, [(WHAT, shape)])))
    return records


def texts(records: Iterable[LlavaRecord]) -> Iterable[str]:
    """All text in the records."""
    return (turn["value"] for record in records for turn in record["conversations"])


def _about(concept: Concept, names: Sequence[str], sizes: Mapping[str, int], rng: random.Random) -> list[Round]:
    questions = {
        "kind": question_makers.kind(concept),
        "kind of four": question_makers.kind_of_four(concept, sizes, rng),
        "name": question_makers.name(concept),
        "name of four": question_makers.name_of_four(concept, names, rng),
    }
    first = rng.choices(list(FIRST_ABOUT_CONCEPTS), list(FIRST_ABOUT_CONCEPTS.values()))[0]
    rest = [kind for kind in questions if kind != first]
    rng.shuffle(rest)
    return [questions[kind].turn for kind in [first, *rest][:TURNS]]


def _chosen(picture: ShapePicture, rng: random.Random) -> list[Round]:
    """Three of the picture's questions: the first's topic is drawn by weight, the others evenly."""
    about: dict[str, list[Round]] = {}
    for turn in picture.turns:
        about.setdefault(category(turn[1]), []).append(turn)
    kinds = [kind for kind in FIRST_ABOUT_SHAPES if kind in about]
    first = rng.choice(about[rng.choices(kinds, [FIRST_ABOUT_SHAPES[kind] for kind in kinds])[0]])
    rest = [turn for turn in picture.turns if turn != first]
    return [first, *rng.sample(rest, min(TURNS - 1, len(rest)))]


def without_picture(caption: str, turns: list[Round]) -> list[Round]:
    """The conversation with the caption first, in place of the picture."""
    (question, answer), *rest = turns
    return [(f"{caption}\n{question}", answer), *rest]


def record(name: str, turns: list[Round], image: str | None = None) -> LlavaRecord:
    said: list[LlavaTurn] = []
    for question, answer in turns:
        said += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    if image is None:
        return {"id": name, "conversations": said}
    said[0]["value"] = f"<image>\n{said[0]['value']}"
    return {"id": name, "image": image, "conversations": said}


def _codes(concept: Concept) -> list[str]:
    return [f"{concept.code}-{number}" for number in range(RENDITIONS)]
