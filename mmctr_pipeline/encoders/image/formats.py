"""What a file is by its first bytes, and whether its end is missing."""

from collections.abc import Callable

# Brands of the ISO base media container, of which AVIF, HEIC and MP4 are all kinds.
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# The formats that are read stand first; the others are told apart to be named.
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\1\0", "ICO"),
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
)


def picture_format(content: bytes) -> str | None:
    """Return the format's name as Pillow writes it, or None for what is no picture at all.

    MPO (several JPEG in one file) counts as JPEG: its first picture is one.
    """
    for signature, name in _SIGNATURES:
        if content.startswith(signature):
            return name
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        return _container(content)
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "SVG"
    return None


def cut_short(content: bytes, name: str) -> bool:
    """Return whether a file of format `name` that could not be decoded lacks its end.

    Only to word the reason: decoders find a missing end themselves, but often call it otherwise.
    """
    ends_early = _ENDS_EARLY.get(name)
    return ends_early is not None and ends_early(content)


def _container(content: bytes) -> str:
    length = int.from_bytes(content[:4], "big")
    brands = [content[at : at + 4] for at in range(8, min(length, 256), 4)]
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "AVIF"
    return "HEIC" if any(brand in _HEIC_BRANDS for brand in brands) else "MP4"


def _webp_ends_early(content: bytes) -> bool:
    return int.from_bytes(content[4:8], "little") + 8 > len(content)


def _tiff_ends_early(content: bytes) -> bool:
    # The directory stands wherever the header says, mostly at the end.
    order = "little" if content[:1] == b"I" else "big"
    return int.from_bytes(content[4:8], order) >= len(content)  # type: ignore[arg-type]


def _avif_ends_early(content: bytes) -> bool:
    at = 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if length < 8:
            # 0: up to the end of the file; 1: a length of 64 bits; the rest: damaged.
            return False
        at += length
    return at > len(content)


_ENDS_EARLY: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda content: b"\xff\xd9" not in content,
    "PNG": lambda content: b"IEND" not in content,
    "GIF": lambda content: not content.endswith(b";"),
    "WEBP": _webp_ends_early,
    "TIFF": _tiff_ends_early,
    "AVIF": _avif_ends_early,
}
