"""The submission in the competition's format: a CSV, and the same bytes inside a zip."""

import io
import lzma
import zipfile
import zlib
from pathlib import Path

import numpy as np
import polars as pl

from mmctr_pipeline.files.atomic import atomic_write

ID = "ID"
SCORE = "Task1&2"
ZIPPED_NAME = "prediction.csv"

_HEADER = f"{ID},{SCORE}"
# A fixed time, the earliest that a zip can hold, so that equal scores give equal bytes.
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_PERMISSIONS = 0o644


class SubmissionError(ValueError):
    """Scores or files are not a valid submission; the message says why."""


def submission_frame(test_id: np.ndarray, probability: np.ndarray) -> pl.DataFrame:
    """Return columns `ID` (int64) and `Task1&2` (float32), in the order of the test rows.

    `test_id` is the column `ID` of the test file, `probability` the scores of its rows, both
    `(N,)`. Raises `SubmissionError` if a score is not a probability, an ID is repeated, or there
    are no rows.
    """
    frame = pl.DataFrame({ID: test_id.astype(np.int64), SCORE: probability.astype(np.float32)})
    problems = _frame_problems(frame)
    if problems:
        raise SubmissionError(
            f"the scores are not a submission: {'; '.join(problems)}. Scores that are not "
            "probabilities come from damaged weights or vectors: materialise the vectors and "
            "trained_model again"
        )
    return frame


def write_submission(frame: pl.DataFrame, csv_path: Path, zip_path: Path) -> None:
    """Write the CSV and the zip, each atomically; equal frames give equal bytes.

    A probability is written without an exponent, with the fewest digits that read back as the same
    float32. Raises `SubmissionError` before writing anything if columns, values or ids of the frame
    are invalid.
    """
    problems = _frame_problems(frame)
    if problems:
        raise SubmissionError("the submission was not written: " + "; ".join(problems))
    typed = frame.select(pl.col(ID).cast(pl.Int64), pl.col(SCORE).cast(pl.Float32))
    # A scorer may fail to read exponents such as 1e-5. polars writes exponents or too many digits.
    digits = [np.format_float_positional(score, trim="0") for score in typed[SCORE].to_numpy()]
    csv = typed.with_columns(pl.Series(SCORE, digits)).write_csv().encode()
    for path, content in ((csv_path, csv), (zip_path, _zip(csv))):
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)


def read_submission(csv_path: Path) -> pl.DataFrame:
    """Return columns `ID` (int64) and `Task1&2` (float32); raises `SubmissionError`."""
    return _parse(csv_path.read_bytes(), str(csv_path))


def check_submission(csv_path: Path, zip_path: Path, test_id: np.ndarray) -> list[str]:
    """Return sentences about the problems of the two files, none if they are valid.

    `test_id` is the column `ID` of the test file, in its order.
    """
    problems = [f"{path} does not exist" for path in (csv_path, zip_path) if not path.is_file()]
    if problems:
        return problems
    content = csv_path.read_bytes()
    problems += _zip_problems(content, zip_path)
    try:
        frame = _parse(content, str(csv_path))
    except SubmissionError as error:
        return [*problems, str(error)]
    return problems + _frame_problems(frame) + _order_problems(frame[ID].to_numpy(), test_id)


def _zip(content: bytes) -> bytes:
    """Return a zip file with this CSV as its only entry."""
    entry = zipfile.ZipInfo(ZIPPED_NAME, date_time=_FIXED_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = _UNIX
    entry.external_attr = _PERMISSIONS << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, content, compresslevel=6)
    return buffer.getvalue()


def _parse(content: bytes, where: str) -> pl.DataFrame:
    header = content.partition(b"\n")[0].decode("utf-8", errors="replace").rstrip("\r")
    if header != _HEADER:
        raise SubmissionError(f"{where}: the header is {header[:80]!r}, it must be {_HEADER!r}")
    try:
        return pl.read_csv(content, schema={ID: pl.Int64, SCORE: pl.Float32})
    except pl.exceptions.PolarsError as error:
        first_line = str(error).splitlines()[0]
        raise SubmissionError(
            f"{where}: a row does not consist of an integer ID and a number: {first_line}"
        ) from None


def _frame_problems(frame: pl.DataFrame) -> list[str]:
    if frame.columns != [ID, SCORE]:
        return [f"the columns are {frame.columns}, they must be {[ID, SCORE]}"]
    if frame.height == 0:
        return ["there are no rows"]
    problems = []
    n_null = sum(frame.null_count().row(0))
    if n_null:
        problems.append(f"{n_null:,} values are missing")
    scores = frame[SCORE].fill_null(0.0).to_numpy()
    is_finite = np.isfinite(scores)
    is_outside = is_finite & ((scores < 0) | (scores > 1))
    for is_bad, fault in ((~is_finite, "not finite"), (is_outside, "outside 0..1")):
        if is_bad.any():
            row = int(np.flatnonzero(is_bad)[0])
            n_bad = int(is_bad.sum())
            problems.append(
                f"{n_bad:,} values of {SCORE} are {fault}; the first is {scores[row]}, in row "
                f"{row} (counted from 0)"
            )
    n_repeated = frame.height - frame[ID].n_unique()
    if n_repeated:
        first = frame.filter(pl.col(ID).is_duplicated())[ID][0]
        problems.append(f"{n_repeated:,} rows repeat an {ID}; the first repeated {ID} is {first}")
    return problems


def _order_problems(written_id: np.ndarray, test_id: np.ndarray) -> list[str]:
    if len(written_id) != len(test_id):
        return [f"there are {len(written_id):,} rows, the test file has {len(test_id):,}"]
    differs = np.flatnonzero(written_id != test_id)
    if not len(differs):
        return []
    row = int(differs[0])
    is_same_set = np.array_equal(np.sort(written_id), np.sort(test_id))
    fault = "the IDs are in another order than in" if is_same_set else "the IDs are not those of"
    return [
        f"{fault} the test file: row {row} (counted from 0) has {written_id[row]} instead of "
        f"{test_id[row]}"
    ]


_BROKEN_ZIP = (
    *(zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError),
    RuntimeError,  # encrypted, or a compression that Python lacks
)


def _zip_problems(content: bytes, zip_path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(zip_path) as archive:
            names = archive.namelist()
            if names != [ZIPPED_NAME]:
                return [f"{zip_path} holds {names[:5]}, it must hold only {ZIPPED_NAME}"]
            with archive.open(ZIPPED_NAME) as entry:
                # Unpack at most one byte more than expected, as the zip may be a bomb.
                zipped = entry.read(len(content) + 1)
    except _BROKEN_ZIP as error:
        return [f"{zip_path} cannot be read: {error}"]
    return [] if zipped == content else [f"{ZIPPED_NAME} in {zip_path} is not the CSV beside it"]
