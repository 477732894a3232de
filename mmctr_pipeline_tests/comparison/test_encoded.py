"""Data encoded by a preset outside Dagster."""

from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.comparison.encoded import encode_world
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.fusion.pca import fit_pca
from mmctr_pipeline.settings import SettingsError


def test_a_world_is_read_encoded_and_fused_as_the_preset_says(
    small_sample: Path, tmp_path: Path
) -> None:
    deployment = Deployment(data_dir=None, storage_dir=tmp_path, preset=None, device="cpu")
    lines: list[str] = []
    world = encode_world(small_sample, "improved_mmctr_given", deployment, lines.append)
    assert world.text.identity.startswith("given:item_feature.txt_emb_BERT")
    assert world.image.identity.startswith("given:item_feature.img_emb_CLIPRN50")
    inputs = world.fused(lines.append)
    expected = fit_pca(world.text, world.image, world.preset.fusion).transform(
        world.text, world.image
    )
    np.testing.assert_array_equal(inputs.vectors.vectors, expected.vectors)
    assert inputs.text is world.text
    # The transform is kept where the assets keep theirs, for the same data.
    again = world.fused(lines.append)
    assert lines[-1].startswith("pca: used again")
    assert again.key == inputs.key
    assert again.vectors.provenance["made_by"]["data"] == str(small_sample.resolve())


def test_an_encoder_that_is_not_to_be_had_is_told_in_one_line(
    small_sample: Path, tmp_path: Path
) -> None:
    deployment = Deployment(data_dir=None, storage_dir=tmp_path, preset=None, device="cpu")
    preset = tmp_path / "absent.yaml"
    preset.write_text("extends: improved_mmctr\nencoders: {text: {model: local-dir:/nowhere}}\n")
    with pytest.raises(SettingsError, match="nowhere"):
        encode_world(small_sample, str(preset), deployment, lambda line: None)
