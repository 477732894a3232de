import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.discovery import ImageIndex
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.reporting.neighbours import find_neighbours, neighbour_sheet

N_ITEMS = 40
IDS = np.arange(10, 10 + 3 * N_ITEMS, 3, dtype=np.int32)
RED, GREEN, BLUE, GREY = (220, 20, 20), (20, 160, 20), (20, 20, 220), (224, 224, 224)


def items_with(titles: pa.Array, item_id: np.ndarray = IDS) -> ItemTable:
    n_items = len(item_id)
    return ItemTable(
        item_id=item_id,
        title=titles,
        tags=Ragged(np.zeros(0, np.int32), np.zeros(n_items + 1, np.int64)),
        likes_level=np.zeros(n_items, np.int8),
        views_level=np.zeros(n_items, np.int8),
    )


ITEMS = items_with(pa.array([f"video {item}" for item in IDS]))


def table_of(
    vectors: np.ndarray, item_id: np.ndarray = IDS, present: np.ndarray | None = None
) -> VectorTable:
    present = np.ones(len(item_id), bool) if present is None else present
    return VectorTable(item_id, np.asarray(vectors, np.float32), present, "a test")


def random_table(seed: int, dim: int = 8, item_id: np.ndarray = IDS) -> VectorTable:
    return table_of(np.random.default_rng(seed).normal(size=(len(item_id), dim)), item_id)


def plain_neighbours(table: VectorTable, query: int, among: np.ndarray, most: int) -> list:
    """Return (id, cosine) of the nearest, one pair at a time."""
    vectors = dict(zip(table.item_id.tolist(), table.vectors.astype(float), strict=True))
    found = []
    for item, present in zip(table.item_id.tolist(), table.present, strict=True):
        length = np.sqrt(sum(value**2 for value in vectors[item]))
        if present and length > 0 and item != query and item in among.tolist():
            dot = sum(a * b for a, b in zip(vectors[item], vectors[query], strict=True))
            found.append((item, dot / length / np.sqrt(sum(v**2 for v in vectors[query]))))
    return sorted(found, key=lambda pair: -pair[1])[:most]


def test_neighbours_are_those_of_a_plain_search() -> None:
    # Each table has its own ids: some unknown items, some items missing, the padding row 0.
    ids = np.unique(np.concatenate([[0], IDS[5:], np.arange(500, 520)])).astype(np.int32)
    image, text = random_table(1, 6, ids), random_table(2, 9)
    image.vectors[8] = 0
    image.present[9] = False
    found = find_neighbours(IDS, None, {"image": image, "text": text}, 4, 7)
    assert len(set(found.query.tolist())) == 4
    for number, query in enumerate(found.query.tolist()):
        for kind, table in (("image", image), ("text", text)):
            expected = plain_neighbours(table, query, IDS, 7)
            assert found.item_id[kind][number].tolist() == [item for item, _ in expected]
            assert found.similarity[kind][number] == pytest.approx([c for _, c in expected], 1e-5)


