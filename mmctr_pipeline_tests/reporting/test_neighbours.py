"""Queries are spread over the items, and their neighbours equal those of a plain search."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmctr_pipeline.data.images import index_images
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.reporting.neighbours import find_neighbours
from mmctr_pipeline_tests.reporting.item_tables import IDS, N_ITEMS, random_vectors, vector_table


def plain_neighbours(
    table: VectorTable, query: int, among: np.ndarray, most: int
) -> list[tuple[int, float]]:
    """Return id and cosine of the nearest items, computed one pair at a time."""
    vectors = dict(zip(table.item_id.tolist(), table.vectors.astype(float), strict=True))
    found = []
    for item, present in zip(table.item_id.tolist(), table.present, strict=True):
        length = np.sqrt(sum(value**2 for value in vectors[item]))
        if present and length > 0 and item != query and item in among.tolist():
            dot = sum(a * b for a, b in zip(vectors[item], vectors[query], strict=True))
            found.append((item, dot / length / np.sqrt(sum(v**2 for v in vectors[query]))))
    return sorted(found, key=lambda pair: -pair[1])[:most]


def test_neighbours_equal_those_of_a_plain_search() -> None:
    # The image table lacks some items, and has unknown ids and the padding row 0.
    ids = np.unique(np.concatenate([[0], IDS[5:], np.arange(500, 520)])).astype(np.int32)
    image, text = random_vectors(1, 6, ids), random_vectors(2, 9)
    image.vectors[8] = 0
    image.present[9] = False
    found = find_neighbours(IDS, None, {"image": image, "text": text}, 4, 7)
    assert len(set(found.query.tolist())) == 4
    for number, query in enumerate(found.query.tolist()):
        for kind, table in (("image", image), ("text", text)):
            expected = plain_neighbours(table, query, IDS, 7)
            assert found.item_id[kind][number].tolist() == [item for item, _ in expected]
            assert found.similarity[kind][number] == pytest.approx([c for _, c in expected], 1e-5)


def test_equal_vectors_have_similarity_one_and_no_item_is_its_own_neighbour() -> None:
    table = vector_table(np.repeat(np.eye(N_ITEMS // 2), 2, axis=0) * 7)
    found = find_neighbours(IDS, None, {"text": table}, 6, 2)
    for query, nearest in zip(found.query, found.item_id["text"][:, 0], strict=True):
        position, twin = np.searchsorted(IDS, [query, nearest])
        assert twin == position ^ 1
    assert found.similarity["text"][:, 0] == pytest.approx(1)


def test_string_ids_have_the_same_neighbours() -> None:
    table = random_vectors(5)
    table.vectors[1:] *= np.arange(N_ITEMS - 1)[:, None] != 3
    names = np.array([f"v{item:04d}" for item in IDS])
    renamed = dataclasses.replace(table, item_id=names)
    expected = find_neighbours(IDS, None, {"text": table}, 3, N_ITEMS)
    found = find_neighbours(names, None, {"text": renamed}, 3, N_ITEMS)
    assert found.query.tolist() == [f"v{item:04d}" for item in expected.query]
    nearest = expected.item_id["text"]
    assert (nearest == 0).any()
    assert found.item_id["text"].tolist() == [
        [f"v{item:04d}" if item else "" for item in row] for row in nearest.tolist()
    ]


def test_vectors_that_are_bad_or_not_present_are_ignored() -> None:
    table = random_vectors(3)
    table.vectors[:, 0] += 10
    table.vectors[0, 1], table.vectors[1, 1], table.vectors[2] = np.nan, np.inf, 0
    table.present[3] = False
    found = find_neighbours(IDS, None, {"text": table}, 3, N_ITEMS)
    shown = found.item_id["text"]
    assert not np.isin(IDS[:4], shown).any()
    assert not np.isin(IDS[:4], found.query).any()
    assert ((shown > 0).sum(axis=1) == N_ITEMS - 5).all()


def test_a_table_without_present_vectors_is_left_out() -> None:
    masked = vector_table(np.zeros((N_ITEMS, 4)), present=np.zeros(N_ITEMS, bool))
    found = find_neighbours(IDS, None, {"image": masked, "text": random_vectors(1)}, 3, 2)
    assert list(found.item_id) == ["text"]


def test_queries_are_items_with_every_modality_if_there_are_any() -> None:
    rare = np.isin(np.arange(N_ITEMS), (3, 17, 30))
    tables = {
        "image": vector_table(random_vectors(1).vectors, present=rare),
        "text": random_vectors(2),
    }
    found = find_neighbours(IDS, None, tables, 6, 2)
    assert sorted(found.query.tolist()) == IDS[rare].tolist()


def test_a_query_without_a_vector_of_a_kind_has_no_neighbours_of_that_kind() -> None:
    first = np.arange(N_ITEMS) < N_ITEMS // 2
    tables = {
        "image": vector_table(random_vectors(1).vectors, present=first),
        "text": vector_table(random_vectors(2).vectors, present=~first),
    }
    found = find_neighbours(IDS, None, tables, 12, 2)
    has_image = np.isin(found.query, IDS[first])
    assert ((found.item_id["image"] > 0).all(axis=1) == has_image).all()
    assert ((found.item_id["text"] > 0).all(axis=1) == ~has_image).all()
    assert (found.item_id["image"][~has_image] == 0).all()


def test_queries_do_not_cluster_in_a_dense_region() -> None:
    vectors = np.zeros((N_ITEMS, 6))
    vectors[:, 0] = 1
    vectors[:, 5] = np.linspace(0, 1e-3, N_ITEMS)
    vectors[[4, 11, 20, 39]] = np.eye(6)[1:5]
    for seed in range(5):
        query = find_neighbours(IDS, None, {"text": vector_table(vectors)}, 5, 1, seed).query
        assert np.isin(IDS[[4, 11, 20, 39]], query).all(), seed


def test_queries_depend_on_the_seed_and_asking_for_fewer_gives_the_first_ones() -> None:
    tables = {"text": random_vectors(1)}
    queries = [find_neighbours(IDS, None, tables, 5, 1, seed).query.tolist() for seed in (0, 0, 1)]
    assert queries[0] == queries[1] != queries[2]
    assert find_neighbours(IDS, None, tables, 2, 1, 0).query.tolist() == queries[0][:2]


def test_items_with_a_cover_are_preferred_as_queries(tmp_path: Path) -> None:
    covered = IDS[[2, 19, 33]]
    for item in covered:
        Image.new("RGB", (9, 9)).save(tmp_path / f"{item}.jpg")
    images = index_images(tmp_path)
    found = find_neighbours(IDS, images, {"text": random_vectors(1)}, 6, 1)
    assert sorted(found.query.tolist()) == covered.tolist()
