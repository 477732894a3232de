"""The submission as the contest takes it: a CSV, and the same bytes inside a zip."""

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import polars as pl

from mmctr_pipeline.files.atomic import atomic_write

ID = "ID"
SCORE = "Task1&2"
ZIPPED_NAME = "prediction.csv"

_HEADER = f"{ID},{SCORE}"
# The earliest time a zip can hold: equal scores must give equal bytes.
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_PERMISSIONS = 0o644


class SubmissionError(ValueError):
    """The scores are not a valid submission; the message names the row and the fix."""


@dataclasses.dataclass(frozen=True)
class SubmissionSummary:
    """What was written: number of rows; least, largest and mean probability."""

    n_rows: int
    minimum: float
    maximum: float
    mean: float


def submission_frame(row_id: np.ndarray, probability: np.ndarray) -> pl.DataFrame:
    """Return columns `ID` (int64) and `Task1&2` (float32), `(N,)` each, in the order given."""
    return pl.DataFrame({ID: row_id.astype(np.int64), SCORE: probability.astype(np.float32)})


def write_submission(frame: pl.DataFrame, csv_path: Path, zip_path: Path) -> SubmissionSummary:
    """Write the CSV and the zip, each atomically; equal frames give equal bytes.

    A probability is written in the fewest digits that read back as the same float32. Raises
    `SubmissionError` before writing anything where the frame is not valid in itself.
    """
    problems = _problems_of(frame)
    if problems:
        raise SubmissionError("the submission was not written: " + "; ".join(problems))
    typed = frame.select(pl.col(ID).cast(pl.Int64), pl.col(SCORE).cast(pl.Float32))
    scores = typed[SCORE].to_numpy()
    # In the fewest digits, and never with an exponent, which polars does not offer together.
    digits = [np.format_float_positional(score, trim="0") for score in scores]
    content = typed.with_columns(pl.Series(SCORE, digits)).write_csv().encode()
    with atomic_write(csv_path) as temporary:
        temporary.write_bytes(content)
    with atomic_write(zip_path) as temporary:
        temporary.write_bytes(_zipped(content))
    return SubmissionSummary(
        n_rows=frame.height,
        minimum=float(scores.min()),
        maximum=float(scores.max()),
        mean=float(scores.mean(dtype=np.float64)),
    )


def read_submission(csv_path: Path) -> pl.DataFrame:
    """Return columns `ID` (int64) and `Task1&2` (float32); raises `SubmissionError`."""
    return _parsed(csv_path.read_bytes(), str(csv_path))


def check_submission(csv_path: Path, zip_path: Path, test_id: np.ndarray) -> list[str]:
    """Return what is wrong with the two files, in words; an empty list means that they are valid.

    `test_id` is the column `ID` of the test file, in its order.
    """
    problems = [f"{path} does not exist" for path in (csv_path, zip_path) if not path.is_file()]
    if problems:
        return problems
    content = csv_path.read_bytes()
    problems += _zip_problems(content, zip_path)
    try:
        frame = _parsed(content, str(csv_path))
    except SubmissionError as error:
        return [*problems, str(error)]
    return problems + _problems_of(frame) + _order_problems(frame[ID].to_numpy(), test_id)


def _zipped(content: bytes) -> bytes:
    entry = zipfile.ZipInfo(ZIPPED_NAME, date_time=_FIXED_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = _UNIX
    entry.external_attr = _PERMISSIONS << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, content, compresslevel=6)
    return buffer.getvalue()


def _parsed(content: bytes, where: str) -> pl.DataFrame:
    header = content.partition(b"\n")[0].decode("utf-8", errors="replace").rstrip("\r")
    if header != _HEADER:
        raise SubmissionError(f"{where}: the header is {header[:80]!r}, it must be {_HEADER!r}")
    try:
        return pl.read_csv(content, schema={ID: pl.Int64, SCORE: pl.Float32})
    except pl.exceptions.PolarsError as error:
        first_line = str(error).splitlines()[0]
        raise SubmissionError(
            f"{where}: not an integer and a number per row: {first_line}"
        ) from None


def _problems_of(frame: pl.DataFrame) -> list[str]:
    if frame.columns != [ID, SCORE]:
        return [f"the columns are {frame.columns}, they must be {[ID, SCORE]}"]
    if frame.height == 0:
        return ["there is no row"]
    problems = []
    n_null = sum(frame.null_count().row(0))
    if n_null:
        problems.append(f"{n_null:,} values are missing")
    scores = frame[SCORE].fill_null(0.0).to_numpy()
    for bad, what in (
        (~np.isfinite(scores), "not finite"),
        (np.isfinite(scores) & ((scores < 0) | (scores > 1)), "outside 0..1"),
    ):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            problems.append(
                f"{int(bad.sum()):,} of {SCORE} are {what}, the first {scores[row]} in row {row}"
            )
    n_twice = frame.height - frame[ID].n_unique()
    if n_twice:
        first = frame.filter(pl.col(ID).is_duplicated())[ID][0]
        problems.append(f"{n_twice:,} rows repeat an {ID}, as {first}")
    return problems


def _order_problems(written_id: np.ndarray, test_id: np.ndarray) -> list[str]:
    if len(written_id) != len(test_id):
        return [f"there are {len(written_id):,} rows, the test file has {len(test_id):,}"]
    differs = np.flatnonzero(written_id != test_id)
    if not len(differs):
        return []
    row = int(differs[0])
    same_set = np.array_equal(np.sort(written_id), np.sort(test_id))
    kind = "the IDs stand in another order than" if same_set else "the IDs are not those of"
    return [f"{kind} the test file: row {row} has {written_id[row]}, expected {test_id[row]}"]


def _zip_problems(content: bytes, zip_path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(zip_path) as archive:
            names = archive.namelist()
            if names != [ZIPPED_NAME]:
                return [f"{zip_path} holds {names}, it must hold {ZIPPED_NAME} alone"]
            zipped = archive.read(ZIPPED_NAME)
    except (zipfile.BadZipFile, OSError) as error:
        return [f"{zip_path} cannot be read: {error}"]
    return [] if zipped == content else [f"{ZIPPED_NAME} in {zip_path} is not the CSV beside it"]
