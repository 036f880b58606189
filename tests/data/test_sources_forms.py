"""Record formats: each becomes LLaVA's, with its pictures and its system message, or is reported."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hurt import png

from remora.cli import main
from remora.data.check import NOTED, check_dataset
from remora.data.conversation import Turn, image_field, parse_turns
from remora.data.index_builder import open_dataset
from remora.data.mixture import open_entry
from remora.data.skipped import Skipped
from remora.data.sources import find_source
from remora.data.sources.forms import as_llava
from remora.errors import DataError
from remora.spec import MixtureEntry

URI = "data:image/png;base64," + base64.b64encode(png(1)).decode()
SAID = (Turn("user", "What?", 1), Turn("assistant", "red"))
SYSTEM = (Turn("system", "Be brief."), *SAID)
ASKED = {"role": "user", "content": "<image>What?"}
REPLY = {"role": "assistant", "content": "red"}
HUMAN, GPT = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}


def parts(*content) -> dict:
    return {"role": "user", "content": list(content)}


WHAT = {"type": "text", "text": "What?"}
READ = {
    "LLaVA": ({"image": "a.png", "conversations": [HUMAN, GPT]}, SAID),
    "conversations and images": ({"images": ["a.png"], "conversations": [HUMAN, GPT]}, SAID),
    "ShareGPT's tags as roles": ({"images": ["a.png"], "conversations": [ASKED, REPLY]}, SAID),
    "image_path": ({"image_path": "a.png", "conversations": [HUMAN, GPT]}, SAID),
    "image_url": ({"image_url": "a.png", "caption": "red"}, (Turn("user", "", 1), Turn("assistant", "red"))),
    "image and images that agree": ({"image": "a.png", "images": ["a.png"], "conversations": [HUMAN, GPT]}, SAID),
    "ms-swift's and LLaMA-Factory's messages": ({"messages": [ASKED, REPLY], "images": ["a.png"]}, SAID),
    "without a tag": ({"messages": [{"role": "user", "content": "What?"}, REPLY], "images": ["a.png"]}, SAID),
    "ms-swift's structs": ({"messages": [ASKED, REPLY], "images": [{"bytes": None, "path": "a.png"}]}, SAID),
    "TRL's parts": ({"messages": [parts({"type": "image"}, WHAT), REPLY], "images": ["a.png"]}, SAID),
    "words first": ({"messages": [parts(WHAT, {"type": "image"}), REPLY], "image": "a.png"}, SAID),
    "a part with its picture": ({"messages": [parts({"type": "image", "image": "a.png"}, WHAT), REPLY]}, SAID),
    "OpenAI's parts": (
        {"messages": [parts(WHAT, {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}), REPLY]},
        SAID,
    ),
    "OpenAI's parts of responses": (
        {
            "messages": [
                parts({"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": "a.png"}),
                {"role": "assistant", "content": [{"type": "output_text", "text": "red"}]},
            ]
        },
        SAID,
    ),
    "two names of one speaker": (
        {"image": "a.png", "conversations": [{**HUMAN, "role": "user", "content": ""}, {**GPT, "content": "red"}]},
        SAID,
    ),
    "image_url as a text": ({"messages": [parts({"type": "image_url", "image_url": "a.png"}, WHAT), REPLY]}, SAID),
    "answers in parts": (
        {
            "messages": [
                parts({"type": "image"}, WHAT),
                {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
            ],
            "images": ["a.png"],
        },
        SAID,
    ),
    "TRL's prompt and completion": ({"prompt": [ASKED], "completion": [REPLY], "images": ["a.png"]}, SAID),
    "ms-swift's old form": ({"query": "<image>What?", "response": "red", "images": ["a.png"]}, SAID),
    "LLaMA-Factory's alpaca": ({"instruction": "What?", "input": "", "output": "red", "images": ["a.png"]}, SAID),
    "question and answer": ({"question": "What?", "answer": "red", "image": "a.png"}, SAID),
    "a caption": ({"image": "a.png", "caption": "red"}, (Turn("user", "", 1), Turn("assistant", "red"))),
    "a system key": ({"system": "Be brief.", "image": "a.png", "conversations": [HUMAN, GPT]}, SYSTEM),
    "system_prompt": ({"system_prompt": "Be brief.", "image": "a.png", "conversations": [HUMAN, GPT]}, SYSTEM),
    "a system turn": (
        {"image": "a.png", "conversations": [{"from": "system", "value": " Be brief.\n"}, HUMAN, GPT]},
        SYSTEM,
    ),
    "a system message": (
        {"messages": [{"role": "system", "content": "Be brief."}, ASKED, REPLY], "images": ["a.png"]},
        SYSTEM,
    ),
    "a developer message in parts": (
        {
            "messages": [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, ASKED, REPLY],
            "images": ["a.png"],
        },
        SYSTEM,
    ),
    "the same system message twice": (
        {
            "system": "Be brief.",
            "messages": [{"role": "system", "content": "Be brief."}, ASKED, REPLY],
            "image": "a.png",
        },
        SYSTEM,
    ),
    "an empty system message": (
        {"system": "", "image": "a.png", "conversations": [{"from": "system", "value": ""}, HUMAN, GPT]},
        SAID,
    ),
    "a system message of a question": (
        {"system": "Be brief.", "query": "What?", "response": "red", "image": "a.png"},
        SYSTEM,
    ),
    "history": (
        {"query": "Sure?", "response": "yes", "history": [["<image>What?", "red"]], "images": ["a.png"]},
        (*SAID, Turn("user", "Sure?"), Turn("assistant", "yes")),
    ),
    "an input": (
        {"instruction": "Look.", "input": "What?", "output": "red", "images": ["a.png"]},
        (Turn("user", "Look.\nWhat?", 1), Turn("assistant", "red")),
    ),
    "empty media keys": ({"image": "a.png", "videos": [], "audio": None, "conversations": [HUMAN, GPT]}, SAID),
    "media keys that name none": (
        {"image": "a.png", "videos": [None], "audio": False, "video": {}, "conversations": [HUMAN, GPT]},
        SAID,
    ),
}


@pytest.mark.parametrize(("record", "turns"), READ.values(), ids=READ)
def test_a_form_is_read(record, turns):
    raw = as_llava(record)
    assert raw.flaws() == [] and raw.unread == ()
    assert parse_turns(raw.record) == turns and image_field(raw.record) == ["a.png"]


TWO = [{"type": "image", "index": 1}, {"type": "image", "index": 0}, WHAT]
NAMED = {
    "video": ({"video": "v.mp4", "conversations": [HUMAN, GPT]}, "unread-media", "'video' is 'v.mp4'"),
    "videos": ({"videos": ["v.mp4"], "messages": [ASKED, REPLY]}, "unread-media", "'videos'"),
    "audio_path": ({"audio_path": "v.wav", "messages": [ASKED, REPLY]}, "unread-media", "'audio_path'"),
    "a video part": ({"messages": [parts({"type": "video", "video": "v"}, WHAT), REPLY]}, "unknown-part", "'video'"),
    "a sound part": (
        {"messages": [parts({"type": "input_audio"}, WHAT), REPLY]},
        "unknown-part",
        "messages[0]: part 0",
    ),
    "a part that is a number": ({"messages": [parts(5), REPLY]}, "unknown-part", "part 0 is 5"),
    "a text part without a text": ({"messages": [parts({"type": "text"}), REPLY]}, "no-text", "part 0"),
    "a picture of the assistant's": (
        {"messages": [ASKED, {"role": "assistant", "content": [{"type": "image"}]}], "images": ["a.png"]},
        "unknown-part",
        "only user turns may have pictures",
    ),
    "a picture in a part's source": (
        {"messages": [parts({"type": "image", "source": {"data": "x"}}, WHAT), REPLY], "images": ["a.png"]},
        "image-field",
        "messages[0]: part 0 has its picture in 'source', which is not supported",
    ),
    "two speakers of a turn": (
        {"image": "a.png", "conversations": [{**HUMAN, "role": "assistant"}, GPT]},
        "turn-order",
        "from is 'human' and role 'assistant'",
    ),
    "two texts of a turn": (
        {"image": "a.png", "conversations": [HUMAN, {**GPT, "content": "blue"}]},
        "no-text",
        "conversations[1]: value is 'red' and content 'blue'",
    ),
    "bytes that are numbers": (
        {"images": [{"bytes": [137, 80], "path": "a.png"}], "messages": [ASKED, REPLY]},
        "image-field",
        "in JSON it is base64",
    ),
    "turns as a text": (
        {"image": "a.png", "conversations": json.dumps([HUMAN, GPT])},
        "no-conversation",
        "a list of turns, not the JSON text of one",
    ),
    "a preference": (
        {"prompt": [ASKED], "chosen": [REPLY], "rejected": [REPLY]},
        "no-conversation",
        "make messages: its prompt and the chosen answer",
    ),
    "more parts than pictures": (
        {"messages": [parts({"type": "image"}, {"type": "image"}, WHAT), REPLY], "images": ["a.png"]},
        "tag-without-image",
        "the record names 1",
    ),
    "more pictures than parts": (
        {"messages": [parts({"type": "image"}, WHAT), REPLY], "images": ["a.png", "b.png"]},
        "image-without-tag",
        "1 of the 2",
    ),
    "more pictures than tags": (
        {"messages": [ASKED, REPLY], "images": ["a", "b"]},
        "image-without-tag",
        "1 <image> tags",
    ),
    "two picture keys": (
        {"image": "a.png", "images": ["b.png"], "conversations": [HUMAN, GPT]},
        "image-field",
        "image and images name different pictures",
    ),
    "two system messages": (
        {"system": "a", "messages": [{"role": "system", "content": "b"}, ASKED, REPLY], "image": "a.png"},
        "turn-order",
        "different system messages",
    ),
    "a late system message": (
        {"messages": [ASKED, REPLY, {"role": "system", "content": "b"}], "image": "a.png"},
        "turn-order",
        "turn 2 is from 'system', not human",
    ),
    "a system message that is a list": ({"system": ["a"], "messages": [ASKED, REPLY]}, "no-text", "'system' is ['a']"),
    "a tool's turn": (
        {"messages": [ASKED, {"role": "tool", "content": "x"}], "image": "a.png"},
        "unknown-role",
        "turn 1 is from 'tool', not gpt",
    ),
    "two humans": (
        {"image": "a", "conversations": [HUMAN, HUMAN, GPT]},
        "turn-order",
        "turn 1 is from 'human', not gpt",
    ),
    "an empty name": ({"image": [""], "conversations": [HUMAN, GPT]}, "image-field", "an empty name"),
    "a long name": (
        {"image": "x" * 300 + ".png", "conversations": [HUMAN, GPT]},
        "image-field",
        "longer than a file name",
    ),
    "no name": ({"image": {"foo": 1}, "conversations": [HUMAN, GPT]}, "image-field", "{'foo': 1}"),
    "names and bytes": ({"images": ["a.png", URI], "conversations": [HUMAN, GPT]}, "image-field", "some are bytes"),
    "a URI of no base64": (
        {"image": "data:image/png;base64,%%%", "conversations": [HUMAN, GPT]},
        "image-field",
        "base64",
    ),
    "a URI of odd bytes": (
        {"image": URI[:60] + "\udcbc" + URI[60:], "conversations": [HUMAN, GPT]},
        "image-field",
        "base64",
    ),
    "a URI of text": (
        {"image": "data:image/svg+xml,<svg>", "conversations": [HUMAN, GPT]},
        "image-field",
        "without base64",
    ),
    "nothing known": ({"foo": 1, "text": "words"}, "no-conversation", "its keys ('foo', 'text') make no record"),
    "a history of texts": ({"query": "a", "response": "b", "history": ["a"]}, "no-conversation", "'history'"),
}


@pytest.mark.parametrize(("record", "kind", "why"), NAMED.values(), ids=NAMED)
def test_what_is_not_read_is_named_once(record, kind, why):
    (found,) = as_llava(record).flaws()
    assert found[0] == kind and why in found[1] and "\n" not in found[1] and len(found[1]) < 500


@pytest.mark.parametrize(
    "value",
    [
        URI,
        URI.replace("=", ""),
        "data:image/png;charset=x;base64,\n" + URI[22:90] + "\n" + URI[90:],
        URI.replace("+", "-").replace("/", "_").replace("image_png", "image/png"),
        URI[22:],
        {"bytes": png(1), "path": None},
        {"url": URI},
    ],
)
def test_a_picture_in_a_record_is_its_bytes(value):
    raw = as_llava({"messages": [parts({"type": "image_url", "image_url": value}, WHAT), REPLY]})
    assert raw.flaws() == [] and raw.pictures == (png(1),)
    raw = as_llava({"image": value, "conversations": [HUMAN, GPT]})
    assert raw.flaws() == [] and raw.pictures == (png(1),)


def test_parts_show_what_their_index_says():
    raw = as_llava({"messages": [parts(*TWO), REPLY], "images": ["a.png", "b.png"]})
    assert raw.flaws() == [] and raw.record["image"] == ["b.png", "a.png"]


def test_keys_that_nothing_reads_are_told_and_kept():
    record = {
        "messages": [ASKED | {"weight": 0}, REPLY | {"loss": False}],
        "images": ["a.png"],
        "tools": "[]",
        "url": "u",
    }
    raw = as_llava(record | {"objects": {}, "empty": None})
    assert raw.unread == ("tools", "url", "messages.weight", "messages.loss")
    assert raw.record["tools"] == "[]" and raw.record["conversations"][1] == {
        "from": "gpt",
        "value": "red",
        "loss": False,
    }


def test_where_a_picture_came_from_is_no_second_picture():
    beside = {"image_url": "http://x/a.png", "image_path": "old/a.png", "path": "b"}
    raw = as_llava({"conversations": [HUMAN, GPT], "image": "a.png", **beside})
    assert raw.flaws() == [] and raw.record["image"] == ["a.png"]
    assert raw.unread == ("path", "image_path", "image_url") and raw.record["image_url"] == "http://x/a.png"
    raw = as_llava({"question": "What?", "answer": "red", **beside})
    assert raw.flaws()[0][1].startswith("image_path and image_url name different pictures")


def test_a_letter_image_tag_in_a_text_part_is_refused_and_in_an_answer_is_letters():
    tagged = {"type": "text", "text": "Is <image> a tag?"}
    (found,) = as_llava({"messages": [parts({"type": "image", "image": "a.png"}, tagged), REPLY]}).flaws()
    assert found[0] == "tag-without-image"
    raw = as_llava({"messages": [ASKED, {"role": "assistant", "content": "It is <image>."}], "images": ["a.png"]})
    assert raw.flaws() == [] and parse_turns(raw.record)[1].text == "It is <image>."


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A JSON dataset with a record of every format that names a picture, and the pictures."""
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "train.json").write_text(json.dumps([record for record, _ in READ.values()]))
    return tmp_path / "train.json"


