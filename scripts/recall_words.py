"""Words for the keys and values of recall.py, and a tokenizer that sees nothing else.

So that the model which recall.py saves can be told and asked in English: "The lion lives in Paris, the otter in Rome."
is "lion paris otter rome" to it, and "Where is the otter?" is "otter".
"""

from __future__ import annotations

from typing import Any

ANIMALS = """
badger bat bear beaver bee bison boar buffalo butterfly camel cat cheetah cow crab crane crow deer dog dolphin donkey
dove duck eagle eel elephant falcon ferret finch fox frog gazelle giraffe goat goose hamster hare hawk hedgehog heron
horse jaguar kangaroo koala lark lemur leopard lion lizard llama lynx magpie mole monkey moose mouse octopus otter owl
panda parrot pelican penguin pigeon rabbit
"""
CITIES = """
accra algiers amman ankara athens baghdad baku bamako bangkok beijing beirut berlin bern bogota brussels bucharest
budapest cairo canberra caracas copenhagen dakar damascus delhi dhaka doha dublin hanoi harare havana helsinki istanbul
jakarta kabul kampala kathmandu kiev kingston lagos lima lisbon ljubljana london luanda madrid manila minsk moscow
muscat nairobi nicosia oslo ottawa paris prague quito rabat riga rome santiago seoul sofia tallinn tokyo
"""
KEYS, VALUES = ANIMALS.split(), CITIES.split()


def tokenizer() -> Any:
    """One token a known word; all others, and punctuation, are left out."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*KEYS, *VALUES, "[UNK]", "[PAD]"]
    whole = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    unknown = Regex(rf"\b(?!(?:{'|'.join([*KEYS, *VALUES])})\b)\w+\b|[^\w\s]")
    whole.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(unknown, " ")])
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="[UNK]", pad_token="[PAD]")
