"""Scenes: photographs that were cut out, put on a background; and the questions about them.

A scene has one thing, two different ones side by side, or several copies of one. All its questions have one answer.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from remora.demo import question_makers
from remora.demo.concepts import Concept
from remora.demo.question_makers import QuestionAnswer, one

SIDE = 96
NUMBERS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Scene:
    """The things in a picture, from left to right; copies of one thing are that many equal entries."""

    name: str
    things: tuple[Concept, ...]

    @property
    def pair(self) -> bool:
        return len(set(self.things)) == 2

    @property
    def file(self) -> str:
        """Its picture, relative to the folder of pictures."""
        return f"{self.name}.png"

    def caption(self, phrases: Mapping[str, str]) -> str:
        """duck, an animal | three: duck, an animal | a duck on the left, an apple on the right"""
        first = self.things[0]
        if self.pair:
            return f"{one(first.name)} on the left, {one(self.things[1].name)} on the right"
        number = f"{NUMBERS[len(self.things) - 1]}: " if len(self.things) > 1 else ""
        return f"{number}{first.name}, {phrases[first.kind]}"


def composed(scene: Scene, cutouts: Mapping[Concept, Image.Image], seed: int) -> Image.Image:
    """The scene's picture: RGB, SIDE x SIDE. Each thing is turned, scaled, moved and perhaps mirrored in its cell."""
    rng = random.Random(f"{seed}/scene/{scene.name}")
    picture = _ground(rng)
    half = SIDE // 2
    if len(scene.things) == 1:
        cells = [(0, 0, SIDE, SIDE)]
    elif scene.pair:
        cells = [(0, 0, half, SIDE), (half, 0, half, SIDE)]
    else:
        quarters = [(x, y, half, half) for x in (0, half) for y in (0, half)]
        cells = rng.sample(quarters, len(scene.things))
    for thing, (left, top, width, height) in zip(scene.things, cells, strict=True):
        cutout = cutouts[thing]
        if rng.random() < 0.5:
            cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        cutout = cutout.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, expand=True)
        scale = rng.uniform(0.8, 1.0) * min(width / cutout.width, height / cutout.height)
        size = (max(1, int(cutout.width * scale)), max(1, int(cutout.height * scale)))
        cutout = cutout.resize(size, Image.Resampling.LANCZOS)
        corner = (left + rng.randint(0, width - size[0]), top + rng.randint(0, height - size[1]))
        picture.paste(cutout, corner, cutout)
    return picture


def _ground(rng: random.Random) -> Image.Image:
    """A background: one colour, a run from one colour to another, or blotches of many with grain on them."""
    style = rng.choice(("plain", "run", "blotches"))
    if style == "plain":
        return Image.new("RGB", (SIDE, SIDE), tuple(rng.randint(0, 255) for _ in range(3)))
    across, down = (1, 2) if style == "run" else (6, 6)
    coarse = Image.frombytes("RGB", (across, down), rng.randbytes(3 * across * down))
    ground = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    if style == "run":
        return ground
    grain = Image.frombytes("RGB", (SIDE, SIDE), rng.randbytes(3 * SIDE * SIDE))
    return Image.blend(ground, grain, 0.15)


def scenes(concepts: Sequence[Concept], of: str, amounts: Mapping[str, int], seed: int) -> list[Scene]:
    """`amounts` scenes a concept: "one" of it, a "pair" of it and another, "some" copies of it.

    Args:
        concepts: The things.
        of: The first word of the scenes' names; scenes of other names look different.
        amounts: Layout -> scenes of it for each concept.
        seed: Decides partners, sides and numbers.
    """
    made = []
    for concept in concepts:
        rng = random.Random(f"{seed}/{of}/{concept.code}")
        strangers = [other for other in concepts if other.name != concept.name]
        for layout, amount in amounts.items():
            for number in range(amount):
                if layout == "pair":
                    things = [concept, rng.choice(strangers)]
                    rng.shuffle(things)
                else:
                    things = [concept] * (rng.randint(2, len(NUMBERS)) if layout == "some" else 1)
                made.append(Scene(f"{of}/{concept.code}-{layout}-{number}", tuple(things)))
    return made


class Examiner:
    """Asks about scenes of these concepts. Where names are not to be said (`by_name` False), it asks for kinds.

    Args:
        concepts: What may be in the scenes.
        phrases: Kind -> the kind with its article.
        by_name: Whether questions and answers have names.
    """

    def __init__(self, concepts: Sequence[Concept], phrases: Mapping[str, str], *, by_name: bool) -> None:
        self.by_name, self.phrases = by_name, phrases
        self.names = sorted({concept.name for concept in concepts})
        self.sizes = Counter(concept.kind for concept in concepts)

    def questions(self, scene: Scene, rng: random.Random) -> list[QuestionAnswer]:
        """Every question about the scene, in a fixed order."""
        first = scene.things[0]
        if scene.pair:
            found = [self._side(scene, rng, by_kind=True), self._count(scene), self._presence(scene, rng)]
            return [*found, self._side(scene, rng, by_kind=False)] if self.by_name else found
        found = [question_makers.kind(first), self._count(scene), self._presence(scene, rng)]
        if len(scene.things) == 1:
            found.append(question_makers.kind_of_four(first, self.sizes, rng))
        if self.by_name:
            found += [question_makers.name(first), question_makers.name_of_four(first, self.names, rng)]
        return found

    def _count(self, scene: Scene) -> QuestionAnswer:
        """How many things are there? -> two"""
        return QuestionAnswer("How many things are there?", NUMBERS[len(scene.things) - 1], "count")

    def _side(self, scene: Scene, rng: random.Random, *, by_kind: bool) -> QuestionAnswer:
        """What is on the left? -> duck; What kind of thing is on the left? -> animal"""
        place = rng.randrange(2)
        thing, side = scene.things[place], ("left", "right")[place]
        if by_kind:
            return QuestionAnswer(f"What kind of thing is on the {side}?", thing.kind, "kind on a side")
        return QuestionAnswer(f"What is on the {side}?", thing.name, "name on a side")

    def _presence(self, scene: Scene, rng: random.Random) -> QuestionAnswer:
        """Is there a duck? -> yes; every second one asks for what is not there.

        What is not there is drawn as what is there would be, so that no word gives the answer away.
        """
        there = {thing.name if self.by_name else thing.kind for thing in scene.things}
        asked = rng.choice(sorted(there))
        answer = rng.choice(("yes", "no"))
        if answer == "no":
            things = {name: 1 for name in self.names} if self.by_name else self.sizes
            others = {thing: size for thing, size in things.items() if thing not in there}
            asked = rng.choices(list(others), list(others.values()))[0]
        named = one(asked) if self.by_name else self.phrases[asked]
        return QuestionAnswer(f"Is there {named}?", answer, "yes/no")
