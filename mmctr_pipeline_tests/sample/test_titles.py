"""Titles show the category but hardly the style, and read like video titles."""

import collections

import numpy as np
import pytest

from mmctr_pipeline.sample.catalogue import CATEGORIES, STYLES, Catalogue, draw_catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.titles import describe, draw_titles

CONFIG = SampleConfig(n_items=4_000)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return draw_catalogue(CONFIG)


@pytest.fixture(scope="module")
def titles(catalogue: Catalogue) -> list[str]:
    return draw_titles(catalogue, CONFIG)


def test_titles_resemble_video_titles(titles: list[str]) -> None:
    assert sum("#" in title for title in titles) > len(titles) / 2
    assert sum(not title.isascii() for title in titles) > len(titles) / 4
    lengths = [len(title.split()) for title in titles if title]
    assert min(lengths) <= 3
    assert max(lengths) >= 20
    assert len(set(titles)) > 0.9 * len(titles)


def test_few_titles_are_empty(titles: list[str]) -> None:
    share = titles.count("") / len(titles)
    assert 0 < share < 3 * CONFIG.empty_title_share


def _guessing_accuracy(titles: list[str], kinds: np.ndarray) -> float:
    """Accuracy of naive Bayes on words, fitted on half of the titles and tested on the rest."""
    counts: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for title, kind in zip(titles[::2], kinds[::2], strict=True):
        counts[int(kind)].update(title.lower().split())
    totals = {kind: sum(words.values()) for kind, words in counts.items()}
    right = 0
    for title, kind in zip(titles[1::2], kinds[1::2], strict=True):
        scores = {
            guess: sum(
                np.log((words[word] + 0.1) / (totals[guess] + 100))
                for word in title.lower().split()
            )
            for guess, words in counts.items()
        }
        right += max(scores, key=lambda guess: scores[guess]) == kind
    return right / len(titles[1::2])


def test_titles_show_the_category_but_hardly_the_style(
    titles: list[str], catalogue: Catalogue
) -> None:
    assert _guessing_accuracy(titles, catalogue.category) > 0.9
    assert _guessing_accuracy(titles, catalogue.style) < 0.45


def test_captions_name_the_category_and_determine_the_style(catalogue: Catalogue) -> None:
    captions = describe(catalogue)
    assert all(CATEGORIES[c] in text for c, text in zip(catalogue.category, captions, strict=True))
    styles_by_caption = collections.defaultdict(set)
    for style, caption in zip(catalogue.style, captions, strict=True):
        styles_by_caption[caption].add(STYLES[style])
    assert all(len(styles) == 1 for styles in styles_by_caption.values())
