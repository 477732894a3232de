"""Ids with gaps and string ids give the same model and submission as ids 1, 2, 3, ..."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmctr_pipeline import pipeline
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import DataLayout, find_data
from mmctr_pipeline.data.items import read_given_vectors
from mmctr_pipeline.data.model_rows import OtherIdsError
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.encoders.vector_tables import given_table
from mmctr_pipeline.fusion.config import AttentionConfig, FusionConfig
from mmctr_pipeline.fusion.item_info import write_item_info
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample
from mmctr_pipeline.submission.files import submission_frame, write_submission
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr
from mmctr_pipeline_tests.data.renamed import Rename, renamed, sparse, strings, unchanged
from mmctr_pipeline_tests.registry.model_files import small_model_file
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL

CPU = torch.device("cpu")
TRAINING = TrainingConfig(max_epochs=1, batch_size=512, precision="float32")
PCA = FusionConfig(dim=16)
ATTENTION = FusionConfig(
    method="attention", dim=8, attention=AttentionConfig(max_epochs=1, rows_per_epoch=200)
)


@dataclasses.dataclass(frozen=True)
class Run:
    """The artefacts of a data set, up to its submission."""

    layout: DataLayout
    dataset: CtrDataset
    vectors: ItemVectors
    trained: TrainedCtr
    file: ModelFile
    submission: bytes
    item_info: Path

    def scores(self, other: "Run") -> np.ndarray:
        """Score the test rows of another run with this run's model."""
        vectors = dataclasses.replace(other.vectors.fused, identity=self.vectors.fused.identity)
        return pipeline.score(
            self.file, other.dataset, other.dataset.test, ItemVectors(vectors), CPU
        )


