"""Small files that say something of their origin, in every place where a file can."""

from __future__ import annotations

import datetime
import io
import json
import struct

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .conftest import array
from .hostile.pictures import chunk

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
JUMBF = b"\0\0\0\x28jumb\0\0\0\x20jumdc2pa" + bytes(12) + b"\x03c2pa\0"


def png(*texts, compressed=False, international=False):
    info = PngInfo()
    for key, text in texts:
        (info.add_itxt if international else info.add_text)(key, text, zip=compressed)
    return saved("PNG", pnginfo=info)


def saved(format, **options):
    buffer = io.BytesIO()
    Image.fromarray(array(24, 32)).save(buffer, format, **options)
    return buffer.getvalue()


def exif(tags, comment=None):
    found = Image.Exif()
    found.update(tags)
    if comment is not None:
        found.get_ifd(0x8769)[0x9286] = comment
    return found.tobytes()


def xmp(properties):
    start = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    return f"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?>{start}{properties}</rdf:RDF></x:xmpmeta>".encode()


def with_xmp(format, packet):
    if format == "PNG":
        return png(("XML:com.adobe.xmp", packet.decode()), international=True)
    return saved(format, **({"tiffinfo": {700: packet}} if format == "TIFF" else {"xmp": packet}))


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def with_iptc(credit):
    data = b"\x1c\x02\x6e" + struct.pack(">H", len(credit)) + credit
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)
    return _inserted(segment(0xED, b"Photoshop 3.0\0" + resource))


def with_manifest(format, manifest):
    """A block where C2PA puts its manifest; nothing in it is signed."""
    if format == "JPEG":
        half = len(manifest) // 2
        first, rest = manifest[:half], manifest[:8] + manifest[half:]
        parts = [b"JP\0\1" + struct.pack(">I", number) + part for number, part in ((1, first), (2, rest))]
        return _inserted(b"".join(segment(0xEB, part) for part in parts))
    if format == "PNG":
        return saved("PNG")[:33] + chunk(b"caBX", manifest) + saved("PNG")[33:]
    if format == "WEBP":
        return saved("WEBP") + b"C2PA" + struct.pack("<I", len(manifest)) + manifest
    if format == "TIFF":
        return saved("TIFF", tiffinfo={52545: manifest})
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    return saved("AVIF") + struct.pack(">I4s", 24 + len(manifest), b"uuid") + uuid + manifest


def _inserted(part):
    data = saved("JPEG")
    return data[:2] + part + data[2:]


def signed(format, mime):
    """A file with Content Credentials, signed by an authority made here."""
    import c2pa

    certificates, key = _authority()
    action = {"action": "c2pa.created", "digitalSourceType": TRAINED}
    manifest = {
        "claim_generator_info": [{"name": "a test", "version": "1"}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
    }
    info = c2pa.C2paSignerInfo(alg=c2pa.C2paSigningAlg.ES256, sign_cert=certificates, private_key=key, ta_url=None)
    out = io.BytesIO()
    context = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
    builder = c2pa.Builder(json.dumps(manifest), context=context)
    builder.sign(c2pa.Signer.from_info(info), mime, io.BytesIO(saved(format)), out)
    return out.getvalue()


def _authority():
    """PEM bytes of a certificate for signing with its root, and of the private key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, text)]) for text in ("A Root", "A Newsroom\x1b[2J")
    ]
    now = datetime.datetime.now(datetime.timezone.utc)
    certificates = []
    for name, public, is_root in ((names[1], key.public_key(), False), (names[0], root.public_key(), True)):
        unused = "content_commitment key_encipherment data_encipherment key_agreement encipher_only decipher_only"
        usage = dict.fromkeys(unused.split(), False)
        builder = (
            x509.CertificateBuilder(names[0], name, public, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False)
        )
        if not is_root:
            purposes = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purposes, critical=False)
        certificates.append(builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    return b"".join(certificates), key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
