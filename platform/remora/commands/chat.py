"""`remora chat`: ask an endpoint in the terminal, with pictures by path.

remora chat --image cat.png            # then questions, a line each; /help
echo "What is this?" | remora chat --image cat.png
"""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from remora.commands.endpoint_options import ChatOptions
from remora.errors import RemoraError, ServingError, nearest
from remora.serving.session import ChatSession

HELP = """/image PATH…   show it pictures with the next question
/clear         begin a new conversation
/quit          leave (or Ctrl-D); Ctrl-C stops an answer
A line that begins with a space is always a question."""
COMMANDS = ("/image", "/clear", "/quit", "/help")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What would steer a terminal."""


def chat(options: ChatOptions) -> None:
    """Ask each line that is typed or piped, and print the answers as they come.

    Raises:
        RemoraError: of a pipe's lines; in a terminal it is printed and the conversation goes on.
    """
    given = {"model": options.model, "max_tokens": options.max_tokens, "temperature": options.temperature}
    settings: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    session, terminal = ChatSession(options.url, settings, options.system), sys.stdin.isatty()
    pictures = [_picture(str(path)) for path in options.image]
    if terminal:
        _tell(f"{options.url}; /help has the commands")
    for line in _lines(terminal):
        try:
            if line.startswith("/"):
                if _commanded(line, session, pictures):
                    return
            elif line.strip():
                _answer(session, line.strip(), pictures, terminal)
                pictures.clear()
        except RemoraError as e:
            if not terminal:
                raise
            _tell(f"remora: {e}")


def _lines(terminal: bool) -> Iterator[str]:
    if not terminal:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives input() a history and keys to edit a line)
    with contextlib.suppress(EOFError):
        while True:
            yield input("> ")


def _commanded(line: str, session: ChatSession, pictures: list[Path]) -> bool:
    """Carry out a command; whether it was /quit."""
    name, _, rest = line.partition(" ")
    if name == "/image":
        try:
            found = [_picture(path) for path in shlex.split(rest)]
        except ValueError:
            raise ServingError(f"a quote is open in {line!r}; next: /image 'a picture.png'") from None
        if not found:
            raise ServingError("which picture? next: /image PATH")
        pictures += found
        _tell(f"with the next question: {', '.join(path.name for path in pictures)}")
    elif name == "/clear":
        session.clear()
        pictures.clear()
        _tell("a new conversation")
    elif name == "/help":
        _tell(HELP)
    elif name != "/quit":
        raise ServingError(
            f"no command {name!r}{nearest(name, COMMANDS)}; commands: {', '.join(COMMANDS)}; to ask it, begin with a "
            "space"
        )
    return name == "/quit"


def _picture(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ServingError(f"{path}: no such file; give the path of a picture")
    return path


def _answer(session: ChatSession, question: str, pictures: list[Path], terminal: bool) -> None:
    """Print an answer as it comes; Ctrl-C stops it, in a terminal."""
    begun = False
    with contextlib.closing(session.ask(question, pictures)) as pieces:
        try:
            for piece in pieces:
                sys.stdout.write(_shown(piece))
                sys.stdout.flush()
                begun = True
            begun = True  # an empty answer is a line, too
        except KeyboardInterrupt:
            if not terminal:
                raise
        finally:
            if begun:
                sys.stdout.write("\n")
                sys.stdout.flush()
    if terminal:
        _tell(f"[{session.pace}]")


def _shown(text: str) -> str:
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _tell(text: str) -> None:
    """To people: a pipe gets answers only."""
    if sys.stdin.isatty():
        sys.stderr.write(f"{_shown(text)}\n")
        sys.stderr.flush()
