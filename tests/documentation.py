"""Blocks of code of a Markdown page, and what runs them as a reader would."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aigidetect.cli
import aigidetect.training.__main__ as training

_FENCE = re.compile(r"^(?:<!-- (.*?) -->\n)?```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_TRAINING = ["-m", "aigidetect.training"]
# What a placeholder for a number stands for, where an option takes only numbers.
_NUMBERS = {"SEED": "1"}


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: The page's path.
        line: Line of the page that its content begins on.
        language: What stands behind the opening fence.
        code: Its content.
        reason: Why it is not run; None for one that is.
        slow: Whether it takes more than a moment.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str | None
    slow: bool

    def run(self, names: dict[str, Any]) -> None:
        """Runs it here, in the working folder; Python with and for the `names` of its page."""
        if self.language == "python":
            # Empty lines in front, so that a traceback names the line of the page.
            exec(compile("\n" * (self.line - 1) + self.code, str(self.page), "exec"), names)
            return
        for words in self.commands():
            command, arguments = own_command(words)
            assert command, f"{self.page}:{self.line}: {words[0]!r} is not a command of ours; say why it is not run"
            assert command.main(arguments) == 0, f"{self.page}:{self.line}: {shlex.join(words)}"

    def commands(self) -> Iterator[list[str]]:
        """Words of each command of a block of shell, without comments and assignments."""
        for line in self.code.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                if words and not re.fullmatch(r"\w+=.*", words[0]):
                    yield words


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. A comment on the line before one marks it: `slow`, or `not run: REASON`."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in _FENCE.finditer(text):
        mark, language, code = match.groups()
        _, stopped, reason = (mark or "").partition("not run: ")
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Block(page, line, language, code, reason if stopped else None, mark == "slow"))
    return found


def own_command(words: list[str]) -> tuple[Any, list[str]]:
    """Module with `main` and `_parser`, and arguments, of a command of this package; (None, []) for another one's."""
    if Path(words[0]).name == "aigidetect":
        return aigidetect.cli, words[1:]
    for place in range(len(words) - 1):
        if words[place : place + 2] == _TRAINING:
            return training, words[place + 2 :]
    return None, []


def parse(words: list[str]) -> bool:
    """Whether the parser takes a command; a word in capitals may stand for a number. True for commands of others."""
    command, arguments = own_command(words)
    if command is None:
        return True
    try:
        command._parser().parse_args([_NUMBERS.get(word, word) for word in arguments])
    except SystemExit:
        return False
    return True