def read(location: Path, images: Path) -> list:
    dataset = open_dataset(find_source(str(location)), str(location), str(images), images / "index", spread=map)
    return [(s.turns, [p.sha256 for p in s.images]) for s in dataset]


@pytest.mark.parametrize("name", ["out.json", "out.jsonl", "out.parquet", "out.tar"])
def test_every_form_is_indexed_and_converted_alike(mixed, name, capsys):
    report = check_dataset(str(mixed), str(mixed.parent))
    assert report.fatal == 0 and report.records == len(READ)
    before = read(mixed, mixed.parent)
    assert [turns for turns, _ in before] == [turns for _, turns in READ.values()]
    main(["data", "convert", str(mixed), str(mixed.parent / name)])
    assert read(mixed.parent / name, mixed.parent) == before


def test_a_record_with_its_picture_inside_is_converted_to_files(tmp_path):
    lines = [{"messages": [parts({"type": "image_url", "image_url": {"url": URI}}, WHAT), REPLY]}] * 2
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, lines)))
    main(["data", "convert", str(tmp_path / "chat.jsonl"), str(tmp_path / "out.json")])
    (first, second) = json.loads((tmp_path / "out.json").read_text())
    assert first == second and (tmp_path / first["image"]).read_bytes() == png(1)
    with pytest.raises(SystemExit, match="a row holds one question") as caught:
        (tmp_path / "s.json").write_text(json.dumps([READ["a system key"][0]]))
        (tmp_path / "a.png").write_bytes(png(1))
        main(["data", "convert", str(tmp_path / "s.json"), str(tmp_path / "out.csv")])
    assert "3 turns" in str(caught.value)


