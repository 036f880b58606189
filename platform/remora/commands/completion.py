"""`remora completion`: a script for bash, zsh or fish that completes verbs, flags and their values.

    eval "$(remora completion bash)"      # in ~/.bashrc
    source <(remora completion zsh)       # in ~/.zshrc, after compinit
    remora completion fish | source       # in ~/.config/fish/config.fish

The scripts are made of the verbs' options, hold everything, and start no Python when a key is pressed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import Field, dataclass, fields

from remora import catalog as known
from remora.cli import VERBS, Verb, verbs
from remora.commands.options import CatalogOptions, flag_of, kind_of
from remora.commands.schema import KINDS
from remora.commands.setup_options import CompletionOptions, ImportConfigOptions, SchemaOptions
from remora.commands.trainers import trainers


@dataclass(frozen=True)
class Completed:
    """A flag of a verb."""

    flag: str
    about: str
    takes: bool
    """Whether a value follows it."""
    choices: tuple[str, ...] = ()
    """The values, if they are known; else a file's name is completed."""


NAMES = {
    "gpu": "devices",
    "vision": "vision",
    "connector": "connectors",
    "llm": "llm",
    "recipe": "recipes",
    "template": "templates",
    "benchmarks": "benchmarks",
    "benchmark": "benchmarks",
}
"""Option -> the kind of the catalog that it names."""


def completion(options: CompletionOptions) -> None:
    """Print the script for a shell."""
    sys.stdout.write({"bash": bash, "zsh": zsh, "fish": fish}[options.shell]() + "\n")


def _groups() -> dict[str, list[str]]:
    """The first words that others follow."""
    return {name: list(verb) for name, verb in VERBS.items() if not isinstance(verb, Verb)}


def _values(verb: Verb, option: Field[object]) -> tuple[str, ...]:
    """The values of an option, where they are known: its choices, or names of the catalog."""
    if verb.options is SchemaOptions and option.name == "kind":
        return KINDS
    if verb.options is CatalogOptions and option.name == "kind":
        return (*known.KINDS, "check")
    if verb.options is ImportConfigOptions and option.name == "trainer":
        return tuple(trainers())
    if kind := NAMES.get(option.name):
        return (*(known.PAPERS if kind == "benchmarks" else ()), *known.entries(kind))
    return tuple(option.metadata["parsing"].get("choices") or ())


def _flags(verb: Verb) -> list[Completed]:
    found = []
    for f in fields(verb.options):
        if f.metadata["flags"]:
            takes = kind_of(f.type)[0] is not bool
            about = " ".join(str(f.metadata["parsing"].get("help") or "").split())
            found.append(Completed(flag_of(f), about, takes, _values(verb, f)))
    return [*found, Completed("--help", "show what the verb does", False)]


def _first_words(verb: Verb) -> list[str]:
    """The values of a verb's positional arguments, where they are known."""
    return [value for f in fields(verb.options) if not f.metadata["flags"] for value in _values(verb, f)]


def _verb_cases() -> Iterator[str]:
    """The branches of a `case` in bash's and zsh's common language: what a verb offers, its words and flags."""
    for words, verb in verbs():
        offered = " ".join([*_first_words(verb), *(one.flag for one in _flags(verb))])
        yield f'      "{words}") offered="{offered}" ;;'


def _flag_cases() -> Iterator[str]:
    """The branches of a second one: the values of a verb's flag."""
    for words, verb in verbs():
        for one in _flags(verb):
            if one.takes:
                values = " ".join(one.choices) or ":files"
                yield f'        "{words} {one.flag}") offered="{values}" ;;'


def _common(current: str, before: str, words: str) -> str:
    """What bash and zsh share: the verb, then what to offer; the arguments are how each shell writes its words."""
    groups = "|".join(_groups())
    inner = "\n".join(f'      "{name}") offered="{" ".join(within)}" ;;' for name, within in _groups().items())
    return f"""  local verb="" word offered="" current="{current}" before="{before}"
  for word in {words}; do
    case "$word" in
      -*) break ;;
      *)
        if [ -z "$verb" ]; then verb="$word"
        elif case "$verb" in {groups}) true ;; *) false ;; esac; then verb="$verb $word"; break
        else break
        fi ;;
    esac
  done
  case "$verb" in
      "") offered="{" ".join(VERBS)} --help --version" ;;
{inner}
{chr(10).join(_verb_cases())}
  esac
  case "$before" in
    --*|-?)
      local flags="$offered"
      offered=""
      case "$verb $before" in
{chr(10).join(_flag_cases())}
        *) offered="$flags" ;;
      esac ;;
  esac
  case "$verb:$current" in
    :*|*:-*) ;;
    *)
      local kept=""
      for word in $offered; do case "$word" in -*) ;; *) kept="$kept $word" ;; esac; done
      offered="${{kept# }}" ;;
  esac"""


def bash() -> str:
    """The script for bash 4 and later."""
    return f"""# remora completion bash
_remora() {{
{_common("${COMP_WORDS[COMP_CWORD]}", "${COMP_WORDS[COMP_CWORD-1]}", '"${COMP_WORDS[@]:1:COMP_CWORD-1}"')}
  COMPREPLY=()
  if [ "$offered" != ":files" ]; then COMPREPLY=($(compgen -W "$offered" -- "$current")); fi
  if [ ${{#COMPREPLY[@]}} -eq 0 ]; then compopt -o default 2>/dev/null; COMPREPLY=(); fi
}}
complete -F _remora remora"""


def zsh() -> str:
    """The script for zsh with compinit."""
    return f"""#compdef remora
# remora completion zsh
_remora() {{
  setopt local_options sh_word_split
{_common("${words[CURRENT]}", "${words[CURRENT-1]}", '"${(@)words[2,CURRENT-1]}"')}
  case "$offered" in
    ""|:files) _files ;;
    *) compadd -- $offered ;;
  esac
}}
compdef _remora remora"""


def fish() -> str:
    """The script for fish 3 and later."""
    lines = ["# remora completion fish"]
    first = " ".join(VERBS)
    for name, verb in VERBS.items():
        about = verb.options.__doc__ if isinstance(verb, Verb) else f"{', '.join(verb)} datasets"
        lines.append(_fish(f"not __fish_seen_subcommand_from {first}", f"-f -a {name}", about))
    for name, within in _groups().items():
        seen = f"__fish_seen_subcommand_from {name}; and not __fish_seen_subcommand_from {' '.join(within)}"
        lines += [_fish(seen, f"-f -a {inner}", None) for inner in within]
    for words, verb in verbs():
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in words.split())
        lines += [_fish(seen, f"-f -a {word}", None) for word in _first_words(verb)]
        lines += [_fish(seen, _fish_flag(one), one.about) for one in _flags(verb)]
    return "\n".join(lines)


def _fish(condition: str, what: str, about: str | None) -> str:
    return f"complete -c remora -n {_quoted(condition)} {what}" + (f" -d {_quoted(about)}" if about else "")


def _fish_flag(one: Completed) -> str:
    named = f"-l {one.flag[2:]}" if one.flag.startswith("--") else f"-s {one.flag[1:]}"
    if not one.takes:
        return named
    return f"{named} -x -a {_quoted(' '.join(one.choices))}" if one.choices else f"{named} -r"


def _quoted(text: str) -> str:
    return shlex.quote(text.replace("\\", ""))
