"""The teller: characters with consistent names and pronouns, and the sentences every plot needs.

A plot (story_plots.py) is a function over a Teller. It adds sentences with `tell` and closes paragraphs with
`paragraph`; whatever was drawn once (hero, friend, elder, places, thing, weather) stays the same to the end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import story_words as words

Option = TypeVar("Option")


@dataclass(frozen=True)
class Character:
    """Somebody with a name, a kind ("girl", "fox", "grandmother") and one set of pronouns."""

    name: str
    kind: str
    she: bool
    trait: words.Trait

    def __str__(self) -> str:
        return self.name

    @property
    def he(self) -> str:
        return "she" if self.she else "he"

    @property
    def him(self) -> str:
        return "her" if self.she else "him"

    @property
    def his(self) -> str:
        return "her" if self.she else "his"

    @property
    def self_(self) -> str:
        return "herself" if self.she else "himself"

    @property
    def He(self) -> str:  # noqa: N802 (the capital is the meaning)
        return self.he.capitalize()

    @property
    def His(self) -> str:  # noqa: N802
        return self.his.capitalize()

    def fill(self, text: str, elder: "Character") -> str:
        """Replaces {he}, {him}, {his} and {elder} in a phrase of the word lists."""
        return text.format(he=self.he, him=self.him, his=self.his, elder=elder.name)


def a(noun: str) -> str:
    """The noun phrase with its indefinite article."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


