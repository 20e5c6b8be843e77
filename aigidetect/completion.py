"""`aigidetect completion bash | zsh | fish`: what a shell needs to complete commands, options, detectors and files.

The script is made of the parser itself, so it never lags behind; it is static, because starting Python takes too long for a
key press. Bash needs 3.2 or later, which is what macOS has.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

SHELLS = ("bash", "zsh", "fish")

# Which words came before the one that is being completed: the command, and the word just before.
_BASH = """_aigidetect() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command='' word words=''
    COMPREPLY=()
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in -*) ;; *) command=$word; break ;; esac
    done
    case "$command $prev" in
{values}
        *) case $command in
{words}
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o bashdefault -o default -F _aigidetect aigidetect
"""
_ZSH = """#compdef aigidetect
_aigidetect() {{
    local cur=${{words[CURRENT]}} prev=${{words[CURRENT-1]}} command='' word found=''
    for word in "${{words[@]:1:CURRENT-2}}"; do
        case $word in -*) ;; *) command=$word; break ;; esac
    done
    case "$command $prev" in
{values}
        *) case $command in
{words}
        esac ;;
    esac
    if [[ -n $found ]]; then compadd -- ${{=found}}; else _files; fi
}}
if [[ $funcstack[1] == _aigidetect ]]; then _aigidetect "$@"; else compdef _aigidetect aigidetect; fi
"""


def add(commands: Any) -> None:
    """Adds the parser."""
    parser = commands.add_parser("completion", help="print what makes your shell complete commands and options")
    parser.add_argument("shell", choices=SHELLS)


def script(parser: argparse.ArgumentParser, shell: str, detectors: Sequence[str]) -> str:
    """The completion script of a parser with sub-commands.

    Args:
        parser: That of the command line.
        shell: One of `SHELLS`.
        detectors: Names that complete where a `NAME` is asked for.

    Raises:
        ValueError: Another shell.
    """
    if shell not in SHELLS:
        raise ValueError(f"Expected one of the shells {', '.join(SHELLS)}, but got {shell!r}.")
    commands = _commands(parser)
    if shell == "fish":
        return "\n".join(_fish(parser, commands, detectors)) + "\n"
    variable, template = ("words", _BASH) if shell == "bash" else ("found", _ZSH)
    values = [
        f"        {_either(name, action)}) {variable}={shlex.quote(' '.join(_values(action, detectors)))} ;;"
        for name, command in commands.items()
        for action in command._actions
        if _takes_value(action)
    ]
    words = [f"            '') {variable}={shlex.quote(' '.join([*commands, *_options(parser)]))} ;;"]
    for name, command in commands.items():
        free = [value for action in command._actions if not action.option_strings for value in _values(action, detectors)]
        # An option is offered only after a dash where files are what comes next.
        plain = f"{variable}={shlex.quote(' '.join(free))}" if free else ":"
        dashed = f"{variable}={shlex.quote(' '.join(_options(command)))}"
        words.append(f"            {name}) case $cur in -*) {dashed} ;; *) {plain} ;; esac ;;")
    return template.format(values="\n".join(values), words="\n".join(words))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _takes_value(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.nargs != 0


def _values(action: argparse.Action, detectors: Sequence[str]) -> list[str]:
    """What can be said where this action takes a word; nothing where it is a file or free."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    return list(detectors) if action.metavar == "NAME" else []


def _either(command: str, action: argparse.Action) -> str:
    return "|".join(shlex.quote(f"{command} {option}") for option in action.option_strings)


def _fish(
    parser: argparse.ArgumentParser, commands: dict[str, argparse.ArgumentParser], detectors: Sequence[str]
) -> Iterator[str]:
    helps = {choice.dest: choice.help or "" for action in parser._actions for choice in _choices(action)}
    for name in commands:
        yield f"complete -c aigidetect -n __fish_use_subcommand -f -a {name} -d {_fish_quote(helps.get(name, ''))}"
    for name, command in commands.items():
        start = f"complete -c aigidetect -n '__fish_seen_subcommand_from {name}'"
        for action in command._actions:
            values = " ".join(_values(action, detectors))
            takes = f" -x -a {_fish_quote(values)}" if values else " -r" if _takes_value(action) else ""
            if action.option_strings:
                flags = "".join(f" -{'l' if o.startswith('--') else 's'} {o.lstrip('-')}" for o in action.option_strings)
                yield f"{start}{flags}{takes} -d {_fish_quote(action.help or '')}"
            elif values:
                yield f"{start}{takes.replace(' -x', ' -f')}"


def _choices(action: argparse.Action) -> list[argparse.Action]:
    return action._get_subactions() if isinstance(action, argparse._SubParsersAction) else []


def _fish_quote(text: str) -> str:
    # In fish, only these two characters mean something inside single quotes.
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
