"""People who move, and what is said of where they are: bAbI's tasks 1, 9 and 10. Two sentences, then a question."""

from __future__ import annotations

import numpy as np

from evals.tasks.babi.story import MOVES, PEOPLE, RECENT, ROOMS, TOWN, TOWNSPEOPLE, Story


class Places:
    """What was last said of each person, told as task 1, 9 or 10 tells it."""

    def __init__(self, rng: np.random.Generator, number: int) -> None:
        self.rng, self.number = rng, number
        self.people, self.rooms = (TOWNSPEOPLE, TOWN) if number == 10 else (PEOPLE, ROOMS)
        self.facts: list[str] = []
        self.at = {person: self._pick(self.rooms) for person in self.people}  # told or not
        # Fact, whether it is so ("either": one of two is), and the places it names.
        self.said: dict[str, tuple[int, str, tuple[str, ...]]] = {}

    def _pick(self, options: tuple[str, ...] | list[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def pair(self) -> None:
        """Two sentences."""
        self.act()
        self.act()

    def act(self) -> None:
        """One sentence, about anybody."""
        person = self._pick(self.people)
        elsewhere = [room for room in self.rooms if room != self.at[person]]
        kind = "move" if self.number == 1 else self._pick(["move", "say"])
        if self.number == 10 and self.rng.random() < 1 / 3:
            kind = "either"
        elif self.number == 9 and kind == "say" and self.rng.random() < 0.5:
            kind = "deny"
        if kind == "move":
            self.at[person] = self._pick(elsewhere)
            self._tell(person, f"{self._pick(MOVES)} the {self.at[person]}", "yes", (self.at[person],))
        elif kind == "say":
            if person in self.said:  # nobody says what is known
                self.at[person] = self._pick(elsewhere)
            self._tell(person, f"is in the {self.at[person]}", "yes", (self.at[person],))
        elif kind == "deny":
            self._deny(person, elsewhere)
        else:
            one, other = (str(room) for room in self.rng.permutation(self.rooms)[:2])
            self.at[person] = self._pick([one, other])
            self._tell(person, f"is either in the {one} or the {other}", "maybe", (one, other))

    def _deny(self, person: str, elsewhere: list[str]) -> None:
        if self.rng.random() < 0.5:
            room = self.at[person]  # has left it since, for where nobody says
            self.at[person] = self._pick(elsewhere)
            self._tell(person, f"is no longer in the {room}", "no", (room,))
        else:
            room = self._pick(elsewhere)
            self._tell(person, f"is not in the {room}", "no", (room,))

    def _tell(self, person: str, what: str, so: str, rooms: tuple[str, ...]) -> None:
        self.said[person] = (len(self.facts), so, rooms)
        self.facts.append(f"{person} {what}.")

    def ask(self) -> Story | None:
        """A question that what was last said of somebody answers."""
        person = self._pick([who for who in sorted(self.said) if self.said[who][0] >= len(self.facts) - RECENT])
        at, so, rooms = self.said[person]
        if self.number == 1:
            return Story(tuple(self.facts), f"Where is {person}?", rooms[0], (at,))
        room, answer = self._pick(rooms), so
        if so != "no" and self.rng.random() < 0.5:
            room, answer = self._pick([other for other in self.rooms if other not in rooms]), "no"
        return Story(tuple(self.facts), f"Is {person} in the {room}?", answer, (at,))
