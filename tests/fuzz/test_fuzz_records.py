"""JSON records in every format, or none, are read or refused in one line, by check, index and reader alike."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from cases import cases
from verdicts import png, verdict

BATCH = 40
"""Records that one file holds."""
URI = "data:image/png;base64," + base64.b64encode(png(1)).decode()
DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]
NAMES = [
    "a.png",
    "b.png",
    "none.png",
    "cut.png",
    "loop",
    "folder",
    "",
    "é.png",
    "/",
    "..",
    "a.png/",
    "x" * 300,
    "y" * 5000,
]
WEIRD = [
    None,
    True,
    False,
    0,
    -1,
    2.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\0",
    "\n",
    "\ud83d",
    "\udcff",
    "é",
    "<image>",
    "<image><image>",
    "<video>",
    "w" * 3000,
    [],
    {},
    [[]],
    [None],
    DEEP,
    {"type": "image"},
    {"bytes": "x"},
    URI,
    URI[:90],
    "data:,",
    URI[22:],
    {"url": URI},
    {"path": "a.png"},
    *NAMES,
]
KEYS = [
    "conversations",
    "messages",
    "texts",
    "image",
    "images",
    "image_path",
    "system",
    "system_prompt",
    "video",
    "audios",
    "question",
    "answer",
    "query",
    "response",
    "instruction",
    "input",
    "output",
    "history",
    "prompt",
    "completion",
    "caption",
    "text",
    "id",
    "file_name",
    "path",
    "from",
    "value",
    "role",
    "content",
    "type",
    "index",
    "foo",
]
ROLES = ["human", "gpt", "user", "assistant", "system", "developer", "tool", "function_call", "GPT", ""]


def turns(rng: random.Random) -> list[Any]:
    speaker, words = rng.choice([("from", "value"), ("role", "content")])
    who = rng.choice([("human", "gpt"), ("user", "assistant")])
    said = [
        {speaker: who[i % 2], words: rng.choice(["a", "<image>\nWhat?", "red"])} for i in range(rng.choice([2, 2, 4]))
    ]
    if rng.random() < 0.2:
        said.insert(0, {speaker: "system", words: "Be brief."})
    if rng.random() < 0.3:
        said[0][words] = [{"type": "image"}, {"type": "text", "text": "What?"}]
    if rng.random() < 0.1:
        rng.choice(said)[speaker] = rng.choice(ROLES)
    return said


def record(rng: random.Random) -> Any:
    """A record of some form, mostly whole, then hurt a few times."""
    made: dict[str, Any] = {}
    words = rng.choice(["conversations", "messages", "texts", "pair", "caption", "prompt"])
    if words in ("conversations", "messages"):
        made[words] = turns(rng)
    elif words == "texts":
        made[words] = [{"user": "What?", "assistant": "red"}]
    elif words == "pair":
        question, answer = rng.choice([("question", "answer"), ("query", "response"), ("instruction", "output")])
        made |= {question: "What?", answer: "red"}
    elif words == "prompt":
        said = turns(rng)
        made |= {"prompt": said[:-1], "completion": said[-1:]}
    else:
        made[rng.choice(["caption", "text"])] = "red"
    if rng.random() < 0.8:
        key = rng.choice(["image", "images", "image_path"])
        name = rng.choice(NAMES[:6]) if rng.random() < 0.8 else rng.choice([*NAMES, URI])
        made[key] = [name] if rng.random() < 0.5 else name
    for key, value in (("id", rng.choice([1, "s", None])), ("system", "Be brief."), ("model", "m")):
        if rng.random() < 0.3:
            made[key] = value
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 5])):
        made = hurt(made, rng)
    return made if rng.random() < 0.98 else rng.choice(WEIRD)


def hurt(value: Any, rng: random.Random) -> Any:
    """A value with one place of it changed: a key renamed or taken out, a value replaced or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        inner = value[key]
        change = rng.randrange(6)
        rest = {k: v for k, v in value.items() if k != key}
        if change == 0:
            return rest
        if change == 1:
            return {**rest, rng.choice(KEYS): inner}
        if change == 2:
            return {**value, rng.choice(KEYS): rng.choice(WEIRD)}
        return {**value, key: hurt(inner, rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        change = rng.randrange(5)
        if change == 0:
            return value[:at] + value[at + 1 :]
        if change == 1:
            return [*value[:at], value[at], *value[at:]]
        if change == 2:
            return value[::-1]
        return [*value[:at], hurt(value[at], rng), *value[at + 1 :]]
    return rng.choice([value, [value], {"a": value}]) if rng.random() < 0.1 else rng.choice(WEIRD)


def written(value: Any, rng: random.Random) -> str:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7)
    if rng.random() < 0.03:
        text = text.replace('"id":', '"id": ' + "7" * 5000 + ', "id":')
    if rng.random() < 0.03:
        text = text.replace('"image":', '"image": "b.png", "image":')
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    for name in ("a.png", "b.png", "é.png"):
        (folder / name).write_bytes(png(len(name)))
    (folder / "cut.png").write_bytes(png(3)[:-20])
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
    return folder


def test_records(folder):
    for case in range(0, cases(3_000), BATCH):
        rng = random.Random(case)
        texts = [written(record(rng), rng) for _ in range(BATCH)]
        name = rng.choice(["a.json", "a.jsonl"])
        text = "[" + ",\n".join(texts) + "]" if rng.random() < 0.5 else "\n".join(texts)
        (folder / name).write_bytes(text.encode(errors="surrogatepass"))
        try:
            verdict(folder / name, folder)
        except BaseException:
            print(f"case {case}")
            raise


JUNK = [b"", b"\0", b"\xff", b"[", b"]", b"{", b",", b'"', b"\\", b"\n", b"[" * 3000]
ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"]


def test_files(folder):
    """Bytes of a file changed, cut, doubled; other encodings, and JSON's own traps."""
    for case in range(cases(3_000) // 10):
        rng = random.Random(case)
        texts = [json.dumps(record(rng), ensure_ascii=False) for _ in range(rng.randrange(4))]
        text = rng.choice(["[" + ",".join(texts) + "]", "\n".join(texts), '{"data": [' + ",".join(texts) + "]}"])
        content = text.encode(rng.choice(ENCODINGS), errors="replace")
        for _ in range(rng.choice([0, 0, 1, 3])):
            at = rng.randrange(len(content) + 1)
            junk = rng.choice(
                [b"", b"\0", b"\xff", b"[", b"]", b"{", b",", b'"', b"\\", b"\n", b"[" * 3000, rng.randbytes(3)]
            )
            content = content[:at] + junk + content[at + rng.choice([0, 1, 9, len(content)]) :]
        name = rng.choice(["a.json", "a.jsonl"])
        (folder / name).write_bytes(content)
        try:
            verdict(folder / name, folder)
        except BaseException:
            print(f"case {case}")
            raise
