"""What a file says of its origin, as frozen records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["ai", "partly-ai", "capture", "other-source", "credentials", "software"]

CAVEAT = "What a file says of itself is easily removed or forged. It proves nothing, and its absence proves nothing either."
_LONGEST = 300


@dataclass(frozen=True)
class Claim:
    """One thing that a file says of its origin. It is not checked, except where the statement says so.

    Attributes:
        kind: `"ai"`: made by a generator; `"partly-ai"`: a part of it; `"capture"`: by a camera or a scanner;
            `"other-source"`: in another way; `"credentials"`: it carries Content Credentials (C2PA); `"software"`: which
            program wrote it.
        statement: A sentence for people. What it quotes of the file is clipped and printable.
        detail: Where in the file, and what stands there; clipped and printable.
    """

    kind: Kind
    statement: str
    detail: str


@dataclass(frozen=True)
class Provenance:
    """What one file says of its origin.

    Attributes:
        source: The path, or `"<bytes>"`.
        claims: Those found; `"ai"` first, then in the order of `Claim.kind`. Empty if the file says nothing.
        notes: What could not be read, as sentences.
    """

    source: str
    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary: `claims`, `notes`, and the caveat that belongs to every claim."""
        return {"claims": [asdict(claim) for claim in self.claims], "notes": list(self.notes), "caveat": CAVEAT}


def clipped(text: str, limit: int = _LONGEST) -> str:
    """Text of a stranger for a terminal or a page: one line of printable characters, at most `limit` of them."""
    # Cut first, so that a text of megabytes costs nothing. What is not printable includes marks that turn the reading order.
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 1] + "…"
