"""`python -m tests.hostile OUT` makes the corpus, scores it, and prints what came of it; `folder` scores the files of any
folder; `fuzz` mutates for a given time."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .run import judge, make_corpus, score_corpus, survey, table


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] not in (["score"], ["fuzz"], ["folder"], ["run"]):
        arguments = ["run", *arguments]
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "score", "folder"):
        command = commands.add_parser(name)
        command.add_argument("out", type=Path, help="a folder that does not exist yet; with `folder` one that does")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--each", type=int, default=None, help="only so many files of every class")
        command.add_argument("--gigabytes", type=float, default=8, help="address space that the process may use")
        command.add_argument("--hang", type=float, default=600, help="seconds for one file, then the process is ended")
    fuzzer = commands.add_parser("fuzz")
    fuzzer.add_argument("--seconds", type=float, default=180)
    fuzzer.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.command == "fuzz":
        from .fuzz import fuzz  # brings torchvision along, which the processes that score do without

        return fuzz(options.seconds, options.seed)
    if options.command == "score":
        score_corpus(options.out, options.gigabytes, options.hang)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        if options.command == "folder":
            corpus = Path(temporary) / "list"
            survey(options.out, corpus)
        else:
            corpus = options.out
            make_corpus(corpus, seed=options.seed, each=options.each)
        found = judge(corpus, gigabytes=options.gigabytes, hang=options.hang)
    print(table(found["rows"]))
    seconds, path = found["slowest"]
    print(f"\nPeak memory {found['peak']} MiB of {options.gigabytes:g} GiB. Slowest: {seconds:.1f} s, {Path(path).name}.")
    print(f"{len(found['wrong'])} against expectation.")
    for sentence in found["wrong"]:
        print(f"- {sentence}")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