def test_equal_vectors_are_neighbours_of_similarity_one_and_no_item_its_own() -> None:
    table = table_of(np.repeat(np.eye(N_ITEMS // 2), 2, axis=0) * 7)
    found = find_neighbours(IDS, None, {"text": table}, 6, 2)
    for query, nearest in zip(found.query, found.item_id["text"][:, 0], strict=True):
        position, twin = np.searchsorted(IDS, [query, nearest])
        assert twin == position ^ 1
    assert found.similarity["text"][:, 0] == pytest.approx(1)


def test_bad_and_masked_vectors_are_nobodys_neighbours() -> None:
    table = random_table(3)
    table.vectors[:, 0] += 10
    table.vectors[0, 1], table.vectors[1, 1], table.vectors[2] = np.nan, np.inf, 0
    table.present[3] = False
    found = find_neighbours(IDS, None, {"text": table}, 3, N_ITEMS)
    shown = found.item_id["text"]
    assert not np.isin(IDS[:4], shown).any()
    assert not np.isin(IDS[:4], found.query).any()
    assert ((shown > 0).sum(axis=1) == N_ITEMS - 5).all()


def test_a_wholly_masked_table_is_left_out() -> None:
    masked = table_of(np.zeros((N_ITEMS, 4)), present=np.zeros(N_ITEMS, bool))
    found = find_neighbours(IDS, None, {"image": masked, "text": random_table(1)}, 3, 2)
    assert list(found.item_id) == ["text"]


def test_queries_have_every_modality_where_some_items_do() -> None:
    rare = np.isin(np.arange(N_ITEMS), (3, 17, 30))
    tables = {"image": table_of(random_table(1).vectors, present=rare), "text": random_table(2)}
    found = find_neighbours(IDS, None, tables, 6, 2)
    assert sorted(found.query.tolist()) == IDS[rare].tolist()


def test_a_query_without_a_vector_has_no_neighbours_of_that_kind() -> None:
    first = np.arange(N_ITEMS) < N_ITEMS // 2
    tables = {
        "image": table_of(random_table(1).vectors, present=first),
        "text": table_of(random_table(2).vectors, present=~first),
    }
    found = find_neighbours(IDS, None, tables, 12, 2)
    has_image = np.isin(found.query, IDS[first])
    assert ((found.item_id["image"] > 0).all(axis=1) == has_image).all()
    assert ((found.item_id["text"] > 0).all(axis=1) == ~has_image).all()
    assert (found.item_id["image"][~has_image] == 0).all()


def test_queries_do_not_crowd_in_a_dense_corner() -> None:
    vectors = np.zeros((N_ITEMS, 6))
    vectors[:, 0] = 1
    vectors[:, 5] = np.linspace(0, 1e-3, N_ITEMS)
    vectors[[4, 11, 20, 39]] = np.eye(6)[1:5]
    for seed in range(5):
        query = find_neighbours(IDS, None, {"text": table_of(vectors)}, 5, 1, seed).query
        assert np.isin(IDS[[4, 11, 20, 39]], query).all(), seed


def test_the_seed_decides_and_the_first_queries_do_not_depend_on_their_number() -> None:
    tables = {"text": random_table(1)}
    queries = [find_neighbours(IDS, None, tables, 5, 1, seed).query.tolist() for seed in (0, 0, 1)]
    assert queries[0] == queries[1] != queries[2]
    assert find_neighbours(IDS, None, tables, 2, 1, 0).query.tolist() == queries[0][:2]


def test_items_with_a_cover_are_preferred_as_queries(tmp_path: Path) -> None:
    covered = IDS[[2, 19, 33]]
    for item in covered:
        Image.new("RGB", (9, 9)).save(tmp_path / f"{item}.jpg")
    images = ImageIndex(tmp_path, "{item_id}.jpg", 3)
    found = find_neighbours(IDS, images, {"text": random_table(1)}, 6, 1)
    assert sorted(found.query.tolist()) == covered.tolist()


def count(content: bytes, colour: tuple[int, int, int]) -> int:
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(axis=2) < 8).sum())


def test_covers_and_titles_are_those_of_the_items_shown(tmp_path: Path) -> None:
    ids = np.array([3, 5, 90], np.int32)
    for item, colour in zip(ids, (RED, GREEN, BLUE), strict=True):
        Image.new("RGB", (400, 400), colour).save(tmp_path / f"{item}.jpg", quality=95)
    images = ImageIndex(tmp_path, "{item_id}.jpg", 3)
    tables = {"image": table_of([[0, 1], [1, 0], [1, 0.1]], ids)}

    def full(titles: list[str]) -> bytes:
        sheet = neighbour_sheet(
            items_with(pa.array(titles), ids),
            images,
            tables,
            n_queries=1,
            n_neighbours=1,
            seed=seed,
        )
        return sheet.full

    # A seed whose query is one of the last two, which are each other's neighbours.
    seed = next(
        seed
        for seed in range(50)
        if find_neighbours(ids, images, tables, 1, 1, seed).query.tolist() in ([5], [90])
    )
    content = full(["a", "b", "c"])
    assert (count(content, GREEN), count(content, BLUE)) == (96 * 96, 96 * 96)
    assert count(content, RED) == 0
    assert content == full(["not shown", "b", "c"])
    assert content != full(["a", "b", "other"])


def test_covers_stand_upright(tmp_path: Path) -> None:
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, :60], pixels[:, 60:] = RED, BLUE
    exif = Image.Exif()
    exif[0x0112] = 6
    for item in IDS[:2]:
        Image.fromarray(pixels).save(tmp_path / f"{item}.jpg", quality=95, exif=exif, subsampling=0)
    images = ImageIndex(tmp_path, "{item_id}.jpg", 2)
    table = random_table(1, item_id=IDS[:2])
    items = items_with(pa.array(["a", "b"]), IDS[:2])
    sheet = neighbour_sheet(items, images, {"image": table}, n_queries=1)
    with Image.open(io.BytesIO(sheet.full)) as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    red, blue = (np.argwhere(np.abs(drawn - each).max(axis=2) < 30) for each in (RED, BLUE))
    # Turned clockwise by the camera's note: the left half comes to the top.
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
    # Of names[5] there is no file at all.
    images = ImageIndex(tmp_path, "{item_id}.jpg", 5)
    items = items_with(pa.array(["title"] * 6), IDS[:6])
    table = random_table(1, item_id=IDS[:6])
    sheet = neighbour_sheet(items, images, {"image": table}, n_queries=1, n_neighbours=5)
    tile = 96 * 96
    assert count(sheet.full, RED) == tile
    # Each of the five says "no cover" within its tile.
    assert 4.4 * tile < count(sheet.full, GREY) < 5.1 * tile


