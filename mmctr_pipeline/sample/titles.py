"""Draw video titles, which mostly show the category of an item and sometimes its style."""

import tomllib
from pathlib import Path

import numpy as np

from mmctr_pipeline.sample.catalogue import CATEGORIES, STYLES, Catalogue, Stream, generator
from mmctr_pipeline.sample.config import SampleConfig

# Share of titles without any word of their category.
_VAGUE_SHARE = 0.02
# Share of titles with a word of their style.
_MOOD_SHARE = 0.2

_WORDS = tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text("utf-8"))


def draw_titles(catalogue: Catalogue, config: SampleConfig) -> list[str]:
    """Return one title per item, in item order; a few are empty."""
    rng = generator(config.seed, Stream.TITLES, catalogue.part)
    empty = rng.random(len(catalogue)) < config.empty_title_share
    kinds = zip(catalogue.category, catalogue.style, strict=True)
    titles = [_title(CATEGORIES[category], STYLES[style], rng) for category, style in kinds]
    return ["" if is_empty else title for title, is_empty in zip(titles, empty, strict=True)]


def describe(catalogue: Catalogue) -> list[str]:
    """Return a caption per item that names its style and category, as a curator would."""
    captions = []
    for row, (category, style) in enumerate(zip(catalogue.category, catalogue.style, strict=True)):
        moods = _WORDS["moods"][STYLES[style]]
        captions.append(f"{moods[(row + 1) % len(moods)]} {CATEGORIES[category]} video")
    return captions


def _title(category: str, style: str, rng: np.random.Generator) -> str:
    # Each title takes the same number of draws, so its form does not affect the next titles.
    chance, choice = rng.random(8), rng.random(12)
    if chance[0] < _VAGUE_SHARE:
        text = _pick(_WORDS["vague"], choice[0])
    else:
        subjects = _WORDS["subjects"][category]
        text = _pick(_WORDS["openers"], choice[1]) + _pick(subjects, choice[0])
        text += _pick(_WORDS["closers"], choice[2])
        if chance[1] < 0.25:
            text += f", then {_pick(subjects, choice[3])}"
        if chance[2] < 0.55:
            text += f" {_pick(_WORDS['hashtags'][category], choice[4])}"
        if chance[3] < 0.35:
            text += f" {_pick(_WORDS['emoji'][category], choice[5])}"
    if chance[4] < _MOOD_SHARE:
        text += f" ({_pick(_WORDS['moods'][style], choice[6])})"
    if chance[5] < 0.4:
        text += f" {_pick(_WORDS['common_tags'], choice[7])}"
    if chance[6] < 0.2:
        text = f"{_pick(_WORDS['common_emoji'], choice[8])} {text}"
    if chance[7] < 0.12:
        text = text.upper()
    return text[0].upper() + text[1:]


def _pick(options: list[str] | str, uniform: float) -> str:
    return options[int(uniform * len(options))]
