"""Video titles that tell mostly the category of an item, and now and then its style."""

import numpy as np

from mmctr_pipeline.sample.catalogue import CATEGORIES, STYLES, Catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.streams import Stream, generator

# Share of the titles that say nothing of the category, and of those with a word for the style.
_VAGUE_SHARE = 0.02
_MOOD_SHARE = 0.2

_SUBJECTS: dict[str, tuple[str, ...]] = {
    "cooking": (
        "garlic butter noodles",
        "sourdough bread",
        "a five minute omelette",
        "crispy fried rice",
        "grandma's dumplings",
        "chocolate lava cake",
        "pan-seared salmon",
        "homemade ramen broth",
        "the perfect pizza dough",
        "spicy chicken wings",
        "a creamy mushroom soup",
        "beef stew",
        "vegetable curry",
        "fluffy pancakes",
        "street tacos",
        "caramel pudding",
        "a roast dinner",
        "pickled cucumbers",
        "fresh pasta sauce",
        "steamed buns",
    ),
    "pets": (
        "my golden retriever",
        "this rescue kitten",
        "a very grumpy cat",
        "two husky puppies",
        "our old dog",
        "the talking parrot",
        "a baby hamster",
        "my rabbit",
        "the neighbour's cat",
        "a sleepy corgi",
        "these stray kittens",
        "a clever border collie",
        "our tortoise",
        "the tiniest puppy",
        "a jealous cat",
        "my dog's first bath",
        "a cat and a dog",
        "the bunny",
        "a goldfish tank",
        "our new poodle",
    ),
    "gaming": (
        "the final boss",
        "a ranked match",
        "this speedrun",
        "my sniper clutch",
        "the new patch",
        "a hidden Easter egg",
        "level 99",
        "a Minecraft castle",
        "the best loadout",
        "a pro gamer",
        "an indie roguelike",
        "the battle royale",
        "a noob teammate",
        "this console controller",
        "co-op mode",
        "an open world RPG",
        "the esports final",
        "a cheater in my lobby",
        "the rarest skin",
        "a retro arcade cabinet",
    ),
    "travel": (
        "a night train through Norway",
        "hidden beaches of Bali",
        "backpacking in Peru",
        "48 hours in Tokyo",
        "the Alps by bus",
        "a tiny island hotel",
        "a road trip to Iceland",
        "the old town of Lisbon",
        "a desert camp",
        "cheap flights to Europe",
        "a mountain village",
        "my airport layover",
        "the Great Wall at dawn",
        "island hopping in Greece",
        "a city tour",
        "a passport mistake",
        "the longest ferry ride",
        "a campervan trip",
        "a lakeside hostel",
        "the northern lights",
    ),
    "fitness": (
        "a ten minute ab workout",
        "my first marathon",
        "push-ups every day",
        "deadlift form",
        "morning yoga",
        "leg day",
        "a home HIIT session",
        "the gym for beginners",
        "squat mistakes",
        "stretching before a run",
        "a 30 day plank challenge",
        "bicep curls",
        "weight loss",
        "pilates on a mat",
        "kettlebell swings",
        "my protein routine",
        "boxing training",
        "a personal trainer",
        "pull-ups from zero",
        "cardio at home",
    ),
    "music": (
        "an acoustic guitar cover",
        "this piano ballad",
        "a street violinist",
        "the drum solo",
        "my first song",
        "a rap freestyle",
        "the choir rehearsal",
        "a lo-fi beat",
        "singing live",
        "an old vinyl record",
        "a jazz trio",
        "this guitar riff",
        "karaoke night",
        "a DJ set",
        "the orchestra",
        "a beatbox battle",
        "learning the ukulele",
        "the band's encore",
        "a duet with my sister",
        "bass lines",
    ),
}
_HASHTAGS: dict[str, tuple[str, ...]] = {
    "cooking": ("#recipe", "#foodie", "#cooking", "#kitchen", "#homemade", "#dinner"),
    "pets": ("#cutepets", "#dogs", "#catlover", "#puppy", "#animals", "#petlife"),
    "gaming": ("#gaming", "#gameplay", "#gamer", "#esports", "#videogames", "#playthrough"),
    "travel": ("#travel", "#wanderlust", "#vacation", "#roadtrip", "#explore", "#tourism"),
    "fitness": ("#fitness", "#workout", "#gymlife", "#training", "#fitfam", "#exercise"),
    "music": ("#music", "#song", "#guitar", "#livemusic", "#singer", "#newmusic"),
}
_EMOJI: dict[str, str] = {
    "cooking": "🍜🍳🍕🥘🍰",
    "pets": "🐶🐱🐾🐰🦜",
    "gaming": "🎮🕹👾🏆💥",
    "travel": "✈🏝🗺🚂🏔",
    "fitness": "💪🏋🏃🧘🔥",
    "music": "🎵🎸🎤🥁🎹",
}
_MOODS: dict[str, tuple[str, ...]] = {
    "neon": ("neon glow", "glowing at night", "electric lights"),
    "pastel": ("soft pastel", "dreamy colours", "gentle and light"),
    "retro": ("retro stripes", "seventies look", "vintage poster"),
    "comic": ("comic style", "pop art dots", "cartoon print"),
    "noir": ("black and white", "film noir", "grainy monochrome"),
    "mosaic": ("pixel mosaic", "colourful tiles", "blocky pixels"),
}
_OPENERS = (
    "", "", "", "How I tried ", "The truth about ", "Watch this: ", "Nobody told me about ",
    "Everything about ", "POV: ", "Day 12 of ", "Why I love ", "I can't believe ", "Finally, ",
    "3 secrets of ", "What happened with ",
)  # fmt: skip
_CLOSERS = (
    "", "", "", " (part 2)", " - you have to see the end", ", full version", " and it went wrong",
    " in one minute", " | ep. 7", " with my best friend", "... wait for it", " for the first time",
    " after so many years", " that everyone is talking about", "?!",
)  # fmt: skip
_VAGUE = (
    "you won't believe this", "wait for it...", "part 3", "must see!!", "best moments of the week",
    "new video", "so satisfying", "this made my day", "don't skip the end", "just watch",
)  # fmt: skip
_COMMON_TAGS = ("#fyp", "#viral", "#trending", "#foryou", "#daily", "#2024")
_COMMON_EMOJI = "😂😍🤔👀✨"