def test_columns_of_tables_are_read_by_the_same_rules(tmp_path):
    held = {"bytes": png(1), "path": None}
    shape = [{"type": "text", "text": "What?", "index": None}, {"type": "image", "text": None, "index": 0}]
    answer = [{"type": "text", "text": "red", "index": None}]
    chat = [{"role": "user", "content": shape}, {"role": "assistant", "content": answer}]
    for i, (row, kind) in enumerate(
        [
            ({"messages": chat, "images": [held]}, None),
            (
                {"conversations": [HUMAN, GPT], "image": held, "images": [{"bytes": png(2), "path": None}]},
                "image-field",
            ),
            ({"conversations": [HUMAN, GPT], "image": held, "video": b"x"}, "unread-media"),
            ({"query": "What?", "response": "red", "images": [held], "system": "Be brief.", "source": "web"}, None),
        ]
    ):
        file = tmp_path / f"{i}.parquet"
        pq.write_table(pa.Table.from_pylist([row]), file)
        report = check_dataset(str(file), str(tmp_path))
        assert set(report.counts) - NOTED == ({kind} if kind else set()) and report.refused == bool(kind)
        assert report.unread == ({"source": 1} if "source" in row else {})
        if kind is None:
            ((turns, _),) = read(file, tmp_path)
            assert turns == (SYSTEM if "system" in row else SAID)


