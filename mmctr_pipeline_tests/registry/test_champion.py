"""The record of the champion, roll-backs, and which versions are dropped."""

import dataclasses
import os
from pathlib import Path

import pytest

from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.records import write_record
from mmctr_pipeline.registry.champion import (
    Champion,
    ChampionError,
    drop_versions,
    previous_version,
    succeed,
)
from mmctr_pipeline.registry.versions import newest_first, write_version
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE


def versions(storage: Path, number: int) -> list[str]:
    """Write versions with different contents and return their names, the oldest first."""
    names = []
    for seed in range(number):
        model = dataclasses.replace(MODEL_FILE, preset=f"preset {seed}")
        folder = write_version(storage, model)
        # Versions of one second would sort by their hash.
        name = f"2026010{seed + 1}T000000Z-{folder.name[-8:]}"
        folder.rename(folder.with_name(name))
        names.append(name)
    return names


def promoted(storage: Path, *names: str, best: str | None = None) -> Champion:
    """Promote versions one after the other."""
    for name in names:
        succeed(storage, Champion.read(storage), name, f"reason of {name}", best).write(storage)
    champion = Champion.read(storage)
    assert champion is not None
    return champion


def test_without_a_promotion_there_is_no_champion(tmp_path: Path) -> None:
    versions(tmp_path, 1)
    assert Champion.read(tmp_path) is None
    assert not (tmp_path / "best_model.pt").exists()


def test_the_link_and_the_record_name_the_promoted_version(tmp_path: Path) -> None:
    first, second = versions(tmp_path, 2)
    champion = promoted(tmp_path, second, first)
    assert os.readlink(tmp_path / "best_model.pt") == f"models/{first}/model.pt"
    assert (champion.version, champion.best) == (first, second)
    assert [former["version"] for former in champion.former] == [second]
    again = promoted(tmp_path, first)
    assert again.former == champion.former
    assert champion.load(tmp_path).preset == "preset 0"


def test_a_roll_back_withdraws_the_champion_until_it_is_promoted_by_hand(tmp_path: Path) -> None:
    first, second, third = versions(tmp_path, 3)
    champion = promoted(tmp_path, first, second, third, best=third)
    assert champion.withdrawn == []
    champion = promoted(tmp_path, previous_version(tmp_path, champion))
    assert (champion.version, champion.withdrawn, champion.best) == (second, [third], second)
    # A second roll-back goes further back, not forth.
    champion = promoted(tmp_path, previous_version(tmp_path, champion))
    assert (champion.version, champion.withdrawn) == (first, [third, second])
    with pytest.raises(ChampionError, match="no former champion to roll back to"):
        previous_version(tmp_path, champion)
    champion = promoted(tmp_path, third)
    assert third not in champion.withdrawn


def test_a_record_of_an_earlier_version_has_withdrawn_nothing(tmp_path: Path) -> None:
    (version,) = versions(tmp_path, 1)
    champion = promoted(tmp_path, version)
    content = {k: v for k, v in dataclasses.asdict(champion).items() if k != "withdrawn"}
    write_record(tmp_path / "champion.json", content)
    assert Champion.read(tmp_path) == champion


def test_a_record_decides_although_the_process_died_before_it_changed_the_link(
    tmp_path: Path,
) -> None:
    first, second = versions(tmp_path, 2)
    champion = promoted(tmp_path, first, second)
    link = tmp_path / "best_model.pt"
    link.unlink()
    link.symlink_to(f"models/{first}/model.pt")
    assert champion.load(tmp_path).preset == "preset 1"
    promoted(tmp_path, second)
    assert os.readlink(link) == f"models/{second}/model.pt"


def test_a_missing_version_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (known,) = versions(tmp_path, 1)
    with pytest.raises(ChampionError, match=f"has no version other; it has: {known}"):
        succeed(tmp_path, None, "other", "by hand")


def test_a_model_file_that_changed_since_is_not_promoted(tmp_path: Path) -> None:
    (name,) = versions(tmp_path, 1)
    record = succeed(tmp_path, None, name, "reason")
    dataclasses.replace(MODEL_FILE, preset="other").save(tmp_path / "models" / name / "model.pt")
    with pytest.raises(ChampionError, match="its SHA-256 differs"):
        record.write(tmp_path)
    assert Champion.read(tmp_path) is None


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    promoted(tmp_path, *versions(tmp_path, 1))
    path = tmp_path / "champion.json"
    path.write_text(path.read_text().replace("reason", "season"))
    with pytest.raises(DamagedFileError, match=r"champion\.json"):
        Champion.read(tmp_path)


def test_a_roll_back_goes_to_the_newest_former_champion_that_is_kept(tmp_path: Path) -> None:
    first, second, third = versions(tmp_path, 3)
    champion = promoted(tmp_path, first, second, third)
    assert previous_version(tmp_path, champion) == second
    for file in (tmp_path / "models" / second).iterdir():
        file.unlink()
    assert previous_version(tmp_path, champion) == first
    with pytest.raises(ChampionError, match="no former champion"):
        previous_version(tmp_path, dataclasses.replace(champion, former=[]))


def test_the_champion_and_what_a_roll_back_needs_are_never_dropped(tmp_path: Path) -> None:
    names = versions(tmp_path, 7)
    champion = promoted(tmp_path, names[1], names[2], names[3], names[0])
    champion = dataclasses.replace(champion, best=names[1])
    dropped = drop_versions(tmp_path, champion, keep_models=1, keep_former=1)
    # Kept: the champion 0, the best 1, the former champion 3, and 6, the newest.
    assert dropped == [names[5], names[4], names[2]]
    assert newest_first(tmp_path) == [names[6], names[3], names[1], names[0]]
    assert drop_versions(tmp_path, champion, keep_models=1, keep_former=1) == []