AWKWARD = [
    "",
    None,
    " \t\n",
    "line one\nline two\rline three\x00\x07\x1b[31m",
    "短视频标题很长很长" * 60,
    "家族👨‍👩‍👧 ❤️ 🇨🇳 مرحبا שלום नमस्ते",
    "word" * 5000,
    "\u202eright to left override \ufffe \U0010ffff",
]


def test_awkward_titles_are_drawn() -> None:
    titles = pa.array(AWKWARD * 5)
    sheet = neighbour_sheet(items_with(titles), None, {"text": random_table(1)})
    assert len(sheet.small) <= 50_000
    assert count(sheet.full, (255, 255, 255)) > 1000


def test_titles_that_are_not_utf8_are_drawn() -> None:
    titles = pa.array([b"caf\xe9 \xff\xfe \xed\xa0\x80"] * N_ITEMS).cast(pa.string(), safe=False)
    other = neighbour_sheet(ITEMS, None, {"text": random_table(1)})
    assert neighbour_sheet(items_with(titles), None, {"text": random_table(1)}) != other


def test_control_characters_leave_no_trace() -> None:
    plain = items_with(pa.array(["two words"] * N_ITEMS))
    dirty = items_with(pa.array(["\x1btwo\n\u202ewo\u00adrds\x00"] * N_ITEMS))
    table = {"text": random_table(1)}
    assert neighbour_sheet(dirty, None, table) == neighbour_sheet(plain, None, table)


def test_without_images_there_are_no_tiles(tmp_path: Path) -> None:
    tables = {"text": random_table(1)}
    without = neighbour_sheet(ITEMS, None, tables)
    empty = neighbour_sheet(ITEMS, ImageIndex(tmp_path, "{item_id}.jpg", 0), tables)
    heights = []
    for sheet in (without, empty):
        with Image.open(io.BytesIO(sheet.full)) as image:
            heights.append(image.height)
    assert heights[0] < 0.7 * heights[1]
    assert count(without.full, GREY) < count(empty.full, GREY) / 10


def test_both_pictures_keep_their_size_with_covers_of_noise(tmp_path: Path) -> None:
    for item in IDS:
        noise = np.random.default_rng(item).integers(0, 256, (150, 150, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{item}.jpg", quality=95)
    images = ImageIndex(tmp_path, "{item_id}.jpg", N_ITEMS)
    tables = {kind: random_table(seed) for seed, kind in enumerate(("image", "text", "fused"))}
    sheet = neighbour_sheet(ITEMS, images, tables)
    assert len(sheet.full) <= 2_000_000
    assert len(sheet.small) <= 50_000
    with Image.open(io.BytesIO(sheet.small)) as image:
        assert image.format == "PNG"
        assert image.width >= 350


def test_no_vectors_at_all_make_a_picture_that_says_so() -> None:
    masked = table_of(np.zeros((N_ITEMS, 4)), present=np.zeros(N_ITEMS, bool))
    sheet = neighbour_sheet(ITEMS, None, {"fused": masked})
    with Image.open(io.BytesIO(sheet.small)) as image:
        assert np.asarray(image.convert("L")).min() < 160
    empty = items_with(pa.array([], pa.string()), IDS[:0])
    assert neighbour_sheet(empty, None, {}).full == sheet.full