class Teller:
    """Draws the cast of one story and collects its sentences."""

    def __init__(self, rng: random.Random, invented_names: float) -> None:
        """`invented_names` is the share of names that are made of random syllables."""
        self.rng = rng
        self._invented_names = invented_names
        self.world = self.choose(("human", "animal"))
        self._names: set[str] = set()
        self._sentences: list[str] = []
        self._paragraphs: list[str] = []
        self.hero = self._character()
        self.friend = self._character()
        self.elder = self._elder()
        self.home = self.choose(words.HOMES[self.world])
        self.places = self.choose_several(words.PLACES[self.world], 4)
        self.outside = self.choose([place for place in words.PLACES[self.world] if place.name not in words.INDOORS])
        thing = self.choose(words.THINGS)
        self.thing = thing
        self.look = self.choose(thing.looks)
        self.owned = f"{self.look} {thing.noun}"
        self.weather = self.choose(words.WEATHERS)
        self.season = self.choose(words.SEASONS)
        self.food = self.choose(words.FOODS)
        self.game = self.choose(words.GAMES)

    # Drawing -------------------------------------------------------------------------------------------------------

    def name(self, she: bool) -> str:
        """A name that nobody in this story has. The invented ones teach a model to copy names it has never seen."""
        while True:
            if self.rng.random() < self._invented_names:
                name = self._invented_name()
            elif self.world == "animal" and self.chance(0.6):
                name = self.choose(words.ANIMAL_NAMES)
            else:
                name = self.choose(words.GIRL_NAMES if she else words.BOY_NAMES)
            if name not in self._names:
                self._names.add(name)
                return name

    def _invented_name(self) -> str:
        name = ""
        for _ in range(self.rng.choice((1, 2, 2, 2, 3))):
            onset = self.rng.choice(words.NAME_ONSETS)
            name += onset.lower() if name else ("" if self.chance(0.1) else onset)
            name += self.rng.choice(words.NAME_VOWELS)
            if self.chance(0.4):
                name += self.rng.choice(words.NAME_CODAS)
        return capital(name)

    def _character(self) -> Character:
        she = self.chance(0.6)
        if self.world == "animal":
            kind = self.choose(words.ANIMALS)
        elif self.chance(0.85):
            kind = "girl" if she else "boy"
        else:
            kind = self.choose(words.PROFESSIONS).replace("prince", "princess" if she else "prince")
        return Character(self.name(she), kind, she, self.choose(words.CHILD_TRAITS))

    def _elder(self) -> Character:
        name = self.choose(words.ELDER_NAMES)
        she = name in words.ELDER_IS_SHE
        if self.world == "animal":
            kind, title = self.choose(words.ELDER_ANIMALS), "Old"
        elif self.rng.random() < 0.6:
            kind, title = ("grandmother", "Grandma") if she else ("grandfather", "Grandpa")
        else:
            kind, title = ("aunt", "Aunt") if she else ("uncle", "Uncle")
        return Character(f"{title} {name}", kind, she, words.CHILD_TRAITS[1])

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def choose(self, options: Sequence[Option]) -> Option:
        """One of the options, the first the likeliest: even odds would leave a model's best tokens nearly tied."""
        return options[int(self.rng.random() ** 2 * len(options))]

    def choose_several(self, options: Sequence[Option], count: int) -> list[Option]:
        left = list(options)
        return [left.pop(left.index(self.choose(left))) for _ in range(count)]

    def pick(self, *options: str) -> str:
        return self.choose(options)

    # Telling -------------------------------------------------------------------------------------------------------

    def tell(self, *options: str) -> None:
        """Adds one of the options to the paragraph; an option may hold several sentences."""
        self._sentences.append(self.pick(*options))

    def maybe(self, probability: float, *options: str) -> None:
        if self.chance(probability):
            self.tell(*options)

    def paragraph(self) -> None:
        if self._sentences:
            self._paragraphs.append(" ".join(self._sentences))
            self._sentences = []

    def _speech(self, who: Character | str, text: str, verbs: tuple[str, ...]) -> str:
        """The text as speech of `who`; a question is always asked."""
        verb = "asked" if text[-1] == "?" else self.pick(*verbs)
        if self.chance(0.3):
            return f'{capital(str(who))} {verb}, "{text}"'
        body = text[:-1] + "," if text[-1] == "." else text
        return f'"{body}" {verb} {who}.' if self.chance(0.7) else f'"{body}" {who} {verb}.'

    def speak(self, who: Character | str, *texts: str) -> None:
        """Adds one of the texts as speech that nobody asked for."""
        text = self.pick(*texts)
        verbs = ("cried", "shouted", "called", "said") if text[-1] == "!" else ("said",)
        self._sentences.append(self._speech(who, text, verbs))

    def answer(self, who: Character | str, *texts: str) -> None:
        """Adds one of the texts as the reply to what was said just before."""
        self._sentences.append(self._speech(who, self.pick(*texts), ("said", "said", "answered", "replied")))

    def story(self) -> str:
        self.paragraph()
        return "\n".join(self._paragraphs)

    # Sentences of many plots ---------------------------------------------------------------------------------------

    def introduce(self, detail: str = "") -> None:
        """The first sentences: hero, home and nature, and `detail` (a whole sentence) if the plot has one."""
        hero = self.hero
        if self.chance(0.2):
            self._begin_in_the_middle()
        else:
            self._begin_at_home(self.pick("little ", "young ", "small ", ""))
        self.maybe(0.65, f"{hero} {hero.trait.habit}.", f"{hero.He} {hero.trait.habit}.")
        if detail:
            self.tell(detail)

    def _begin_at_home(self, size: str) -> None:
        hero, kind, trait = self.hero, self.hero.kind, self.hero.trait.word
        self.tell(
            f"Once upon a time, there was {a(f'{trait} {kind}')} named {hero}. {hero.He} lived {self.home}.",
            f"Once upon a time, {a(f'{size}{kind}')} named {hero} lived {self.home}. {hero} was very {trait}.",
            f"There once was {a(f'{trait} {kind}')} called {hero}, who lived {self.home}.",
            f"{hero} was {a(f'{size}{kind}')} who lived {self.home}. Everyone said that {hero.he} was {trait}.",
            f"Long ago, {a(f'{trait} {kind}')} named {hero} lived {self.home}.",
            f"{capital(self.home)}, there lived {a(f'{size}{kind}')} named {hero}. {hero.He} was the most {trait} "
            f"{kind} around.",
            f"{hero} lived {self.home}. {hero.He} was {a(f'{trait} {kind}')}, and {hero.he} had many friends.",
            f"There was once {a(f'{trait} little {kind}')} whose name was {hero}. {hero.He} lived {self.home}.",
            f"This is the story of {hero}, {a(f'{trait} {kind}')} who lived {self.home}.",
        )

    def _begin_in_the_middle(self) -> None:
        """Openings that are no fairy tale's, since a prompt may begin in any way."""
        hero, friend, thing, trait = self.hero, self.friend, self.owned, self.hero.trait.word
        place = self.choose(words.PLACES[self.world])
        where, time = f"{place.at} {place.name}", self.pick("morning", "afternoon", "day", "evening")
        kind = hero.kind if self.chance(0.65) else f"{self.pick('little', 'young', 'small', trait)} {hero.kind}"
        self.tell(
            f"One day, {a(kind)} named {hero} {self.pick('was sitting', 'was playing', 'woke up', 'took a walk')}"
            f" {where}.",
            f"{hero} and {friend} were playing {self.game} {where}.",
            f"{hero} and {hero.his} friend {friend} found {a(thing)} {where}.",
            f"It was a {self.weather} {self.season} {time}, and {hero} was {where}.",
            f"{hero} had {a(thing)}.",
            f"{hero} the {kind}"
            f" {self.pick('had a dream', 'was alone', 'was very happy', 'was hungry', 'could not sleep')}.",
            f"The {kind} was called {hero}.",
            f"{hero} was {a(kind)} who loved {self.food}.",
            f"The {kind} looked out of the window. {hero.His} name was {hero}.",
            f'"What a {self.pick("beautiful", "strange", "long", "wonderful")} {time}!" said {hero} the {hero.kind}.',
        )
        self.maybe(
            0.7,
            f"{hero} lived {self.home} and was very {trait}.",
            f"{hero.He} was the most {trait} {hero.kind} around.",
            f"{hero} lived {self.home}.",
            f"Everyone knew that {hero} was {trait}.",
        )

    def one_day(self) -> str:
        """The start of a sentence in the past: "One windy morning," or so."""
        time = self.pick("morning", "afternoon", "day")
        return self.pick(
            f"One {self.weather} {time},",
            f"One {self.weather} {self.season} {time},",
            f"One {time} in {self.season},",
            f"One {self.weather} {time} in {self.season},",
            "One day,",
        )

    def meet_friend(self) -> None:
        hero, friend = self.hero, self.friend
        kind = friend.kind if self.world == "animal" else f"{friend.trait.word} {friend.kind}"
        self.tell(
            f"{hero.His} best friend was {a(kind)} named {friend}.",
            f"{hero} had a good friend, {a(kind)} named {friend}.",
            f"Next door lived {friend}, {a(kind)}, and the two were always together.",
        )

    def elder_intro(self) -> str:
        """The elder at the first mention."""
        if self.world == "animal":
            return f"{self.elder}, the wise {self.elder.kind}"
        return f"{self.hero.his} {self.elder.kind}, {self.elder}"

    def moral(self, *lessons: str) -> None:
        """The last paragraph: what the hero learned, and a quiet picture to end with."""
        self.paragraph()
        hero, lesson = self.hero, self.pick(*lessons)
        self.tell(
            f"From that day on, {hero} knew that {lesson}.",
            f"{hero} had learned that {lesson}.",
            f"And {hero} never forgot that {lesson}.",
            f"That night, {hero} thought about the day and understood that {lesson}.",
        )
        self.maybe(
            0.65,
            f"{hero.He} fell asleep with a smile.",
            f"The stars came out, and {hero} slept well that night.",
            "And they all lived happily ever after.",
            "Then everyone sat down at the big table and ate until they were full.",
            f"{self.elder} nodded and smiled.",
            f"And if you pass by, you may still hear {hero.him} laughing.",
        )
