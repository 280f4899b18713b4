"""Common English words of three to seven letters, none of which has the letters of another."""

from __future__ import annotations

from functools import cache

_WORDS = """
air arm bad bag bed big bit box boy bus buy car cat cow cry cup cut day dog dry eat egg eye far fat fly fox fun get
gun hat hot ice job key kid law leg let lip low man map mix mud new oil old pay pen pie rain red run sad sea shy sky
son sun tax tie toy try van war wet win yes zoo baby back ball bank bath bell bird blue boat body bone book born bowl
burn busy cake call camp card city club coal coat cold cook corn cost deep desk dirt dish door down drum duck dust
easy edge face fact farm fear fish five flag foot fork frog gift girl give glad gold good grey hair hall hand head
help hill hole home hope hour idea jump king kiss lady lake lamp leaf left life line lion long love luck milk moon
neck nose page park path pink poor pull rich road roof room rope salt sand seed ship shoe shop sick silk soap sock
soft song soup star swim tail talk tall tent tree true walk wall warm wash wave week wife wild wind wing wolf wood
word yard year apple bread brick bring brown brush build chair cheap child clean clock cloud coach count crowd dance
dream dress drink early eight empty enjoy field fight floor fruit ghost glass grass green group guard happy heavy
honey house juice knife laugh light lucky lunch magic metal money month mouth music night noise ocean paint paper
phone pilot plant plate price proud queen quick quiet radio river round score seven shirt short skirt sleep smile
smoke snake sound south space spoon sport stand storm story sugar sweet table taste thick think tired touch tower
train truck uncle visit voice watch wheel white woman world young animal answer arrive autumn basket battle before
better bottle bridge bright butter camera candle castle cheese choose church circle coffee colour copper corner cotton
cousin dinner doctor double driver eleven engine famous farmer father finger flower forest friend garden gentle golden
ground guitar hammer height holiday hungry island jacket jungle kitten ladder leader lesson letter listen little
lizard market middle minute mirror monkey mother museum narrow needle number office orange pencil people pepper planet
pocket police potato prince purple rabbit rocket school second shadow silver simple sister spider spring square strong
summer sunday supper switch temple thirty throat ticket tomato travel tunnel twelve valley violin wallet wealth window
winter wonder yellow balloon bedroom believe benefit blanket brother captain central chapter chicken cottage country
culture curtain diamond drawing eastern evening factory feather fiction foreign fortune freedom gallery giraffe
grammar healthy highway history husband imagine journey kitchen lantern library machine morning mystery natural
network nothing october outside package painter partner penguin perfect picture popular pottery problem promise
pumpkin quarter railway rainbow science seventy silence soldier special stomach student sweater teacher theatre
thunder tonight traffic trouble uniform village visitor warning weather welcome western
"""


@cache
def by_length(letters: int) -> tuple[str, ...]:
    """The words of so many letters."""
    return tuple(word for word in _WORDS.split() if len(word) == letters)
