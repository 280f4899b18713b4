"""What houses are told apart by: names, colours, pets, as the authors of "Faith and Fate" put them.

Source: the public code of arXiv 2305.18654 (nouhadziri/faith-and-fate, logic_puzzle/literals.py, under its licence).
These are a benchmark's own strings: their spelling ("boquet") is kept, so that prompts are the ones of the paper.
"""

from __future__ import annotations

NAME = "Name"  # is in every puzzle, as the first attribute

# Name of an attribute to what a puzzle says of it, and its values with the phrases that clues use for them.
ATTRIBUTES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    NAME: (
        "Each person has a unique name",
        (("arnold", "Arnold"), ("eric", "Eric"), ("peter", "Peter"), ("alice", "Alice"), ("bob", "Bob")),
    ),
    "Color": (
        "Each person has a favorite color",
        (
            ("yellow", "the person who loves yellow"),
            ("red", "the person whose favorite color is red"),
            ("white", "the person who loves white"),
            ("green", "the person whose favorite color is green"),
            ("blue", "the person who loves blue"),
        ),
    ),
    "Nationality": (
        "The people are of nationalities",
        (
            ("dane", "the Dane"),
            ("brit", "the British person"),
            ("swede", "the Swedish person"),
            ("norwegian", "the Norwegian"),
            ("german", "the German"),
        ),
    ),
    "Animal": (
        "The people keep different animals",
        (
            ("horse", "the person who keeps horses"),
            ("cat", "the cat lover"),
            ("bird", "the bird keeper"),
            ("fish", "the fish enthusiast"),
            ("dog", "the dog owner"),
        ),
    ),
    "Drink": (
        "Each person has a favorite drink",
        (
            ("water", "the one who only drinks water"),
            ("tea", "the tea drinker"),
            ("milk", "the person who likes milk"),
            ("coffee", "the coffee drinker"),
            ("root beer", "the root beer lover"),
        ),
    ),
    "Cigar": (
        "Everyone has a different favorite cigar",
        (
            ("pall mall", "the person partial to Pall Mall"),
            ("prince", "the Prince smoker"),
            ("blue master", "the person who smokes Blue Master"),
            ("dunhill", "the Dunhill smoker"),
            ("blends", "the person who smokes many different blends"),
        ),
    ),
    "Food": (
        "Everyone has something different for lunch",
        (
            ("grilled cheese", "the person who loves eating grilled cheese"),
            ("pizza", "the person who is a pizza lover"),
            ("spaghetti", "the person who loves the spaghetti eater"),
            ("stew", "the person who loves the stew"),
            ("stir fry", "the person who loves stir fry"),
        ),
    ),
    "Flower": (
        "They all have a different favorite flower",
        (
            ("carnations", "the person who loves a carnations arrangement"),
            ("daffodils", "the person who loves a bouquet of daffodils"),
            ("lilies", "the person who loves the boquet of lilies"),
            ("roses", "the person who loves the rose bouquet"),
            ("tulips", "the person who loves the vase of tulips"),
        ),
    ),
    "PhoneModel": (
        "People use different phone models",
        (
            ("iphone 13", "the person who uses an iPhone 13"),
            ("samsung galaxy s21", "the person who uses a Samsung Galaxy S21"),
            ("google pixel 6", "the person who uses a Google Pixel 6"),
            ("oneplus 9", "the person who uses a OnePlus 9"),
            ("huawei p50", "the person who uses a Huawei P50"),
        ),
    ),
    "Children": (
        "Each mother is accompanied by their child",
        (
            ("bella", "the person's child is named Bella"),
            ("fred", "the person's child is named Fred"),
            ("meredith", "the person's child is named Meredith"),
            ("samantha", "the person's child is named Samantha"),
            ("timothy", "the person who is the mother of Timothy"),
        ),
    ),
    "Smoothie": (
        "Everyone has a favorite smoothie",
        (
            ("cherry", "the person who likes Cherry smoothies"),
            ("desert", "the Desert smoothie lover"),
            ("watermelon", "the Watermelon smoothie lover"),
            ("dragonfruit", "the Dragonfruit smoothie lover"),
            ("lime", "the person who drinks Lime smoothies"),
        ),
    ),
    "CarModel": (
        "People own different car models",
        (
            ("tesla model 3", "the person who owns a Tesla Model 3"),
            ("ford f150", "the person who owns a Ford F-150"),
            ("toyota camry", "the person who owns a Toyota Camry"),
            ("honda civic", "the person who owns a Honda Civic"),
            ("bmw 3 series", "the person who owns a BMW 3 Series"),
        ),
    ),
    "FavoriteSport": (
        "People have different favorite sports",
        (
            ("soccer", "the person who loves soccer"),
            ("basketball", "the person who loves basketball"),
            ("tennis", "the person who loves tennis"),
            ("swimming", "the person who loves swimming"),
            ("baseball", "the person who loves baseball"),
        ),
    ),
}
PHRASES: dict[str, dict[str, str]] = {name: dict(values) for name, (_, values) in ATTRIBUTES.items()}
