"""The store of fitted transforms, looked up by the inputs of the fit."""

import datetime
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.records import read_record, write_record
from mmctr_pipeline.fusion.transform import FIX, Transform

logger = logging.getLogger(__name__)


class TransformStore:
    """Transforms in `folder`, one file each, with a record of the newest one for each `made_by`.

    `made_by` is everything that a fit depends on: settings, encoders and data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: str) -> Path:
        """Return the path of a transform."""
        return self.folder / f"{identity.replace(':', '-')}.pt"

    def save(self, transform: Transform, made_by: Mapping[str, Any]) -> None:
        """Write a transform and make it the newest for `made_by`, each atomically."""
        transform.save(self.path(transform.identity))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"transform": transform.identity, "fitted_at": now, "made_by": made_by}
        write_record(self._record_path(made_by), record)

    def newest(self, made_by: Mapping[str, Any], kind: type[Transform]) -> Transform | None:
        """Load the newest transform for `made_by`; None, with a log line, if there is none.

        Raises `DamagedFileError` if the record or the transform is damaged.
        """
        record = self._record_path(made_by)
        if not record.is_file():
            logger.info(
                f"fitting a new {kind.METHOD} transform: {self.folder} has none for these "
                f"settings, these encoders and the data in {made_by['data']}"
            )
            return None
        try:
            identity = read_record(record)["transform"]
            path = self.path(identity)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}: {FIX}") from error
        except (KeyError, AttributeError) as error:
            raise DamagedFileError(f"{record} names no transform: {FIX}") from error
        if not path.is_file():
            logger.warning(f"{path} no longer exists; fitting a new {kind.METHOD} transform")
            return None
        transform = kind.load(path)
        if transform.identity != identity:
            raise DamagedFileError(f"{path} holds {transform.identity}, not {identity}: {FIX}")
        return transform

    def _record_path(self, made_by: Mapping[str, Any]) -> Path:
        # Named after the inputs, as equal data in two folders give the same transform.
        canonical = json.dumps(made_by, sort_keys=True)
        return self.folder / f"made-by-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}.json"
