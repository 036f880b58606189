"""What a prompt shares with others, and what makes two pictures one."""

from __future__ import annotations

from PIL import Image

from remora.inference import FittedPicture, Prompt
from remora.token_ids import IMAGE
from support.small_llms import PICTURES, prompts


def test_parts_of_a_prompt():
    (prompt,) = prompts([3], each=1, images=2, head=5)
    assert (prompt.head, prompt.body, len(prompt.ids)) == (5, 13, 16)
    (prompt,) = prompts([0], each=1, head=5)
    assert (prompt.head, prompt.body) == (5, 5)  # the picture's last token predicts the answer
    assert (Prompt((3, 4)).head, Prompt((3, 4)).body) == (0, 0)


def test_prompts_share_what_has_the_same_tokens_and_pictures():
    one, other = Prompt((3, IMAGE, 5), (PICTURES[0],)), Prompt((3, IMAGE, 6), (PICTURES[1],))
    assert one.prefix(1) == other.prefix(1) and one.prefix(2) != other.prefix(2)
    copied = Prompt((3, IMAGE, 7), (FittedPicture(PICTURES[0].image.copy()),))
    assert copied.prefix(2) == one.prefix(2)


def test_a_picture_is_its_pixels_and_their_shape():
    wide = FittedPicture(Image.new("RGB", (6, 4), "red"))
    assert wide.digest == FittedPicture(Image.new("RGB", (6, 4), "red")).digest
    others = [Image.new("RGB", (4, 6), "red"), Image.new("RGB", (6, 4), "blue"), Image.new("L", (6, 4))]
    assert len({wide.digest, *(FittedPicture(image).digest for image in others)}) == 4
