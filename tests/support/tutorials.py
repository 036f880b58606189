"""The tutorials of docs/ as scripts: their files and commands in the page's order, and a reader who gives them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from support.interrupts import hear_interrupts
from support.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PIECE = re.compile(
    r"(?ms)^```(?P<kind>\w*)[^\n]*\n(?P<fenced>.*?)^```$|(?P<indented>(?:^ {4}\S[^\n]*\n(?:^ {4}[^\n]*\n)*))"
)
NAMED = re.compile(r"\A(?:#![^\n]*\n)?# ([\w-]+\.\w+)\n")
SHELL = ("sh", "bash", "shell")


@dataclass(frozen=True)
class Block:
    """A file that the reader writes (`file` is its name), or commands."""

    text: str
    file: str = ""

    @property
    def commands(self) -> list[str]:
        """Each with the lines that it goes on in, without its comment."""
        if self.file:
            return []
        joined = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [plain for line in joined if (plain := re.sub(r"(^|\s+)# .*", "", line).strip())]


def blocks(page: str) -> list[Block]:
    """All blocks of a page that name a file in their first lines or are for a shell; indented text counts as such."""
    found = []
    for piece in PIECE.finditer((DOCS / page).read_text()):
        indented = piece["indented"]
        text = re.sub(r"(?m)^ {4}", "", indented) if indented else piece["fenced"]
        name = NAMED.match(text)
        if name and not indented:
            found.append(Block(text, name[1]))
        elif indented or piece["kind"] in SHELL:
            found.append(Block(text))
    return found


def commands(page: str) -> list[str]:
    return [command for block in blocks(page) for command in block.commands]


@dataclass
class Reader:
    """Somebody with an empty home folder who follows pages in one folder. No network: the hub counts as offline.

    Args:
        small: What is replaced in files and commands, to have small data, few steps and a free port.
    """

    folder: Path
    small: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    """Command -> what it printed."""
    settings: list[str] = field(default_factory=list)
    """The `export` lines so far."""
    running: list[tuple[subprocess.Popen[str], Path]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home = self.folder / "home"
        self.home.mkdir()
        for name in ("jobs", "tune", "serve"):
            shutil.copytree(ROOT / name, self.folder / name)

    @property
    def runs(self) -> Path:
        return self.home / "remora"

    def follow(self, page: str, left_out: dict[str, str]) -> list[str]:
        """Write the files and give the commands of a page in their order, but those that are left out.

        Returns:
            What was given.
        """
        given = []
        for block in blocks(page):
            if block.file:
                (self.folder / block.file).write_text(self._small(block.text))
            for command in block.commands:
                if command not in left_out:
                    given.append(command)
                    self._give(command)
        return given

    def _give(self, command: str) -> None:
        line = self._with_key(self._small(command))
        if line.startswith("export "):
            self.settings.append(line)
        elif line.startswith("remora serve"):
            self._serve(line)
        else:
            done = subprocess.run(
                ["bash", "-c", "\n".join(["set -e", *self.settings, line])], cwd=self.folder, env=self.env,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            self.said[command] = done.stdout

    def _serve(self, line: str) -> None:
        """Until `leave`, as in a terminal of its own."""
        log = self.folder / "endpoint.log"
        with log.open("w") as out:
            script = "\n".join([*self.settings, f"exec {line}"])
            server = subprocess.Popen(
                ["bash", "-c", script], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, text=True, preexec_fn=hear_interrupts,
            )  # fmt: skip
        self.running.append((server, log))
        until("the endpoint", lambda: server.poll() is not None or "ready: " in log.read_text())
        assert server.poll() is None, log.read_text()

    def leave(self) -> None:
        """Ctrl-C in the other terminals."""
        while self.running:
            server, log = self.running.pop()
            server.send_signal(signal.SIGINT)
            assert server.wait(PATIENCE) == 0, log.read_text()

    def _with_key(self, line: str) -> str:
        """Where a page says `REMORA_KEY=…`, the first key that was printed."""
        keys = [key for out in self.said.values() for key in re.findall(r"(?m)^rmr-\S+$", out)]
        return line.replace("REMORA_KEY=…", f"REMORA_KEY={keys[0]}") if keys else line

    def _small(self, text: str) -> str:
        for large, small in self.small.items():
            text = text.replace(large, small)
        return text

    @property
    def env(self) -> dict[str, str]:
        own = ("RAY_", "MLFLOW_", "REMORA_", "HF_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(own) or k == "RAY_worker_niceness"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        here = {"PATH": path, "HOME": str(self.home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return kept | here
