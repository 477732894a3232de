"""Score candidates with a trained model, in any Python program."""

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from mmctr_pipeline.calibration import saved_map
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.ragged import Ragged, offsets_from_lengths
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.config import model_config_from
from mmctr_pipeline.registry.model_file import ModelFile, require_identity
from mmctr_pipeline.registry.restore import build_module, saved_id_maps
from mmctr_pipeline.serving.errors import ScorerError
from mmctr_pipeline.serving.load import find_inputs
from mmctr_pipeline.serving.new_items import NewItem, NewItemEncoder
from mmctr_pipeline.serving.rows import ItemRows, UserRows
from mmctr_pipeline.training.batch_source import BatchSource
from mmctr_pipeline.training.device import resolve_device
from mmctr_pipeline.training.score import score as score_rows

Item: TypeAlias = int | str | NewItem
"""An id of the catalogue, or an item that it lacks. Unknown ids are allowed."""


_FEW_CANDIDATES = 500
"""Fewer candidates than this a CPU scores fastest in float32, even if it multiplies in bfloat16."""


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """An item of the catalogue, its title (empty if it has none) and its click probability."""

    item_id: int | str
    title: str
    probability: float


class Scorer:
    """A trained model with the catalogue and the vectors that it scores with.

    Several threads may call it; they take turns.
    """

    def __init__(
        self,
        model: ModelFile,
        dataset: CtrDataset,
        vectors: ItemVectors,
        device: torch.device,
        encoder: NewItemEncoder | None = None,
    ) -> None:
        """Combine a model with its inputs; `load` finds them in a storage folder.

        Raises `ModelFileError` if the model was trained on other vectors, and `OtherIdsError` if it
        was trained on integer ids and the dataset has strings, or the other way round.

        Parameters
        ----------
        model
            The model.
        dataset
            The catalogue, and the histories of users for `recommend`.
        vectors
            The vectors that the model was trained on.
        device
            Where to score.
        encoder
            Encodes new items; without it they raise `ScorerError`.
        """
        require_identity(model, vectors)
        self.model, self.dataset, self.device = model, dataset, device
        self._encoder, self._lock = encoder, threading.Lock()
        self.module = build_module(model, device)
        config = model_config_from(model.model_config, "saved model_config")
        self.calibration = saved_map(model.calibration)
        # Files written before this setting existed were trained in float32.
        self._precision = model.training_config.get("precision", "float32")
        n_items, n_users = int(model.spec["n_items"]), int(model.spec["n_users"])
        id_maps = saved_id_maps(model)
        self.max_history = config.max_history
        self.users = UserRows(id_maps.get("user_id"), n_users)
        self.items = ItemRows(
            dataset.items, vectors, config, id_maps.get("item_id"), n_items, device
        )

    def __repr__(self) -> str:
        name, n_items = self.model.model_config["name"], len(self.dataset.items.ids)
        return f"<Scorer: {name} on {self.device}, a catalogue of {n_items:,} items>"

    @classmethod
    def load(
        cls, path: Path | str = "storage", device: str = "auto", data: Path | str | None = None
    ) -> Self:
        """Load the champion of a storage folder, or another version of it.

        Raises `ScorerError` if an artefact is missing, and `DamagedFileError`.

        Parameters
        ----------
        path
            A storage folder, the folder of a version (`storage/models/<version>`) or its file.
        device
            `auto`, `cpu`, `cuda` or `cuda:N`.
        data
            The data folder. It is read only if the storage folder no longer has the vectors
            that the model was trained on.
        """
        place = resolve_device(device)
        found = find_inputs(Path(path), place, Path(data) if data is not None else None)
        encoder = NewItemEncoder(found.model, found.storage, found.vectors, place)
        return cls(found.model, found.dataset, found.vectors, place, encoder)

    def score(
        self,
        candidates: Sequence[Item],
        history: Sequence[Item] = (),
        user: int | str | None = None,
    ) -> np.ndarray:
        """Return the click probability of each candidate, `(C,) float32`.

        On a CPU, matrix products of fewer than 500 candidates are float32, even if the pipeline's
        are bfloat16.

        Raises `ScorerError` for a new item that cannot be encoded, and for an id of another type
        than those of the catalogue.

        Parameters
        ----------
        candidates
            The items to score. Their levels are those of the catalogue.
        history
            What the user clicked before, oldest first.
        user
            Id of the user; None, or an id that the model has not seen, is an unknown user.
        """
        with self._lock:
            rows = self._place([*candidates, *history])
            item_id, past = rows[: len(candidates)], rows[len(candidates) :]
            user_id = np.repeat(self.users.row(user), len(candidates))
            likes, views = self.items.levels_2R[:, item_id]
            first = np.zeros(len(candidates), np.int32)
            split = Split(user_id, item_id, first, likes, views)
            is_small = self.device.type == "cpu" and len(candidates) < _FEW_CANDIDATES
            precision = "float32" if is_small else self._precision
            return self._score(split, Ragged(past, offsets_from_lengths([len(past)])), precision)

    def score_batch(
        self, batch: pa.RecordBatch, file: Path = Path("the rows"), first_row: int = 0
    ) -> np.ndarray:
        """Return the click probability of each row of a batch, `(N,) float32`.

        Raises `DataError` for a column that is missing or of the wrong type.

        Parameters
        ----------
        batch
            Columns as in `test.parquet`: `item_id` and `item_seq` (oldest first, padded on the left
            or not), and optionally `user_id`, `likes_level` and `views_level`. Levels that are not
            given are those of the catalogue.
        file, first_row
            Where the batch comes from, for errors.
        """
        with self._lock:
            split, histories = self.items.read(batch, self.users, file, first_row)
            return self._score(split, histories, self._precision)

    def recommend(
        self,
        user: int | str | None = None,
        history: Sequence[Item] | None = None,
        top: int = 20,
    ) -> list[Recommendation]:
        """Return the items of the catalogue that a user most likely clicks, best first.

        Items of the history are left out. Raises `ScorerError` if no history is given and the
        dataset has no row of the user.

        Parameters
        ----------
        user, history
            As in `score`. By default the history is that of the user's last row in the dataset.
        top
            Number of items.
        """
        history = self.history_of(user) if history is None else history
        items = self.dataset.items
        scores = self.score(items.ids.tolist(), history, user)
        seen = {item for item in history if not isinstance(item, NewItem)}
        order = np.argsort(-scores, kind="stable").tolist()
        ids = items.ids.tolist()
        best = [place for place in order if ids[place] not in seen][:top]
        return [
            Recommendation(ids[place], items.title[place].as_py() or "", float(scores[place]))
            for place in best
        ]

    def history_of(self, user: int | str | None) -> list[int | str]:
        """Return the history of a user's last row in the dataset: of test, else valid, else train.

        Raises `ScorerError` if there is none.
        """
        dataset = self.dataset
        row = _row_of_user(dataset, user)
        for name in ("test", "valid", "train"):
            split = dataset.splits[name]
            places = np.flatnonzero(split.user_id == row)
            if len(places):
                past = dataset.histories[int(split.history[places[-1]])]
                return dataset.items.id_map.ids_at(past).tolist()
        raise ScorerError(
            f"the dataset has no row of user {user!r}. Fix: give a history, which may be empty"
        )

    def user_from_text(self, text: str) -> int | str:
        """Return a user id given as text in the type of the data's user ids.

        Raises `ScorerError` if they are integers and the text is none.
        """
        users = self.dataset.users
        if users is not None and users.ids.dtype.kind == "U":
            return text
        try:
            return int(text)
        except ValueError:
            raise ScorerError(f"user {text!r}: the user ids of this dataset are integers") from None

    def _place(self, items: Sequence[Item]) -> np.ndarray:
        """Return the table row of each item, `(N,) int32`, after encoding the new ones."""
        new = list(dict.fromkeys(item for item in items if isinstance(item, NewItem)))
        placed: dict[NewItem, int] = {}
        if new:
            if self._encoder is None:
                raise ScorerError("this scorer has no encoder for new items. Fix: use Scorer.load")
            rows = self.items.put_new(new, self._encoder)
            placed = dict(zip(new, rows.tolist(), strict=True))
        return self.items.rows(items, placed)

    def _score(self, split: Split, histories: Ragged, precision: str) -> np.ndarray:
        source = BatchSource(split, histories, self.items.features, self.device, self.max_history)
        return score_rows(self.module, source, precision, calibration=self.calibration)


def _row_of_user(dataset: CtrDataset, user: int | str | None) -> int:
    """Return the dataset's row of a user, -1 if it has none."""
    if user is None or (dataset.users is None and isinstance(user, str)):
        return -1
    if dataset.users is None:
        return int(user)
    return int(dataset.users.look_up(np.array([user]))[0]) or -1
