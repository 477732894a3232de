"""One number scales a sample dataset, and impossible sizes are refused."""

import pytest

from mmctr_pipeline.sample.config import FULL_SCALE, SampleConfig
from mmctr_pipeline.settings import SettingsError


def test_scale_one_is_the_default() -> None:
    assert SampleConfig.scaled(1) == SampleConfig()
    assert SampleConfig().n_items == 1_500
    assert SampleConfig().n_users == 6_000
    assert SampleConfig().n_train_rows == 40_000
    assert SampleConfig().n_valid_rows >= 5_000


def test_the_full_size_matches_microlens() -> None:
    full = SampleConfig.full_size()
    assert (full.n_items, full.n_users, full.n_train_rows) == (91_717, 1_000_000, 3_600_000)
    assert (full.n_valid_rows, full.n_test_rows, full.images) == (10_000, 379_142, False)
    assert SampleConfig.full_size(images=True).images
    assert SampleConfig.scaled(FULL_SCALE, images=False) == full


@pytest.mark.parametrize(("small", "large"), [(0.1, 0.5), (0.5, 1), (1, 7.5), (7.5, 90)])
def test_every_size_grows_with_the_scale(small: float, large: float) -> None:
    smaller, larger = SampleConfig.scaled(small), SampleConfig.scaled(large)
    for name in ("n_items", "n_users", "n_train_rows", "n_valid_rows", "n_test_rows"):
        assert getattr(smaller, name) < getattr(larger, name), name


@pytest.mark.parametrize("scale", [0, -1, 90.1, float("nan")])
def test_an_invalid_scale_is_refused(scale: float) -> None:
    with pytest.raises(SettingsError, match="scale"):
        SampleConfig.scaled(scale)


def test_explicit_settings_override_those_of_the_scale() -> None:
    config = SampleConfig.scaled(0.1, seed=3, n_items=200)
    assert (config.seed, config.n_items, config.n_train_rows) == (3, 200, 4_000)


def test_the_key_names_seed_and_size_and_differs_between_settings() -> None:
    assert "seed7" in SampleConfig().key
    assert "1500x6000x40000" in SampleConfig().key
    configs = [
        SampleConfig(),
        SampleConfig(seed=8),
        SampleConfig(images=False),
        SampleConfig(n_valid_rows=9_000),
        SampleConfig(style_effect=1.0),
        SampleConfig.scaled(0.5),
        SampleConfig(days=3),
        SampleConfig(days=4),
        SampleConfig(days=4, drift=0.1),
    ]
    assert len({config.key for config in configs}) == len(configs)
    assert SampleConfig().key == SampleConfig().key
    # Folders that were generated before there were days are used again.
    assert SampleConfig(n_valid_rows=9_000).key == "seed7-1500x6000x40000-v2-ee61ebcf"
    assert SampleConfig(drift=0.1).key == SampleConfig().key


def test_missing_and_corrupt_shares_that_sum_to_more_than_one_are_refused() -> None:
    with pytest.raises(SettingsError, match="corrupt_image_share"):
        SampleConfig(missing_image_share=0.6, corrupt_image_share=0.6)
