"""Independent random streams of one seed, so that no part depends on another's draws."""

import enum

import numpy as np


class Stream(enum.IntEnum):
    """What a stream is for; the numbers are part of the world and never change."""

    ITEMS = 1
    TITLES = 2
    VECTORS = 3
    COVERS = 4
    DAMAGE = 5
    TRAIN = 11
    VALID = 12
    TEST = 13
    USERS = 14


def generator(seed: int, stream: Stream, part: int = 0) -> np.random.Generator:
    """Return the generator of one part (a chunk, an item) of one stream."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(stream), part])))
