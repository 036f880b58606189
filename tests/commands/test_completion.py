"""The completion scripts, asked in the shells themselves: verbs, flags, values, files."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest

from remora.cli import VERBS
from remora.commands import completion

ASKED = {
    "bash": "COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _remora; echo ${{COMPREPLY[@]}}",
    "zsh": (
        "compadd() {{ shift; for one in $@; do [[ $one == ${{words[CURRENT]}}* ]] && echo $one; done }}; "
        "_files() {{ }}; "
        "words=({words}); CURRENT=${{#words}}; _remora"
    ),
    "fish": "complete -C {line}",
}
"""How a shell is asked what it would complete."""


def offered(shell: str, line: str) -> set[str]:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    words = line.split(" ")
    quoted = " ".join(map(shlex.quote, words))
    asked = ASKED[shell].format(words=quoted, line=shlex.quote(line))
    before = {"bash": "", "zsh": "compdef() { }\n", "fish": ""}[shell]
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    script = before + getattr(completion, shell)() + "\n" + asked
    done = subprocess.run([shell, *plain, "-c", script], capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    if shell == "fish":
        return {found.split("\t")[0] for found in done.stdout.splitlines()}
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", ASKED)
def test_a_shell_completes_verbs_flags_and_values(shell):
    assert offered(shell, "remora ") >= set(VERBS)
    assert offered(shell, "remora tra") == {"train"}
    assert offered(shell, "remora data ") >= {"check", "convert"} and "train" not in offered(shell, "remora data ")
    assert {"--set", "--local", "--runs"} <= offered(shell, "remora train x.yaml --")
    assert "--local" in offered(shell, "remora train --set finetune.lr=1 --l")
    assert offered(shell, "remora evaluate m --weights ") == {"float32", "int8"}
    assert offered(shell, "remora searches r") == {"replay"}
    assert {"--images"} <= offered(shell, "remora data check mine.json --i")
    assert not {"--images", "train"} & offered(shell, "remora train ")
    assert offered(shell, "remora schema cond") == {"condensation"}
    assert "vision" in offered(shell, "remora catalog vi")
    assert {"l4", "h100", "cpu"} <= offered(shell, "remora plan x.yaml --gpu ")
    assert offered(shell, "remora init --recipe llava-1.5") >= {"llava-1.5", "llava-1.5-lora"}
    assert offered(shell, "remora score sci") == {"scienceqa"}
    assert "ms-swift" in offered(shell, "remora import-config a.sh --trainer ")


def test_the_verb_prints_a_script(capsys, tmp_path):
    from remora.cli import main

    for shell in ASKED:
        main(["completion", shell, "--runs", str(tmp_path)])
        assert f"# remora completion {shell}" in capsys.readouterr().out