def draw_titles(catalogue: Catalogue, config: SampleConfig) -> list[str]:
    """Return one title per item, in item order; a few are empty."""
    rng = generator(config.seed, Stream.TITLES)
    empty = rng.random(len(catalogue)) < config.empty_title_share
    titles = []
    for category, style in zip(catalogue.category, catalogue.style, strict=True):
        titles.append(_title(CATEGORIES[category], STYLES[style], rng))
    return ["" if is_empty else title for title, is_empty in zip(titles, empty, strict=True)]


def describe(catalogue: Catalogue) -> list[str]:
    """Return a caption per item that names its style and its category, as a curator would."""
    return [
        f"{moods[item_id % len(moods)]} {CATEGORIES[category]} video"
        for item_id, category, moods in zip(
            catalogue.item_id,
            catalogue.category,
            (_MOODS[STYLES[style]] for style in catalogue.style),
            strict=True,
        )
    ]


def _title(category: str, style: str, rng: np.random.Generator) -> str:
    # A fixed number of draws per title keeps every title independent of the others' forms.
    chance, choice = rng.random(8), rng.random(12)
    if chance[0] < _VAGUE_SHARE:
        text = _pick(_VAGUE, choice[0])
    else:
        subject = _pick(_SUBJECTS[category], choice[0])
        text = _pick(_OPENERS, choice[1]) + subject + _pick(_CLOSERS, choice[2])
        if chance[1] < 0.25:
            text += f", then {_pick(_SUBJECTS[category], choice[3])}"
        if chance[2] < 0.55:
            text += f" {_pick(_HASHTAGS[category], choice[4])}"
        if chance[3] < 0.35:
            text = f"{text} {_pick(_EMOJI[category], choice[5])}"
    if chance[4] < _MOOD_SHARE:
        text += f" ({_pick(_MOODS[style], choice[6])})"
    if chance[5] < 0.4:
        text += f" {_pick(_COMMON_TAGS, choice[7])}"
    if chance[6] < 0.2:
        text = f"{_pick(_COMMON_EMOJI, choice[8])} {text}"
    if chance[7] < 0.12:
        text = text.upper()
    return text[0].upper() + text[1:]


def _pick(options: tuple[str, ...] | str, uniform: float) -> str:
    return options[int(uniform * len(options))]
