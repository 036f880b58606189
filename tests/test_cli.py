"""User errors give one line and exit code 1, without a traceback."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from remora.cli import main, parser, verbs
from support.ports import free_port

VARIANT = """
vision: efficientnet-lite0
connector: mlp2x_gelu
llm: demo-2m
recipe: base
overrides:
  language: {{steps: 1, mixture: [{{path: {path}}}]}}
  align: {{steps: 1, mixture: [{{path: {path}}}], {extra}}}
  finetune: {{steps: 1, mixture: [{{path: {path}}}]}}
"""


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as e:
        main(list(argv))
    message = str(e.value.code)
    assert message.startswith("remora: ")
    assert "Traceback" not in message + "".join(capsys.readouterr())
    assert "\n" not in message
    return message


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "black"}]
    (tmp_path / "data.json").write_text(json.dumps([{"id": "1", "image": "a.png", "conversations": turns}]))
    return tmp_path / "data.json"


def spec(tmp_path: Path, path: Path, extra: str = "lr: 1.0e-3") -> str:
    file = tmp_path / "spec.yaml"
    file.write_text(VARIANT.format(path=path, extra=extra))
    return str(file)


@pytest.mark.parametrize("words", [words for words, _ in verbs()])
def test_the_help_of_a_verb_ends_with_an_example(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole line that can be copied, which the parser accepts."""
    with pytest.raises(SystemExit):
        main([*words.split(), "--help"])
    example = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert example.startswith("example: ") and f"remora {words}" in example
    inner = re.search(r"remora [^)\n]*", example)
    assert inner
    parser().parse_args(shlex.split(inner[0])[1:])