def run_pipeline(layout: DataLayout, folder: Path, fusion: FusionConfig, model: ModelConfig) -> Run:
    folder.mkdir()
    written = folder / "dataset"
    written.mkdir()
    pipeline.load_dataset(layout).write(written)
    dataset = CtrDataset.read(written)
    text, image = (
        given_table(dataset.items.ids, read_given_vectors(layout, column), column)
        for column in ("txt_emb_BERT", "img_emb_CLIPRN50")
    )
    transforms = folder / "transforms"
    fused = pipeline.fuse(layout, dataset.items, text, image, fusion, transforms, CPU).vectors
    vectors = ItemVectors(fused, text, image)
    trained = pipeline.train(dataset, vectors, model, TRAINING, CPU)
    small_model_file(trained, ItemVectors(fused)).save(folder / "model.pt")
    file = ModelFile.load(folder / "model.pt")
    item_info = folder / "item_info.parquet"
    write_item_info(item_info, fused, dataset.items, layout.item_info)
    result = Run(layout, dataset, vectors, trained, file, b"", item_info)
    assert dataset.test.row_id is not None
    frame = submission_frame(dataset.test.row_id, result.scores(result))
    write_submission(frame, folder / "submission.csv", folder / "prediction.zip")
    return dataclasses.replace(result, submission=(folder / "submission.csv").read_bytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generate_sample(SampleConfig.scaled(0.1, images=False), folder)
    return folder


@pytest.fixture(scope="module")
def dense(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("dense")
    layout = renamed(data, folder / "data", unchanged, unchanged)
    return run_pipeline(layout, folder / "run", PCA, SMALL_MODEL)


@pytest.fixture(scope="module", params=[sparse, strings], ids=lambda rename: rename.__name__)
def renamed_run(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Rename]:
    folder = tmp_path_factory.mktemp("renamed")
    layout = renamed(data, folder / "data", request.param, request.param)
    return run_pipeline(layout, folder / "run", PCA, SMALL_MODEL), request.param


def same_weights(one: TrainedCtr, other: TrainedCtr) -> bool:
    a, b = one.module.state_dict(), other.module.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_renamed_ids_change_neither_weights_nor_submission(
    dense: Run, renamed_run: tuple[Run, Rename]
) -> None:
    run, _ = renamed_run
    assert dense.dataset.id_maps == {}
    assert list(run.dataset.id_maps) == ["item_id", "user_id"]
    assert same_weights(run.trained, dense.trained)
    assert run.submission == dense.submission


def test_results_have_the_ids_of_the_data(dense: Run, renamed_run: tuple[Run, Rename]) -> None:
    run, rename = renamed_run
    ids = rename(dense.dataset.items.ids).to_pylist()
    assert run.dataset.items.ids.tolist() == ids
    assert run.vectors.fused.item_id.tolist() == ["" if isinstance(ids[0], str) else 0, *ids]
    assert run.dataset.users is not None
    rows = run.dataset.users.ids[run.dataset.test.user_id - 1]
    assert rows.tolist() == pq.read_table(run.layout.test)["user_id"].to_pylist()
    table, expected = pq.read_table(run.item_info), pq.read_table(dense.item_info)
    assert table["item_id"].to_pylist() == run.vectors.fused.item_id.tolist()
    for column in ("item_tags", "item_emb_d128"):
        assert table[column].to_pylist() == expected[column].to_pylist()


def _learned(run: Run, folder: Path) -> np.ndarray:
    """Return the vectors of a fusion that is learned from the histories of a run."""
    text, image = run.vectors.text, run.vectors.image
    assert text is not None
    assert image is not None
    fusion = pipeline.fuse(run.layout, run.dataset.items, text, image, ATTENTION, folder, CPU)
    return fusion.vectors.vectors


@pytest.fixture(scope="module")
def learned_from_dense_ids(dense: Run, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return _learned(dense, tmp_path_factory.mktemp("dense"))


def test_renamed_ids_do_not_change_the_fusion_learned_from_histories(
    learned_from_dense_ids: np.ndarray, renamed_run: tuple[Run, Rename], tmp_path: Path
) -> None:
    np.testing.assert_array_equal(_learned(renamed_run[0], tmp_path), learned_from_dense_ids)


def test_a_description_of_the_model_file_has_no_ids(renamed_run: tuple[Run, Rename]) -> None:
    assert "id_maps" not in json.loads(json.dumps(renamed_run[0].file.description()))


def test_scores_stay_the_same_when_the_data_gain_ids(
    renamed_run: tuple[Run, Rename], tmp_path: Path
) -> None:
    run, rename = renamed_run
    dataset = pipeline.load_dataset(_with_a_first_user_and_item(run.layout, tmp_path, rename))
    rows = dataset.items.id_map.look_up(run.dataset.items.ids)
    assert rows.tolist() == (run.dataset.items.item_id + 1).tolist()
    later = run.scores(dataclasses.replace(run, dataset=dataset))
    assert len(later) == len(run.dataset.test) + 1
    np.testing.assert_allclose(later[:-1], run.scores(run), rtol=0, atol=1e-6)
    # The model knows neither user nor item of the new row, and must not use weights of other ids.
    assert later[-1] not in later[:-1]


def _with_a_first_user_and_item(layout: DataLayout, target: Path, rename: Rename) -> DataLayout:
    """Copy a data set, and add an item and a test row in which a new user meets this item.

    The ids of the new item and the new user come before all others.
    """
    new = " a" if rename is strings else 5
    for path in (layout.train, layout.valid, layout.test, layout.item_feature):
        table = pq.read_table(path)
        row = table.slice(0, 1).to_pylist()[0] | {"item_id": new}
        if path == layout.test:
            row |= {"user_id": new, "ID": 10**9}
        if path in (layout.test, layout.item_feature):
            table = pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)])
        pq.write_table(table, target / path.name)
    return find_data(target)


def test_damaged_ids_in_a_model_file_are_refused(dense: Run) -> None:
    damaged = {"item_id": {"integers": torch.tensor([3, 1])}}
    file = dataclasses.replace(dense.file, id_maps=damaged)
    with pytest.raises(ModelFileError, match="the model's ids of item_id are damaged"):
        dataclasses.replace(dense, file=file).scores(dense)


def test_models_refuse_ids_of_the_other_type(dense: Run, renamed_run: tuple[Run, Rename]) -> None:
    run, rename = renamed_run
    if rename is strings:
        with pytest.raises(OtherIdsError, match=r"on integers as item_id, .* has strings"):
            dense.scores(run)
        with pytest.raises(OtherIdsError, match=r"on strings as item_id, .* has integers"):
            run.scores(dense)
