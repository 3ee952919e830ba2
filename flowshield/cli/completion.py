"""Prints what makes a shell complete this command line."""

__all__ = ["COMPLETION", "completion_script"]

import argparse
import shlex
from collections.abc import Mapping

from flowshield.cli.command import Command
from flowshield.progress import Reporter

_BASH = """\
_flowshield() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} options
  case ${{COMP_CWORD}}:${{COMP_WORDS[1]}} in
    1:*) options={commands} ;;
{cases}
    *) options= ;;
  esac
  COMPREPLY=()
  if [[ $word == -* || $COMP_CWORD == 1 ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
  fi
}}
complete -o default -F _flowshield flowshield
"""
_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"  # zsh runs bash's completions


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
    options = {
        name: [word for action in sub._actions for word in action.option_strings]
        for name, sub in commands.choices.items()
    }
    if shell == "fish":
        return _fish(options, {a.dest: a.help or "" for a in commands._choices_actions})
    cases = "\n".join(
        f"    *:{name}) options={shlex.quote(' '.join(words))} ;;"
        for name, words in options.items()
    )
    names = shlex.quote(" ".join([*options, "--help", "--version"]))
    return (_ZSH if shell == "zsh" else "") + _BASH.format(commands=names, cases=cases)


def _fish(options: Mapping[str, list[str]], summaries: Mapping[str, str]) -> str:
    lines = []
    for name, words in options.items():
        first = f"complete -c flowshield -n __fish_use_subcommand -a {name}"
        lines.append(f"{first} -d {shlex.quote(summaries[name])}")
        seen = shlex.quote(f"__fish_seen_subcommand_from {name}")
        long = [word[2:] for word in words if word.startswith("--")]
        lines += [f"complete -c flowshield -n {seen} -l {word}" for word in long]
    return "\n".join(lines) + "\n"


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