def test_quiet_says_only_what_was_found(tmp_path: Path, data: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("REMORA_QUIET", "")  # set back afterwards
    main(["data", "check", str(data), "--runs", str(tmp_path), "--quiet"])
    assert os.environ["REMORA_QUIET"] == "1"
    assert "nothing that would stop a training run" in capsys.readouterr().out


def test_what_lists_data_prints_it_as_json(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*words: str) -> Any:
        main([*words, "--runs", str(tmp_path)])
        return json.loads(capsys.readouterr().out)

    assert "phi-2" in printed("catalog", "--json")["llm"]
    assert set(printed("catalog", "benchmarks", "--json")) >= {"gqa", "easy-vqa"}
    assert printed("catalog", "llm", "phi-2", "--json")["phi-2"]["short"] == "Phi2"
    assert printed("promote", "--history", "--json") == []
    keys = ["--file", str(tmp_path / "keys.yaml")]
    main(["keys", "add", "ada", *keys, "--concurrent", "4", "--runs", str(tmp_path)])
    capsys.readouterr()
    assert printed("keys", "ls", *keys, "--json") == {"ada": {"requests_per_minute": None, "concurrent": 4}}
    (rendered,) = printed("render", "jobs/demo-base.yaml", "--json")
    assert rendered["llm"] == "demo-2m" and [stage["name"] for stage in rendered["stages"]][-1] == "finetune"
    (index,) = printed("data", "index", str(data), "--json")
    assert index["samples"] == 1 and index["problems"] == {} and Path(index["folder"]).is_dir()
    (report,) = printed("data", "check", str(data), "--json")
    assert report["records"] == 1 and report["problems"] == {}
    (shown,) = printed("data", "show", str(data), "--json")
    (sample,) = shown["samples"]
    assert sample["id"] == "1" and sample["turns"][0]["role"] == "user" and sample["pictures"][0]["size"] == [8, 8]
    (tmp_path / "tracking").mkdir()
    assert printed("sync", "--json")["runs"] == 0


WITHOUT_JSON = {
    *(
        "train",
        "search",
        "register",
        "serve",
        "chat",
        "init",
        "import-config",
        "completion",
        "schema",
        "submit",
        "demo",
    ),
    *("export", "import", "average", "data demo", "data convert", "data condense", "stop", "resume", "ui", "docs"),
}
"""Verbs that do something and say so in a line or two, or write a file; what `schema` prints is JSON."""


def test_every_verb_that_prints_data_has_json() -> None:
    """As a flag without a value, everywhere."""
    found = {words: {f.name: f.type for f in fields(verb.options)}.get("json") for words, verb in verbs()}
    assert {words for words, kind in found.items() if kind is None} == WITHOUT_JSON
    assert {kind for kind in found.values() if kind} == {bool}


def test_an_unknown_key(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("vision: efficientnet-lite0\nconnector: mlp2x_gelu\nllm: demo-2m\nrecepe: base\n")
    with pytest.raises(SystemExit) as e:
        main(["plan", str(file), "--runs", str(tmp_path)])
    assert f"{file}:4: unknown key 'recepe'; did you mean 'recipe'?" in str(e.value.code)
    message = said(capsys, "plan", spec(tmp_path, data, "lrr: 1"), "--runs", str(tmp_path))
    assert ":8: unknown key 'overrides.align.lrr'; did you mean 'lr'?" in message


def test_an_unknown_part(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(spec(tmp_path, data))
    file.write_text(file.read_text().replace("mlp2x_gelu", "mlp2_gelu"))
    message = said(capsys, "train", str(file), "--runs", str(tmp_path), "--plain")
    assert "unknown connector 'mlp2_gelu'; did you mean 'mlp2x_gelu'?" in message


def test_a_missing_and_an_unreadable_image(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = spec(tmp_path, data)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    message = said(capsys, "train", file, "--runs", str(tmp_path), "--plain")
    assert f"data.json: record 0: {tmp_path}/a.png: " in message and "1 corrupt-image of 1 records" in message
    (tmp_path / "a.png").unlink()
    message = said(capsys, "train", file, "--runs", str(tmp_path), "--plain")
    assert f"data.json: record 0: {tmp_path}/a.png is not there (1 missing-image of 1 records)" in message


def test_data_that_was_not_made_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = said(capsys, "plan", "jobs/demo-base.yaml", "--runs", str(tmp_path))
    assert message.endswith("next: remora data demo")
    runs = tmp_path / "mistyped"
    for verb in (["data", "check"], ["data", "show"], ["train", "--plain"]):
        message = said(capsys, *verb, "jobs/demo-base.yaml", "--runs", str(runs))
        assert message.endswith("next: remora data demo")
        assert not runs.exists()  # a lock was left there


def test_paths_and_names_are_printed_as_they_are(tmp_path: Path, data: Path, capsys) -> None:
    """Rich reads [red] and [/] as markup and :cat: as a picture: they vanished, and [/] ended in a traceback."""
    odd = tmp_path / "[red]a[" / "] :cat:"
    odd.mkdir(parents=True)
    for file in (data, tmp_path / "a.png"):
        file.rename(odd / file.name)
    main(["data", "check", str(odd / "data.json"), "--runs", str(odd)])
    assert f"{odd}/data.json: 1 record" in capsys.readouterr().out
    main(["data", "index", str(odd / "data.json"), "--runs", str(odd)])
    assert capsys.readouterr().out.startswith(f"{odd}/data.json: 1 sample\n  {odd}/data/index/")
    main(["data", "convert", str(odd / "data.json"), str(odd / "[b].jsonl"), "--runs", str(odd)])
    assert f"{odd}/[b].jsonl: 1 record, 1 picture" in capsys.readouterr().out


def test_an_alias_that_reads_as_a_version_is_refused(tmp_path: Path, capsys) -> None:
    """It was set, and `remora serve remora@3` looked for version 3."""
    for alias in ("3", "v3", ""):
        message = said(capsys, "register", "x", "--alias", alias, "--runs", str(tmp_path))
        assert f"alias {alias!r} would never be found" in message


@pytest.mark.slow
@pytest.mark.parametrize("where", [">&-", "> /dev/full"])
def test_an_output_that_takes_nothing(tmp_path: Path, where: str) -> None:
    """A closed one was an AttributeError, "a fault of Remora"; a full one added Python's own lines and gave 120."""
    command = f'"{sys.executable}" -m remora render jobs/demo-base.yaml --runs "{tmp_path}" {where}'
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    closed = where == ">&-"
    assert done.returncode == (0 if closed else 1)
    assert done.stderr == "" if closed else done.stderr.startswith("remora: No space left on device")
    assert done.stderr.count("\n") == (0 if closed else 1)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian"], "train"),
        (["data", "chek"], "check"),
        (["answers", "m", "--benchmark", "b", "--only", "rihgt"], "right"),
    ],
)
def test_a_word_with_a_typo(capsys, words, meant) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert capsys.readouterr().err.endswith(f"; did you mean '{meant}'?\n")


def test_a_reader_that_has_read_enough_is_no_failure(tmp_path: Path) -> None:
    """rich exits with 1, the verbs that print without it with 0."""
    command = [sys.executable, "-m", "remora", "catalog", "vision", "--runs", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stderr
        child.stdout.close()
        assert (child.stderr.read(), child.wait()) == ("", 0)


def test_a_plan_of_data_that_is_not_here(tmp_path: Path, capsys, monkeypatch) -> None:
    """Totals of round figures were printed as exact, and the command to copy was broken into lines."""
    main(["plan", "jobs/tinyllava-3b.yaml", "--runs", str(tmp_path / ("a-long-name" * 9))])
    shown = capsys.readouterr().out
    assert "3 to train (~2,469,128 samples, 3.31e+19 FLOPs). Without sharing: 3 stage runs, ~2,469,128" in shown
    steps = [line for line in shown.splitlines() if "hf download" in line]
    assert len(steps) == 3 and all(line.endswith(")") for line in steps)


def test_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = str(s.getsockname()[1])
        message = said(capsys, "demo", "--runs", str(tmp_path), "--port", port)
    assert (
        message
        == f"remora: port {port} is in use; choose another with --port N, or leave it out to have a free one found"
    )


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    message = said(capsys, "train", spec(tmp_path, data), "--runs", str(tmp_path / "file"), "--plain")
    assert "choose another with --runs DIR" in message


def test_no_champion_and_no_cluster(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "remora" in said(capsys, "serve", "--runs", str(tmp_path / "runs"))
    where = f"127.0.0.1:{free_port()}"
    message = said(capsys, "train", spec(tmp_path, data), "--runs", str(tmp_path), "--plain", "--address", where)
    assert f"no Ray cluster at {where}: nothing listens there" in message


@pytest.mark.parametrize(
    "argv", [["catalog"], ["catalog", "vision"], ["catalog", "llm", "demo-2m"], ["render", "tune/demo.yaml"]]
)
def test_what_is_known_is_shown(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(argv)
    assert "demo-2m" in capsys.readouterr().out or argv[1:] == ["vision"]


def test_a_pipe_shows_each_line_when_it_is_written() -> None:
    """Python buffers 8 kB if stdout is not a terminal: a pipe showed nothing for minutes, then everything at once."""
    code = (
        "import sys, remora.commands.show as show, remora.cli as cli\n"
        "def render(args):\n"
        "    sys.stdout.write('first\\n')\n"
        "    sys.stdin.readline()\n"
        "show.render = render\n"
        "cli.main(['render', 'x'])"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=env, text=True, **pipes) as child:
        assert child.stdin and child.stdout
        shown, _, _ = select.select([child.stdout], [], [], 60)
        assert shown, "nothing was shown while the command went on"
        assert child.stdout.readline() == "first\n"
        child.stdin.close()


def test_paths_are_the_specs_own(tmp_path: Path, data: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials of a search looked for a spec's relative paths in Ray's working folder."""
    file = Path(spec(tmp_path, Path("data.json")))
    words = [{"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "black"}]}]
    (tmp_path / "words.json").write_text(json.dumps(words))
    spoken = file.read_text().replace("path: data.json", "path: words.json", 1).replace("steps: 1", "steps: 4")
    file.write_text(spoken)  # the language model's own stage reads only text
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    main(["plan", "../spec.yaml", "--runs", str(tmp_path / "runs")])
    assert "to train" in capsys.readouterr().out
    (tmp_path / "data.json").unlink()
    assert f"missing dataset file: {tmp_path}/elsewhere/../data.json" in said(
        capsys, "plan", "../spec.yaml", "--runs", str(tmp_path / "runs")
    )
