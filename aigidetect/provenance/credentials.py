"""Content Credentials (C2PA) in a file: present, what they mention, and, with the extra `c2pa`, whether the signature holds.

A manifest is a signed list of claims, so it is worth more than other metadata, if the signature fits the file and if one
trusts the signer. The first is checked here; the second nobody can compute, and no list of trusted signers is in this
package. Nothing is fetched from the network.

References:
    | C2PA technical specification 2.2, "Validation"
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from .claims import Claim, clipped
from .signs import SOURCE_TYPES

_SOURCE_TYPE = re.compile(rb"digitalsourcetype/([A-Za-z]{1,60})")
_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_INSTALL = "pip install 'aigidetect[c2pa]' has the signature checked"


def claims(data: bytes, parts: Sequence[bytes]) -> Iterator[Claim]:
    """What the manifests of a file come to.

    Args:
        data: The file.
        parts: Blocks that the format keeps for C2PA, in file order; a JPEG may have split one.
    """
    manifest = b"".join(parts)
    if b"c2pa" not in manifest:
        return  # JPEG keeps other boxes in the same segments
    yield Claim("credentials", *_checked(data))
    for code in dict.fromkeys(match.decode() for match in _SOURCE_TYPE.findall(manifest)):
        if code in SOURCE_TYPES:
            kind, words = SOURCE_TYPES[code]
            statement = f"The Content Credentials in the file say of it, or of a picture that went into it, that it {words}."
            yield Claim(kind, statement, f"C2PA manifest: digitalsourcetype/{code}")


def _checked(data: bytes) -> tuple[str, str]:
    """Statement and detail."""
    carries = "The file carries Content Credentials (C2PA)"
    try:
        from c2pa import Context, Reader
    except ImportError:
        return f"{carries}, whose signature was not checked.", f"C2PA manifest; {_INSTALL}"
    try:
        with Context.from_dict(_OFFLINE) as context, Reader(io.BytesIO(data), context=context) as reader:
            facts = json.loads(reader.json())
    except Exception as error:
        # The library is native code with errors of its own; whatever it raises, the manifest did not hold.
        return f"{carries}, which cannot be read.", clipped(f"C2PA manifest: {error}")
    return _verdict(carries, facts)


def _verdict(carries: str, facts: dict[str, Any]) -> tuple[str, str]:
    manifest = facts.get("manifests", {}).get(facts.get("active_manifest"), {})
    signature = manifest.get("signature_info", {})
    generators = [str(info.get("name")) for info in manifest.get("claim_generator_info", []) if isinstance(info, dict)]
    signer = clipped(str(signature.get("issuer") or signature.get("common_name") or "unknown"), 60)
    codes = [str(status.get("code")) for status in facts.get("validation_status", [])]
    detail = clipped(f"C2PA manifest: made by {', '.join(generators) or 'unknown'}; signed by {signer}; {', '.join(codes)}")
    state = facts.get("validation_state")
    if state == "Trusted":
        return (
            f"{carries}; the signature holds, and the signer, “{signer}”, is on the library's list of trusted ones.",
            detail,
        )
    if state == "Valid":
        doubt = "The file was not changed since, but whether the signer is really who that name says was not checked."
        return f"{carries}, signed in the name of “{signer}”. {doubt}", detail
    return f"{carries}, but their signature does not hold: the file was changed since, or they are not its own.", detail
