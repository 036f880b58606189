"""The judge's client against a real server: what it sends, tolerates and stores, and how it gives up."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from remora.errors import DataError
from remora.evaluation import judge as judge_module
from remora.evaluation.judge import (
    LONGEST_WAIT,
    OPENAI,
    PARALLEL,
    WAITS,
    JudgeEndpoint,
    in_order,
    judge_from_environment,
)
from support.scripted_judge import Fault, scripted

MESSAGES = [{"role": "system", "content": "Judge. "}, {"role": "user", "content": "é\u2028 \n\ud800"}]


def echo(body):
    return f"{body['messages'][-1]['content']}|{body['temperature']}"


def faults(*ahead: Fault):
    """A script of faults, and then "good"."""
    left = list(ahead)

    def script(body):
        if left:
            raise left.pop(0)
        return "good"

    return script


@pytest.fixture
def slept():
    return []


@pytest.fixture
def client(tmp_path, slept):
    """A judge at a URL that records its waits instead of sleeping."""
    return lambda url, key="secret": JudgeEndpoint("gpt-4-0613", url, key, tmp_path / "kept", slept.append)


def ask(judge, text="hello", temperature=0.0, max_tokens=3):
    return judge.ask([{"role": "user", "content": text}], temperature=temperature, max_tokens=max_tokens)


def test_a_request_is_what_openais_client_sends(client):
    with scripted(lambda body: "0.5") as server:
        assert client(server.url + "/").ask(MESSAGES, temperature=0.2, max_tokens=1024) == "0.5"
    [(path, headers, content)] = server.seen
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer secret"
    assert headers["content-type"] == "application/json"
    sent = {"model": "gpt-4-0613", "messages": MESSAGES, "temperature": 0.2, "max_tokens": 1024}
    assert content == json.dumps(sent).encode()


def test_an_endpoint_of_ones_own_needs_no_key(client):
    with scripted(lambda body: "0.5") as server:
        ask(client(server.url, key=""))
    assert "authorization" not in server.seen[0][1]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, b'{"error": {"message": "slow down"}}', Retry_After="0"),
        Fault(500, b"oops"),
        Fault(503),
        Fault(408),
        Fault(0),
        Fault(200, b"{'junk"),
        Fault(200, b'{"choices": []}'),
        Fault(200, b"[" * 100_000),
        Fault(200, b'{"choices": [{"message": {"content": 5}}]}'),
        Fault(200, b'{"error": {"message": "busy"}}'),
    ],
    ids=lambda f: f"{f.status}-{f.content[:12].decode()}",
)
def test_what_may_pass_is_asked_again(client, slept, fault):
    with scripted(faults(fault, fault)) as server:
        assert ask(client(server.url)) == "good"
    assert len(server.seen) == 3
    assert slept == ([0.0, 0.0] if fault.headers else list(WAITS[:2]))


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("0.25", 0.25),
        ("-3", 0),
        ("nonsense", WAITS[0]),
        ("nan", WAITS[0]),
        ("1e9", LONGEST_WAIT),
        ("Thu, 01 Jan 2099 00:00:00 GMT", LONGEST_WAIT),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 0),
    ],
)
def test_retry_after_is_obeyed(client, slept, said, seconds):
    with scripted(faults(Fault(429, Retry_After=said))) as server:
        assert ask(client(server.url)) == "good"
    assert slept == [seconds]


def test_it_gives_up_in_one_line_that_says_why(client, slept):
    on_fire = Fault(500, b'{"error": {"message": "on\\nfire"}}')
    with scripted(faults(*[on_fire] * 99)) as server, pytest.raises(DataError, match="status 500: on fire") as failed:
        ask(client(server.url))
    assert "\n" not in str(failed.value) and "gpt-4-0613" in str(failed.value) and server.url in str(failed.value)
    assert slept == list(WAITS) and len(server.seen) == len(WAITS) + 1


def test_nobody_there(client, slept):
    with scripted(echo) as server:
        pass
    with pytest.raises(DataError, match="ConnectError"):
        ask(client(server.url))
    assert len(slept) == len(WAITS)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 307])
def test_a_refusal_is_not_asked_again(client, slept, status):
    refusal, said = Fault(status, b'{"error": {"message": "no such model"}}'), rf"\(status {status}: no such model\)"
    with scripted(faults(*[refusal] * 9)) as server, pytest.raises(DataError, match=said):
        ask(client(server.url))
    assert len(server.seen) == 1 and not slept


def test_what_a_judge_leaves_empty_is_an_empty_reply(client):
    with scripted(lambda body: None) as server:
        assert ask(client(server.url)) == ""
        assert ask(client(server.url)) == ""
    assert len(server.seen) == 1


def test_replies_are_kept_by_what_was_asked(client, tmp_path):
    asked = [("a", 0.0, 3), ("a", 0.5, 3), ("a", 0.0, 4), ("b", 0.0, 3)]
    with scripted(echo) as server:
        first = [ask(client(server.url), *a) for a in asked]
        assert [ask(client(server.url), *a) for a in asked] == first
        assert len(server.seen) == 4
        other = JudgeEndpoint("another", server.url, "k", tmp_path / "kept")
        ask(other, "a")
        assert len(server.seen) == 5
    assert first[:2] == ["a|0.0", "a|0.5"]
    # With all of them there, neither the endpoint nor a key is needed.
    assert ask(client(server.url, key=""), "a") == "a|0.0"
    with scripted(lambda body: "another's") as elsewhere:  # which may hold another model by that name
        assert ask(client(elsewhere.url), "a") == "another's"


def test_a_kept_reply_that_cannot_be_read_is_asked_for_again(client, tmp_path):
    with scripted(echo) as server:
        ask(client(server.url))
        for content in (b"", b"[]", b"{", b'{"reply": 5}', b"\xff\xfe"):
            [kept] = (tmp_path / "kept").iterdir()
            kept.write_bytes(content)
            assert ask(client(server.url)) == "hello|0.0"
    assert len(server.seen) == 6


def test_one_question_from_many_threads_is_asked_once(client):
    arrived, replies = threading.Semaphore(0), count()

    def script(body):
        assert all(arrived.acquire(timeout=30) for _ in range(2))  # a second thread asks while the first waits
        return str(next(replies))

    def work(_):
        arrived.release()
        return ask(judge)

    with scripted(script) as server:
        judge = client(server.url)
        assert len(set(in_order(work, range(8)))) == 1
    assert len(server.seen) == 1


def test_replies_come_in_order_and_several_at_once():
    second = threading.Event()

    def work(i):
        if i == 0:
            assert second.wait(30)  # only where two are under way
        elif i == 1:
            second.set()
        return i * i

    assert in_order(work, range(12)) == [i * i for i in range(12)]


def test_the_first_failure_stops_what_has_not_begun(monkeypatch):
    begun, told = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            told.set()
            super().shutdown(wait)

    def work(i):
        begun.append(i)
        if i == 0:
            raise DataError("failed at 0")
        assert told.wait(30)

    monkeypatch.setattr(judge_module, "ThreadPoolExecutor", Pool)
    with pytest.raises(DataError, match="failed at 0"):
        in_order(work, range(1000))
    assert len(begun) <= PARALLEL + 1  # who failed takes one more


def test_an_interrupted_scoring_asks_only_for_the_rest(client):
    def script(body):
        if body["messages"][0]["content"] == "5" and refuse:
            raise Fault(401, b"no")
        return body["messages"][0]["content"]

    with scripted(script) as server:
        refuse = True
        with pytest.raises(DataError):
            in_order(lambda i: ask(client(server.url), str(i)), range(10))
        before = {b["messages"][0]["content"] for b in server.bodies} - {"5"}
        server.seen.clear()
        refuse = False
        assert in_order(lambda i: ask(client(server.url), str(i)), range(10)) == [str(i) for i in range(10)]
        after = {b["messages"][0]["content"] for b in server.bodies}
    assert before and not before & after and before | after == {str(i) for i in range(10)}


def test_the_environment_names_it(tmp_path, monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY", "REMORA_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)

    def named(model=None):
        judge = judge_from_environment(tmp_path, model, "the paper's")
        return judge.model, judge.url, judge.key

    assert named() == ("the paper's", f"{OPENAI}/chat/completions", "")
    monkeypatch.setenv("OPENAI_API_BASE", "http://b/v1")
    monkeypatch.setenv("REMORA_JUDGE_MODEL", "mine")
    monkeypatch.setenv("OPENAI_API_KEY", "k\n")
    assert named() == ("mine", "http://b/v1/chat/completions", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://a/v1/")
    assert named("given") == ("given", "http://a/v1/chat/completions", "k")


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        (OPENAI, "", "OPENAI_API_KEY is not set"),
        (OPENAI, "sk-é", "characters that no key has"),
        ("http://host:port", "k", "cannot be asked"),
        ("nowhere", "k", "cannot be asked"),
        ("ftp://localhost", "k", "cannot be asked"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(client, slept, url, key, said):
    with pytest.raises(DataError, match=said) as failed:
        ask(client(url, key))
    assert not slept and "\n" not in str(failed.value) and "sk-" not in str(failed.value)