def test_check_lists_what_nothing_reads_and_counts_text_only_records(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(png(1))
    words = {"conversations": [{"from": "human", "value": "How do I use <video>?"}, GPT], "model": "m"}
    records = [READ["LLaVA"][0] | {"height": 5}, words, words, {"video": "v.mp4", **words}]
    (tmp_path / "train.json").write_text(json.dumps(records))
    with pytest.raises(SystemExit, match="1 problem in 1 of 4 records would stop"):
        main(["data", "check", str(tmp_path / "train.json"), "--json"])
    told = capsys.readouterr()
    said = told.err
    assert "4 records (2 text only), 1 picture" in said and "nothing reads: 'model' 2, 'height' 1" in said
    assert "media-tag: 2 (noted)" in said and "unread-media: 1" in said
    (out,) = json.loads(told.out)
    assert out["unread"] == {"height": 1, "model": 2} and (out["refused"], out["text_only"]) == (1, 2)


BASE64 = URI.partition(",")[2]


@pytest.mark.parametrize("held", [BASE64, URI, png(1)])
def test_bytes_win_over_the_path_beside_them_in_structs_and_parts(held):
    """JSON has no bytes, so `datasets` and ms-swift write base64."""
    struct = {"bytes": held, "path": "gone.png"}
    for record in (
        {"messages": [ASKED, REPLY], "images": [struct]},
        {"conversations": [HUMAN, GPT], "image": struct},
        {"messages": [parts({"type": "image", **struct}, WHAT), REPLY]},
    ):
        raw = as_llava(record)
        assert raw.flaws() == [] and raw.pictures == (png(1),) and parse_turns(raw.record) == SAID


def test_keys_of_parts_that_nothing_reads_are_told():
    picture = {"type": "image_url", "image_url": {"url": "a.png"}, "min_pixels": 4, "text": None}
    raw = as_llava({"messages": [parts(picture, {**WHAT, "cache_control": "x", "index": None}), REPLY]})
    assert raw.flaws() == [] and raw.unread == ("messages.content.min_pixels", "messages.content.cache_control")


@pytest.mark.parametrize(
    ("said", "answer", "mark"),
    [
        ("<IMAGE>\nWhat?", "red", "<IMAGE>"),
        ("<image 1> What?", "red", "<image 1>"),
        ("<|image_1|> What?", "red", "<|image_1|>"),
        ("<|image_pad|>What?", "red", "<|image_pad|>"),
        ("[IMG]What?", "red", "[IMG]"),
        ("<im_start><im_patch>What?", "red", "<im_start>"),
        ("Where is <ref-object>?", "<bbox>", "<ref-object>"),
        ("Where is it?", "At <bbox>", "<bbox>"),
        ("What?", "<image> red", "<image>"),
        ("What about <|im_start|> and <b> and a[i]?", "red", None),
        ("<image>What?", "red", None),
    ],
)
def test_marks_that_are_letters_here_are_counted(tmp_path, said, answer, mark):
    (tmp_path / "a.png").write_bytes(png(1))
    record = {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]}
    (tmp_path / "a.json").write_text(json.dumps([{**record, "image": "a.png"}]))
    report = check_dataset(str(tmp_path / "a.json"), str(tmp_path))
    assert report.refused == 0 and report.counts == ({"media-tag": 1} if mark else {})
    assert mark is None or f"holds {mark}, which is read as text" in report.examples["media-tag"][0]


