"""Recognise an image format by its first bytes, and a file whose end is missing."""

from typing import Literal

# Brands of the ISO base media container, which AVIF, HEIC and MP4 share.
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

# The last five cannot be decoded; they are recognised so that a reason can name the format.
_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
    "JPEG XL": (b"\0\0\0\x0cJXL ", b"\xff\x0a"),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "ICO": (b"\0\0\1\0",),
    "PSD": (b"8BPS",),
    "PDF": (b"%PDF",),
}


def picture_format(content: bytes) -> str | None:
    """Return the format's name as Pillow writes it, or None if no signature matches.

    MPO (several JPEG in one file) counts as JPEG, as its first picture is one.
    """
    for name, signatures in _SIGNATURES.items():
        if content.startswith(signatures):
            return name
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        length = int.from_bytes(content[:4], "big")
        brands = {content[begin : begin + 4] for begin in range(8, min(length, 256), 4)}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        return "HEIC" if brands & _HEIC_BRANDS else "MP4"
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "SVG"
    return None


def is_cut_short(content: bytes, name: str) -> bool:
    """Return whether the end is missing in a file of format `name` that could not be decoded.

    Only the reason that is reported depends on this: decoders notice a missing end, but often call
    it something else.
    """
    match name:
        case "JPEG":
            return b"\xff\xd9" not in content
        case "PNG":
            return b"IEND" not in content
        case "GIF":
            return not content.endswith(b";")
        case "WEBP":
            return int.from_bytes(content[4:8], "little") + 8 > len(content)
        case "TIFF":
            # The header gives the position of the directory, which is usually at the end.
            order: Literal["little", "big"] = "little" if content.startswith(b"I") else "big"
            return int.from_bytes(content[4:8], order) >= len(content)
        case "AVIF":
            return _avif_ends_early(content)
    return False


def _avif_ends_early(content: bytes) -> bool:
    """Return whether the last box of a file is longer than what remains of the file."""
    begin = 0
    while begin < len(content):
        length = int.from_bytes(content[begin : begin + 4], "big")
        if length < 8:
            # A length of 0 means up to the end of the file, and 1 that 64 bits with the real length
            # follow. Other lengths below 8 are damage.
            return False
        begin += length
    return begin > len(content)
