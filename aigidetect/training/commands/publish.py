"""`publish`: from a published entry to a repository on the Hub."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path

from ...manifest import load_manifest
from .common import Commands, read_json


def add(commands: Commands) -> None:
    """Adds the parser."""
    publish = commands.add_parser("publish", help="upload weights and model card to the Hub, and pin the commit")
    publish.set_defaults(run=_publish)
    publish.add_argument("name", help="a detector of the manifest that has weights")
    publish.add_argument("--repo-id", required=True, metavar="OWNER/REPO", help="made if there is none")
    publish.add_argument("--audit", type=Path, default=None, help="JSON file that audit wrote for the training data")
    publish.add_argument("--out", type=Path, default=None, help="also write the files of the repository into this folder")
    publish.add_argument("--dry-run", action="store_true", help="only write the files; needs --out, no network and no token")
    publish.add_argument("--private", action="store_true", help="make a private repository")
    publish.add_argument("--again", action="store_true", help="even if the manifest already pins a commit")
    publish.add_argument("--endpoint", default=None, metavar="URL", help="address of the Hub")
    publish.add_argument("--weights-folder", type=Path, default=Path("aigidetect/weights"))
    publish.add_argument("--manifest", type=Path, default=Path("weights_manifest.json"))


def _publish(options: argparse.Namespace) -> None:
    from ..publish import pin, prepare, upload

    if options.dry_run and options.out is None:
        raise ValueError("--dry-run needs --out, a folder for the files.")
    entry = load_manifest(options.manifest).get(options.name)
    audit = read_json(options.audit) if options.audit else None
    files = prepare(entry, options.weights_folder, options.repo_id, audit=audit, again=options.again)
    if options.out:
        _write(files, options.out)
    for name, content in files.items():
        print(f"{name}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    if options.dry_run:
        print(
            f"Dry run: these files are in {options.out}; nothing was uploaded to {options.repo_id}, and no pin was written."
        )
        return
    summary = f"Publish {entry.full_name}"
    revision = upload(files, options.repo_id, summary=summary, private=options.private, endpoint=options.endpoint)
    print(f"{entry.full_name} is in {options.repo_id} at commit {revision}.")
    pin(options.manifest, entry, options.repo_id, revision)
    print(f"{options.manifest} pins it.")


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