def test_a_refused_dataset_says_how_to_check_it_with_its_pictures(tmp_path):
    (tmp_path / "my set").mkdir()
    file = tmp_path / "my set" / "train.json"
    file.write_text(json.dumps([{"conversations": [HUMAN, GPT]}]))
    with pytest.raises(DataError, match=f"remora data check '{file}'\\)"):
        open_entry(MixtureEntry(path=str(file)), tmp_path)
    with pytest.raises(DataError, match=f"remora data check '{file}' --images {tmp_path}\\)"):
        open_entry(MixtureEntry(path=str(file), images=str(tmp_path)), tmp_path)
    words = tmp_path / "my set" / "words.json"
    words.write_text(json.dumps([{"conversations": [{"from": "human", "value": "a"}, GPT]}]))
    entry = MixtureEntry(path=str(words), images=str(tmp_path))
    with pytest.raises(DataError, match=f"fix the dataset \\(remora data check '{words}' --images {tmp_path}\\)"):
        Skipped([entry], [open_entry(entry, tmp_path)]).add(0, "s", "corrupt-image")
    with pytest.raises(SystemExit, match=f"remora data check '{file}' --images {tmp_path}"):
        main(["data", "convert", str(file), str(tmp_path / "o.json"), "--images", str(tmp_path)])
