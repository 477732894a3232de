"""The submission files: format, equal bytes for equal scores, and validation."""

import os
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmctr_pipeline.submission.files import (
    SubmissionError,
    check_submission,
    read_submission,
    submission_frame,
    write_submission,
)

TEST_ID = np.array([10, 3, 7, 22], dtype=np.int64)
SCORES = np.array([0.25, 1e-9, 1.0, 0.1], dtype=np.float32)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "submission.csv", tmp_path / "prediction.zip"


def test_files_have_the_format_of_the_competition(paths: tuple[Path, Path]) -> None:
    write_submission(submission_frame(TEST_ID, SCORES), *paths)
    text = paths[0].read_text()
    assert text.splitlines() == ["ID,Task1&2", "10,0.25", "3,0.000000001", "7,1.0", "22,0.1"]
    with zipfile.ZipFile(paths[1]) as archive:
        assert archive.namelist() == ["prediction.csv"]
        assert archive.read("prediction.csv") == paths[0].read_bytes()
    assert check_submission(*paths, TEST_ID) == []


def test_scores_are_read_back_bit_for_bit(paths: tuple[Path, Path]) -> None:
    random = np.random.default_rng(0)
    scores = np.concatenate(
        [random.random(5000), 10.0 ** -random.uniform(0, 30, 5000), [0.0, 1.0]]
    ).astype(np.float32)
    ids = random.permutation(len(scores)).astype(np.int64)
    write_submission(submission_frame(ids, scores), *paths)
    assert "e" not in paths[0].read_text().split("\n", 1)[1]
    frame = read_submission(paths[0])
    np.testing.assert_array_equal(frame["Task1&2"].to_numpy(), scores)
    np.testing.assert_array_equal(frame["ID"].to_numpy(), ids)


def test_equal_scores_give_equal_bytes(paths: tuple[Path, Path], tmp_path: Path) -> None:
    frame = submission_frame(TEST_ID, SCORES)
    write_submission(frame, *paths)
    first = [path.read_bytes() for path in paths]
    os.utime(paths[0], (0, 0))
    with zipfile.ZipFile(paths[1]) as archive:
        (entry,) = archive.infolist()
    # Neither the clock nor the umask may influence the bytes.
    assert entry.date_time == (1980, 1, 1, 0, 0, 0)
    assert entry.external_attr >> 16 == 0o644
    as_float64 = frame.with_columns(pl.col("Task1&2").cast(pl.Float64))
    write_submission(as_float64, *paths)
    assert [path.read_bytes() for path in paths] == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prediction.zip", "submission.csv"]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.1, np.nan, 0.2, 0.3], "1 values of Task1&2 are not finite; the first is nan, in row 1"),
        ([0.1, 0.2, np.inf, 0.3], "not finite; the first is inf, in row 2"),
        ([0.1, 0.2, 0.3, 1.5], "outside 0..1; the first is 1.5, in row 3"),
        (
            [-0.5, -0.1, 0.3, 0.5],
            "2 values of Task1&2 are outside 0..1; the first is -0.5, in row 0",
        ),
    ],
)
def test_scores_that_are_not_probabilities_are_not_written(
    paths: tuple[Path, Path], scores: list[float], message: str
) -> None:
    write_submission(submission_frame(TEST_ID, SCORES), *paths)
    before = [path.read_bytes() for path in paths]
    with pytest.raises(SubmissionError, match=message):
        write_submission(pl.DataFrame({"ID": TEST_ID, "Task1&2": scores}), *paths)
    assert [path.read_bytes() for path in paths] == before


def test_the_error_about_invalid_scores_suspects_damaged_weights() -> None:
    scores = np.array([0.1, np.nan, 0.2, 1.5], np.float32)
    message = (
        r"1 values of Task1&2 are not finite; the first is nan, in row 1 .*; 1 values of .* weights"
    )
    with pytest.raises(SubmissionError, match=message):
        submission_frame(TEST_ID, scores)


def test_frames_with_repeated_ids_missing_values_or_no_rows_are_not_written(
    paths: tuple[Path, Path],
) -> None:
    repeated = pl.DataFrame({"ID": [3, 10, 3, 4], "Task1&2": SCORES})
    with pytest.raises(SubmissionError, match="1 rows repeat an ID; the first repeated ID is 3"):
        write_submission(repeated, *paths)
    with pytest.raises(SubmissionError, match="there are no rows"):
        write_submission(repeated.clear(), *paths)
    incomplete = pl.DataFrame({"ID": [1, 2], "Task1&2": [0.5, None]})
    with pytest.raises(SubmissionError, match="1 values are missing"):
        write_submission(incomplete, *paths)
    with pytest.raises(SubmissionError, match="the columns are"):
        write_submission(incomplete.rename({"Task1&2": "score"}), *paths)
    assert not paths[0].exists()
    assert not paths[1].exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ID,Task1&2\n10,0.5\n3,0.5\n22,0.5\n7,0.5\n", "another order than in the test file"),
        ("ID,Task1&2\n10,0.5\n3,0.5\n7,0.5\n", "there are 3 rows, the test file has 4"),
        ("ID,Task1&2\n10,0.5\n3,0.5\n7,0.5\n99,0.5\n", "not those of the test file: row 3 "),
        (
            "ID,Task1&2\n10,0.5\n3,0.5\n7,0.5\n7,0.5\n",
            "1 rows repeat an ID; the first repeated ID is 7",
        ),
        ("ID,Task1&2\n10,0.5\n3,2.5\n7,0.5\n22,0.5\n", "outside 0..1; the first is 2.5, in row 1"),
        ("ID,Task1&2\n10,0.5\n3,\n7,0.5\n22,0.5\n", "1 values are missing"),
        ("ID,Task1&2\n10,NaN\n3,0.1\n7,0.5\n22,0.5\n", "not finite; the first is nan, in row 0"),
        (
            "ID,Task1&2\n10,0.5\n3,abc\n7,0.5\n22,0.5\n",
            "a row does not consist of an integer ID and a number",
        ),
        ("ID,score\n10,0.5\n3,0.5\n7,0.5\n22,0.5\n", "the header is 'ID,score'"),
        ("", "the header is ''"),
        ("ID,Task1&2\n", "there are no rows"),
    ],
)
def test_the_problems_of_a_submission_file_are_listed(
    paths: tuple[Path, Path], text: str, problem: str
) -> None:
    paths[0].write_text(text)
    with zipfile.ZipFile(paths[1], "w") as archive:
        archive.writestr("prediction.csv", text)
    problems = check_submission(*paths, TEST_ID)
    assert any(problem in line for line in problems), problems


def test_a_zip_that_does_not_hold_exactly_the_csv_is_reported(paths: tuple[Path, Path]) -> None:
    frame = submission_frame(TEST_ID, SCORES)
    write_submission(frame, *paths)
    paths[0].write_text(paths[0].read_text().replace("0.25", "0.35"))
    assert "is not the CSV beside it" in check_submission(*paths, TEST_ID)[0]

    write_submission(frame, *paths)
    with zipfile.ZipFile(paths[1], "a") as archive:
        archive.writestr("more.csv", "")
    assert "must hold only prediction.csv" in check_submission(*paths, TEST_ID)[0]

    paths[1].write_bytes(b"PK no zip")
    assert "cannot be read" in check_submission(*paths, TEST_ID)[0]
    paths[1].unlink()
    assert check_submission(*paths, TEST_ID) == [f"{paths[1]} does not exist"]
