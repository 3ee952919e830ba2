"""Prints what makes a shell complete this command line."""

__all__ = ["COMPLETION", "completion_script"]

import argparse
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flowshield.cli.command import Command
from flowshield.progress import Reporter

_BASH = """\
_flowshield() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} offered=
  case $COMP_CWORD:${{COMP_WORDS[1]}}:$word in
    1:*) offered={commands} ;;
{cases}
  esac
  COMPREPLY=($(compgen -W "$offered" -- "$word"))
}}
complete -o default -F _flowshield flowshield
"""
_ZSH = """\
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit -i; }}
_flowshield() {{
  local -a commands
  commands=(
{commands}
  )
  case $CURRENT:$words[2]:$PREFIX in
    2:*:-*) compadd -- --help --version ;;
    2:*) _describe command commands ;;
{cases}
    *) compset -P '*='; _files ;;
  esac
}}
compdef _flowshield flowshield
"""
_FISH = """\
complete -c flowshield -n __fish_use_subcommand -f
complete -c flowshield -n __fish_use_subcommand -s h -l help
complete -c flowshield -n __fish_use_subcommand -l version
"""


@dataclass(frozen=True)
class _Words:
    """What one command offers: its summary, its options, and what else a word may be."""

    summary: str
    options: list[str]
    choices: list[str]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def _completion(parsed: argparse.Namespace, reporter: Reporter, typed: str) -> None:
    from flowshield.cli.program import make_parser

    print(completion_script(parsed.shell, make_parser()), end="")


def completion_script(shell: str, parser: argparse.ArgumentParser) -> str:
    """A script that completes commands, their options, and file names elsewhere.

    Args:
        shell: "bash", "zsh" or "fish".
        parser: Of the whole command line.
    """
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    summaries = {action.dest: action.help or "" for action in commands._choices_actions}
    words = {
        name: _Words(
            summaries[name],
            [word for action in sub._actions for word in action.option_strings],
            [str(word) for action in sub._actions for word in action.choices or ()],
        )
        for name, sub in commands.choices.items()
    }
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](words)


def _bash(commands: Mapping[str, _Words]) -> str:
    names = shlex.quote(" ".join([*commands, "--help", "--version"]))
    return _BASH.format(
        commands=names,
        cases=_cases(commands, lambda words: f"offered={shlex.quote(' '.join(words))}"),
    )


def _zsh(commands: Mapping[str, _Words]) -> str:
    described = (f"{name}:{words.summary}" for name, words in commands.items())
    return _ZSH.format(
        commands="\n".join(f"    {shlex.quote(line)}" for line in described),
        cases=_cases(commands, lambda words: f"compadd -- {shlex.join(words)}"),
    )


def _cases(commands: Mapping[str, _Words], offer: Callable[[list[str]], str]) -> str:
    """Branches of a `case` over NUMBER:COMMAND:WORD, in bash as in zsh."""
    lines = []
    for name, words in commands.items():
        lines.append(f"    *:{name}:-*) {offer(words.options)} ;;")
        if words.choices:
            lines.append(f"    *:{name}:*) {offer(words.choices)} ;;")
    return "\n".join(lines)


def _fish(commands: Mapping[str, _Words]) -> str:
    lines = []
    for name, words in commands.items():
        first = f"complete -c flowshield -n __fish_use_subcommand -a {name}"
        lines.append(f"{first} -d {shlex.quote(words.summary)}")
        seen = shlex.quote(f"__fish_seen_subcommand_from {name}")
        then = f"complete -c flowshield -n {seen}"
        lines += [
            f"{then} {f'-l {word[2:]}' if word.startswith('--') else f'-s {word[1:]}'}"
            for word in words.options
        ]
        if words.choices:
            lines.append(f"{then} -f -a {shlex.quote(' '.join(words.choices))}")
    return _FISH + "\n".join(lines) + "\n"


COMPLETION = Command(
    "completion",
    "print what makes a shell complete this command line",
    """\
  flowshield completion bash   in ~/.bashrc: source <(flowshield completion bash)
  flowshield completion zsh    in ~/.zshrc: source <(flowshield completion zsh)
  flowshield completion fish   > ~/.config/fish/completions/flowshield.fish""",
    _completion,
    _add_arguments,
)
