"""Vectors of implausible norm are found and masked: set to zero and marked as not present."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.items import read_given_vectors
from mmctr_pipeline.data.outliers import find_outliers, without_outliers
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.vector_tables import given_table
from mmctr_pipeline_tests.data import small_data

N_ITEMS, DIM = 9000, 16
RANDOM = np.random.default_rng(0)
WILD = [1e6, 1e19, 3e38]


def table(norms: np.ndarray, dim: int = DIM) -> VectorTable:
    directions = np.random.default_rng(1).standard_normal((len(norms), dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = (directions * norms[:, np.newaxis]).astype(np.float32)
    ids = np.arange(1, len(norms) + 1, dtype=np.int32)
    return VectorTable(ids, vectors, vectors.any(axis=1), "test")


ORDINARY = {
    "unit": np.ones(N_ITEMS),
    "unit up to rounding": 1 + 1e-7 * RANDOM.standard_normal(N_ITEMS),
    "clip": 14 + RANDOM.standard_normal(N_ITEMS),
    "two kinds": np.where(RANDOM.random(N_ITEMS) < 0.5, 1.0, 14.0),
    "a tenth much shorter": np.where(RANDOM.random(N_ITEMS) < 0.1, 0.7, 14.0),
    "log-normal": np.exp(RANDOM.standard_normal(N_ITEMS)),
    "wide log-normal": np.exp(2 * RANDOM.standard_normal(N_ITEMS)),
    "power law": 1 + RANDOM.pareto(3.0, N_ITEMS),
    "student t": np.abs(RANDOM.standard_t(5, N_ITEMS)) + 1,
    "some missing": np.where(RANDOM.random(N_ITEMS) < 0.4, 0.0, 14.0),
    "one vector": np.ones(1),
    "only zeros": np.zeros(3),
}


@pytest.mark.parametrize("norms", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_norms_have_no_outliers(norms: np.ndarray) -> None:
    ordinary = table(norms)
    assert not len(find_outliers(ordinary).rows)
    masked = without_outliers(ordinary, "encoder")
    assert masked.vectors is ordinary.vectors
    assert masked.present is ordinary.present
    assert masked.provenance["counts"]["outliers"] == 0


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("wild", [*WILD, 1e-6, 1e-30])
@pytest.mark.parametrize("norm", [1.0, 14.0])
def test_exactly_the_implausible_norms_are_found(norm: float, wild: float, share: float) -> None:
    norms = norm * (1 + 0.1 * np.random.default_rng(2).standard_normal(N_ITEMS))
    rows = np.array([*range(int(N_ITEMS * share)), N_ITEMS - 1])
    norms[rows] = wild
    outliers = find_outliers(table(norms))
    assert outliers.rows.tolist() == rows.tolist()
    np.testing.assert_allclose(outliers.norms, wild, rtol=1e-4)
    assert outliers.median == pytest.approx(norm, rel=0.05 + 0.2 * share)


def test_a_vector_whose_norm_overflows_float32_is_found() -> None:
    wild = table(np.ones(100), dim=1024)
    wild.vectors[7] = 3e38
    assert np.isinf(np.linalg.norm(wild.vectors[7]))
    assert find_outliers(wild).rows.tolist() == [7]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_nan_infinity_and_zeros_do_not_count_as_outliers(value: float) -> None:
    faulty = table(np.ones(100))
    faulty.vectors[3] = value
    assert not len(find_outliers(faulty).rows)


def test_outliers_are_masked_named_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    norms = np.full(400, 14.0)
    norms[[4, 9, 10, 11, 12, 13]] = 1e6
    wild = table(norms).recording(counts={"items": 400})
    masked = without_outliers(wild, "column emb")
    assert np.flatnonzero(~masked.present).tolist() == [4, 9, 10, 11, 12, 13]
    assert not masked.vectors[~masked.present].any()
    np.testing.assert_array_equal(masked.vectors[masked.present], wild.vectors[masked.present])
    assert masked.provenance["counts"] == {"items": 400, "outliers": 6}
    named = masked.provenance["outliers"]
    assert [outlier["item_id"] for outlier in named] == [5, 10, 11, 12, 13]
    assert named[0]["norm"] == pytest.approx(1e6)
    assert named[0]["median_norm"] == pytest.approx(14)
    (line,) = caplog.messages
    assert line.startswith("6 of 400 vectors of column emb are masked")
    assert "median norm 14: item 5 (1e+06), item 10 (1e+06)" in line
    # The original table is unchanged, and a second pass changes nothing.
    assert wild.present.all()
    again = without_outliers(masked, "column emb")
    assert again.provenance == masked.provenance
    assert again.content_hash() == masked.content_hash()


def test_an_implausible_given_vector_is_masked(tmp_path: Path) -> None:
    emb = [[float(i), 1.0] for i in range(1, 9)] + [[3e38, 3e38]]
    columns = {**small_data.item_feature(), "emb": pa.array(emb, pa.list_(pa.float64()))}
    layout = find_data(small_data.write_data(tmp_path, item_feature=columns))
    given = read_given_vectors(layout, "emb")
    masked = given_table(given.item_id, given, "emb")
    assert masked.present.tolist() == [True] * 8 + [False]
    assert masked.provenance["counts"]["outliers"] == 1


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("value", [1e39, -1e300, np.inf, np.nan])
def test_values_that_are_not_finite_in_float32_are_refused_by_row(
    tmp_path: Path, value: float
) -> None:
    emb = [[float(i), 1.0] for i in range(1, 9)] + [[1.0, value]]
    columns = {**small_data.item_feature(), "emb": pa.array(emb, pa.list_(pa.float64()))}
    layout = find_data(small_data.write_data(tmp_path, item_feature=columns))
    with pytest.raises(DataError, match=r"item_feature\.parquet.*emb.*the value") as error:
        read_given_vectors(layout, "emb")
    assert error.value.row == 8
