"""Runs on a Ray cluster, each in a process of its own that joins it."""

import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmctr_pipeline.cluster.ray_session import ray_session
from mmctr_pipeline.encoders.config import ImageEncoderConfig, TextEncoderConfig
from mmctr_pipeline.encoders.on_ray import ray_encoders
from mmctr_pipeline.encoders.ray_actor import OpenEncoder
from mmctr_pipeline.encoders.store.vector_store import Shard, VectorStore
from mmctr_pipeline.encoders.vector_tables import EncoderInfo
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.encoders.store.vector_store_runs import Encoder, key
from mmctr_pipeline_tests.ray_cluster import RayCluster

RESULT = "result: "
"""Begins the line that a run prints at its end."""

N_SHARDS = 24
SHARD_SIZE = 4
NUMBERS = range(N_SHARDS * SHARD_SIZE)


class SmallEncoder:
    """Returns the vectors of `vector_store_runs.Encoder`, and writes a journal of its shards.

    Each line of the journal has the address of the node and the first number of a shard that it
    begins. `behaviour` may be `slow` (until two nodes have begun, nothing ends), `dies once` (the
    whole process), `fails`, or `only here` (see `OnlyHere`).
    """

    def __init__(self, journal: Path, behaviour: str) -> None:
        self._journal, self._behaviour = journal, behaviour
        weights = os.environ.get("WEIGHTS_HASH", "0" * 64)
        self.info = EncoderInfo("small", "numbers", "a test", weights, "1", "float32", "cpu")

    def encode(self, numbers: list[int]) -> Shard:
        import ray

        with self._journal.open("a") as file:
            file.write(f"{ray.util.get_node_ip_address()} {numbers[0]}\n")
        if self._behaviour == "slow":
            while len(set(read_journal(self._journal))) < 2:
                time.sleep(0.05)  # for another node
            time.sleep(0.25)
        elif self._behaviour == "dies once" and numbers[0] == first_numbers()[2]:
            if len(read_journal(self._journal, numbers[0])) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        elif self._behaviour == "fails":
            raise SettingsError(f"cannot encode {numbers[0]}. Fix: change the encoder")
        return local_encoder(numbers)


def local_encoder(numbers: list[int]) -> Shard:
    return Encoder(numbers)(np.arange(len(numbers)), lambda _: None)


def open_small(
    settings: Mapping[str, Any], device: str, *, journal: Path, behaviour: str
) -> SmallEncoder:
    return SmallEncoder(journal, behaviour)


class OnlyHere:
    """A function whose module the actors lack."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("a_module_that_no_node_has",)

    def __call__(self, *_: Any) -> SmallEncoder:
        return SmallEncoder(Path(), "")


def first_numbers() -> list[int]:
    """Return the first number of each shard, in the order of the shards."""
    return sorted(NUMBERS, key=key)[::SHARD_SIZE]


def read_journal(journal: Path, number: int | None = None) -> list[str]:
    """Return the nodes that began a shard, that of `number` or any, in order."""
    lines = [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []
    return [node for node, first in lines if number in (None, int(first))]


def encode_numbers(folder: str, journal: str, behaviour: str) -> None:
    """Encode `NUMBERS` on the cluster; print the number of vectors, or the error.

    With the error, threads of Ray Data are named that still run: they would call Ray after its end.
    """
    running = []
    try:
        with ray_session():
            try:
                n_encoded = _encode_numbers(Path(folder), Path(journal), behaviour)
            finally:
                names = [thread.name for thread in threading.enumerate()]
                running += [name for name in names if name.startswith(("Streaming", "iter_"))]
    except Exception as error:
        _print_result(f"{type(error).__name__}: {error}" + f" {running} run" * bool(running))
        raise
    _print_result(f"encoded {n_encoded}")


def _encode_numbers(folder: Path, journal: Path, behaviour: str) -> int:
    open_encoder: OpenEncoder = functools.partial(open_small, journal=journal, behaviour=behaviour)
    if behaviour == "only here":
        open_encoder = OnlyHere()
    with ray_encoders(open_encoder, TextEncoderConfig(compute="ray"), "cpu") as on_ray:
        assert on_ray is not None
        info = on_ray.info(open_encoder({}, "cpu").info)
        result = VectorStore(folder).get_or_encode(
            info.identity,
            [key(number) for number in NUMBERS],
            Encoder([]),  # not used
            shard_size=SHARD_SIZE,
            reader="reader 1",
            encode_together=on_ray.together(info, NUMBERS),
        )
    return result.n_encoded


def _print_result(text: str) -> None:
    # Ray prints lines too, from a thread of its own.
    print(f"\n{RESULT}{text}", flush=True)  # noqa: T201


def encode_locally(folder: Path) -> None:
    """Encode `NUMBERS` in this process."""
    info = SmallEncoder(Path(), "").info
    VectorStore(folder).get_or_encode(
        info.identity,
        [key(number) for number in NUMBERS],
        lambda positions, _: local_encoder([NUMBERS[position] for position in positions]),
        shard_size=SHARD_SIZE,
        reader="reader 1",
    )


def encode_sample(
    data: str, folder: str, compute: Literal["local", "ray"], images_url: str
) -> None:
    """Encode titles and covers of a dataset with the encoders of the sample preset."""
    from mmctr_pipeline.data.discovery import find_data
    from mmctr_pipeline.data.items import read_items
    from mmctr_pipeline.encoders.image import encode as image
    from mmctr_pipeline.encoders.text import encode as text

    # Several shards for each node, of a small dataset.
    text.SHARD_TEXTS = image.SHARD_IMAGES = 32
    layout, store = find_data(Path(data)), VectorStore(Path(folder))
    items = read_items(layout)
    text.encode_titles(items, TextEncoderConfig(compute=compute), "cpu", store)
    clip = ImageEncoderConfig(model="tiny-clip", compute=compute, images_url=images_url)
    image.encode_images(items.ids, layout.images, clip, "cpu", store)
    _print_result("done")


def start(cluster: RayCluster, call: str, **variables: str) -> "subprocess.Popen[str]":
    """Start a process of this cluster that calls a function of this module."""
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import logging; logging.basicConfig(level=20); from {__name__} import *; {call}",
        ],
        env={**os.environ, **cluster.variables, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
