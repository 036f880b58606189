"""JSON and JSONL are cut into shards at records, wherever blocks and shards end, and broken files are named."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from remora.data.sources import llava
from remora.data.sources.llava import LlavaJson
from remora.errors import DataError

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True, scope="module")
def small():
    """Blocks and shards so small that every record crosses the end of one."""
    before = llava.BLOCK, llava.SHARD
    llava.BLOCK, llava.SHARD = 16, 60
    yield
    llava.BLOCK, llava.SHARD = before


def read(source) -> list:
    out = []
    for shard in source.shards():
        assert shard.first == len(out)
        out += [raw.record for raw in source.read(shard)]
    return out


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(st.lists(VALUE, max_size=8), st.booleans(), st.sampled_from([None, 1]))
def test_a_list_comes_back_record_by_record(tmp_path_factory, records, ascii_, indent):
    file = tmp_path_factory.getbasetemp() / "list.json"
    text = json.dumps(records, ensure_ascii=ascii_, indent=indent)
    file.write_bytes(text.encode(errors="surrogatepass"))
    try:
        assert read(LlavaJson(str(file))) == records
    except AssertionError:
        assert any(0xD800 <= ord(c) < 0xE000 for c in text)  # a raw half surrogate is not UTF-8


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(st.lists(VALUE, min_size=1, max_size=5), st.data())
def test_a_list_that_is_cut_or_hurt_is_read_or_refused_in_one_line(tmp_path_factory, records, data):
    file = tmp_path_factory.getbasetemp() / "hurt.json"
    whole = json.dumps(records, ensure_ascii=False).encode(errors="surrogatepass")
    at = data.draw(st.integers(0, len(whole) - 1))
    file.write_bytes(whole[:at] + data.draw(st.binary(max_size=3)))
    try:
        read(LlavaJson(str(file)))
    except DataError as e:
        assert str(file) in str(e) and "\n" not in str(e)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file is empty"),
        ("5", "begins with '\\['"),
        ('{"a":\n 1}', "a mapping over several lines"),
        (
            '{"images": [{"id": 1}], "info": {}}',
            "a mapping with the lists 'images'; it should be a JSON list of records",
        ),
        ('[{"a": 1} {"a": 2}]', "record 1, byte 10: no ','"),
        ('[{"a": 1}, ', "record 1"),
        ('[{"a": 1},]', "a comma and no record"),
        ("[1] 2", "something follows the list"),
        ("[1, nope]", "record 1, byte 4"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_list_is_named_with_the_place(tmp_path, text, why):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=why):
        read(LlavaJson(str(tmp_path / "x.json")))


def test_a_byte_order_mark_and_odd_bytes_in_words_do_not_matter(tmp_path):
    file = tmp_path / "x.json"
    file.write_bytes(b"\xef\xbb\xbf" + '["é", "\u2028"]'.encode())
    assert read(LlavaJson(str(file))) == ["é", "\u2028"]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(VALUE, max_size=8))
def test_lines_come_back_and_a_bad_one_is_a_string(tmp_path_factory, records):
    file = tmp_path_factory.getbasetemp() / "lines.jsonl"
    assume(not json.dumps(records).startswith("[[{"))  # a list of mappings is a file's own, whatever its name
    lines = [json.dumps(r) for r in records]
    file.write_text("\n\n".join([*lines, "{half", "[" * 100_000]))
    assert read(LlavaJson(str(file))) == [*records, "{half", "[" * 100_000]
