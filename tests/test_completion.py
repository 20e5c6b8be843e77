"""Completion in a real bash, and help whose examples are commands that the parser takes."""

import re
import shlex
import shutil
import subprocess

import pytest

from aigidetect.cli import _parser, main
from aigidetect.completion import SHELLS, script

PARSER = _parser()
COMMANDS = next(action.choices for action in PARSER._actions if action.dest == "command")
DETECTORS = ("vit-clip", "npr", "npr-ms-ca")
PROBE = """
probe() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _aigidetect; echo "${{COMPREPLY[*]}}"; }}
complete -p aigidetect
{probes}
"""
EXPECTED = {
    ("aigidetect", "pre"): {"predict"},
    ("aigidetect", ""): {*COMMANDS, "-h", "--help", "--version"},
    ("aigidetect", "predict", "--prov"): {"--provenance"},
    ("aigidetect", "predict", "--format", ""): {"jsonl", "csv", "table"},
    ("aigidetect", "predict", "--format", "c"): {"csv"},
    ("aigidetect", "predict", "photo one.jpg", "--detector", "npr"): {"npr", "npr-ms-ca"},
    ("aigidetect", "predict", ""): set(),
    ("aigidetect", "predict", "--output", ""): set(),
    ("aigidetect", "convert", "a.pth", "--as", "vit"): {"vit-clip"},
    ("aigidetect", "verify", "v"): {"vit-clip"},
    ("aigidetect", "completion", ""): set(SHELLS),
    ("aigidetect", "nonsense", "--"): set(),
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_values_and_leaves_files_to_itself():
    probes = "\n".join("probe " + shlex.join(words) for words in EXPECTED)
    code = script(PARSER, "bash", DETECTORS) + PROBE.format(probes=probes)
    ran = subprocess.run(["bash", "--norc", "-u"], input=code, capture_output=True, text=True, check=True)
    registered, *lines = ran.stdout.splitlines()
    assert registered == "complete -o bashdefault -o default -F _aigidetect aigidetect"
    assert ran.stderr == ""
    assert [set(line.split()) for line in lines] == list(EXPECTED.values())


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_in_the_script_of_each_shell(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"\b{name}\b", text)
        for action in command._actions:
            assert all(option.lstrip("-") in text for option in action.option_strings)
    assert "vit-clip" in text


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_the_other_shells_parse_where_the_shell_is_there(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    path = tmp_path / "script"
    path.write_text(script(PARSER, shell, DETECTORS))
    subprocess.run([shell, "-n", path], check=True)


def test_another_shell_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="bash, zsh, fish"):
        script(PARSER, "powershell", DETECTORS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_examples_that_work(name):
    examples = re.findall(r"^  (aigidetect .*?)(?:  .*|>>.*|)$", COMMANDS[name].format_help(), flags=re.MULTILINE)
    assert examples
    for example in examples:
        # With a wrong example, argparse would end the process.
        assert PARSER.parse_args(shlex.split(example)[1:]).command in COMMANDS


def test_the_general_help_has_examples_that_work():
    examples = re.findall(r"^  (aigidetect .*?)(?:  .*|)$", PARSER.format_help(), flags=re.MULTILINE)
    assert len(examples) > 5
    for example in examples:
        PARSER.parse_args(shlex.split(example)[1:])
