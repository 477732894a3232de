"""The contact sheet shows covers and titles, stays small, and copes with awkward input."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mmctr_pipeline.data.images import index_images
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.reporting.contact_sheet import NeighbourSheet, neighbour_sheet
from mmctr_pipeline.reporting.neighbours import find_neighbours
from mmctr_pipeline_tests.reporting.item_tables import (
    IDS,
    ITEMS,
    N_ITEMS,
    item_table,
    random_vectors,
    vector_table,
)

RED, GREEN, BLUE, GREY = (220, 20, 20), (20, 160, 20), (20, 20, 220), (224, 224, 224)


def count_pixels(content: bytes, colour: tuple[int, int, int]) -> int:
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(axis=2) < 8).sum())


def test_the_sheet_has_the_covers_and_titles_of_its_items(tmp_path: Path) -> None:
    ids = np.array([3, 5, 90], np.int32)
    for item, colour in zip(ids, (RED, GREEN, BLUE), strict=True):
        Image.new("RGB", (400, 400), colour).save(tmp_path / f"{item}.jpg", quality=95)
    images = index_images(tmp_path)
    tables = {"image": vector_table([[0, 1], [1, 0], [1, 0.1]], ids)}
    # A seed whose query is one of the last two items, which are neighbours of each other.
    seed = next(
        seed
        for seed in range(50)
        if find_neighbours(ids, images, tables, 1, 1, seed).query.tolist() in ([5], [90])
    )

    def draw(titles: list[str]) -> bytes:
        items = item_table(pa.array(titles), ids)
        sheet = neighbour_sheet(items, images, tables, n_queries=1, n_neighbours=1, seed=seed)
        return sheet.full

    content = draw(["a", "b", "c"])
    assert (count_pixels(content, GREEN), count_pixels(content, BLUE)) == (96 * 96, 96 * 96)
    assert count_pixels(content, RED) == 0
    assert content == draw(["not shown", "b", "c"])
    assert content != draw(["a", "b", "other"])


def test_covers_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, :60], pixels[:, 60:] = RED, BLUE
    exif = Image.Exif()
    exif[0x0112] = 6
    for item in IDS[:2]:
        Image.fromarray(pixels).save(tmp_path / f"{item}.jpg", quality=95, exif=exif, subsampling=0)
    images = index_images(tmp_path)
    table = random_vectors(1, item_id=IDS[:2])
    items = item_table(pa.array(["a", "b"]), IDS[:2])
    sheet = neighbour_sheet(items, images, {"image": table}, n_queries=1)
    with Image.open(io.BytesIO(sheet.full)) as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    red, blue = (np.argwhere(np.abs(drawn - colour).max(axis=2) < 30) for colour in (RED, BLUE))
    # EXIF orientation 6 turns the cover clockwise, so the left half moves to the top.
    assert red[:, 0].max() <= blue[:, 0].min() + 2


def test_bad_covers_become_grey_tiles(tmp_path: Path) -> None:
    names = [tmp_path / f"{item}.jpg" for item in IDS[:6]]
    Image.new("RGB", (80, 80), RED).save(names[0], quality=95)
    names[1].write_bytes(b"")
    names[2].write_text("<html>404 Not Found</html>")
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(names[3])
    names[3].write_bytes(names[3].read_bytes()[:3000])
    names[4].mkdir()
    # names[5] does not exist.
    images = index_images(tmp_path)
    items = item_table(pa.array(["title"] * 6), IDS[:6])
    table = random_vectors(1, item_id=IDS[:6])
    sheet = neighbour_sheet(items, images, {"image": table}, n_queries=1, n_neighbours=5)
    tile = 96 * 96
    assert count_pixels(sheet.full, RED) == tile
    # The words "no cover" hide a few pixels of each of the five tiles.
    assert 4.4 * tile < count_pixels(sheet.full, GREY) < 5.1 * tile


AWKWARD_TITLES = [
    "",
    None,
    " \t\n",
    "line one\nline two\rline three\x00\x07\x1b[31m",
    "短视频标题很长很长" * 60,
    "家族👨‍👩‍👧 ❤️ 🇨🇳 مرحبا שלום नमस्ते",
    "word" * 5000,
    "\u202eright to left override \ufffe \U0010ffff",
]


def test_items_with_string_ids_are_drawn() -> None:
    titles = pa.array([f"video {number}" for number in range(N_ITEMS)])
    names = np.array([f"v{number:03d}\n" for number in range(N_ITEMS)])
    table = vector_table(random_vectors(1).vectors, names)
    sheet = neighbour_sheet(item_table(titles, names), None, {"text": table})
    integers = neighbour_sheet(item_table(titles), None, {"text": random_vectors(1)})
    # Queries and neighbours are the same; only the captions differ.
    sizes = {Image.open(io.BytesIO(drawn.full)).size for drawn in (sheet, integers)}
    assert len(sizes) == 1
    assert sheet != integers


@pytest.mark.parametrize("title", AWKWARD_TITLES)
def test_awkward_titles_are_drawn(title: str | None) -> None:
    table = {"text": random_vectors(1)}
    sheet = neighbour_sheet(item_table(pa.array([title] * N_ITEMS, pa.string())), None, table)
    blank = neighbour_sheet(item_table(pa.array(["."] * N_ITEMS)), None, table)
    assert len(sheet.small) <= 50_000
    # A title takes more ink than a dot, and no more than three full lines for each of 96 items.
    ink, ink_of_dots = (count_pixels(drawn.full, (32, 32, 32)) for drawn in (sheet, blank))
    assert ink_of_dots < ink < 150_000


def test_emoji_that_the_font_lacks_are_left_out() -> None:
    table = {"text": random_vectors(1)}
    plain = neighbour_sheet(item_table(pa.array(["cat © ☺"] * N_ITEMS)), None, table)
    emoji = neighbour_sheet(item_table(pa.array(["cat 🐈 © ☺ 🇨🇳"] * N_ITEMS)), None, table)
    without = neighbour_sheet(item_table(pa.array(["cat"] * N_ITEMS)), None, table)
    assert emoji == plain != without


def test_letters_that_the_font_lacks_are_drawn_in_latin_letters() -> None:
    table = {"text": random_vectors(1)}
    chinese = neighbour_sheet(item_table(pa.array(["北京 café"] * N_ITEMS)), None, table)
    latin = neighbour_sheet(item_table(pa.array(["BeiJing café"] * N_ITEMS)), None, table)
    assert chinese == latin


def test_items_are_labelled_with_their_ids() -> None:
    titles = pa.array(["title"] * 3)
    tables = {"text": vector_table([[0, 1], [1, 0], [1, 0.1]], np.array([3, 5, 90], np.int32))}
    other = {"text": vector_table([[0, 1], [1, 0], [1, 0.1]], np.array([3, 5, 91], np.int32))}

    def draw(tables: dict[str, VectorTable], seed: int) -> NeighbourSheet:
        items = item_table(titles, tables["text"].item_id)
        return neighbour_sheet(items, None, tables, n_queries=1, seed=seed)

    # Each sheet has the item 90 or 91, as the query or as one of its two neighbours.
    assert all(draw(tables, seed) != draw(other, seed) for seed in range(3))


def test_titles_that_are_not_utf8_are_drawn() -> None:
    titles = pa.array([b"caf\xe9 \xff\xfe \xed\xa0\x80"] * N_ITEMS).cast(pa.string(), safe=False)
    other = neighbour_sheet(ITEMS, None, {"text": random_vectors(1)})
    assert neighbour_sheet(item_table(titles), None, {"text": random_vectors(1)}) != other


def test_control_characters_leave_no_trace() -> None:
    plain = item_table(pa.array(["two words"] * N_ITEMS))
    dirty = item_table(pa.array(["\x1btwo\n\u202ewo\u00adrds\x00"] * N_ITEMS))
    table = {"text": random_vectors(1)}
    assert neighbour_sheet(dirty, None, table) == neighbour_sheet(plain, None, table)


def test_a_sheet_without_images_has_no_tiles(tmp_path: Path) -> None:
    tables = {"text": random_vectors(1)}
    without = neighbour_sheet(ITEMS, None, tables)
    empty = neighbour_sheet(ITEMS, index_images(tmp_path), tables)
    heights = []
    for sheet in (without, empty):
        with Image.open(io.BytesIO(sheet.full)) as image:
            heights.append(image.height)
    assert heights[0] < 0.7 * heights[1]
    assert count_pixels(without.full, GREY) < count_pixels(empty.full, GREY) / 10


def test_both_pictures_stay_below_their_size_limits_with_covers_of_noise(tmp_path: Path) -> None:
    for item in IDS:
        noise = np.random.default_rng(item).integers(0, 256, (150, 150, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{item}.jpg", quality=95)
    images = index_images(tmp_path)
    tables = {kind: random_vectors(seed) for seed, kind in enumerate(("image", "text", "fused"))}
    sheet = neighbour_sheet(ITEMS, images, tables)
    assert len(sheet.full) <= 2_000_000
    assert len(sheet.small) <= 50_000
    with Image.open(io.BytesIO(sheet.small)) as image:
        assert image.format == "PNG"
        assert image.width >= 350


def test_without_any_vectors_the_sheet_says_so() -> None:
    masked = vector_table(np.zeros((N_ITEMS, 4)), present=np.zeros(N_ITEMS, bool))
    sheet = neighbour_sheet(ITEMS, None, {"fused": masked})
    with Image.open(io.BytesIO(sheet.small)) as image:
        assert np.asarray(image.convert("L")).min() < 160
    empty = item_table(pa.array([], pa.string()), IDS[:0])
    assert neighbour_sheet(empty, None, {}).full == sheet.full
