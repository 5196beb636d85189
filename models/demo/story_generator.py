"""Generates short stories, and requests for them, from nothing but a seed.

The demo model is trained on this generator's output and on nothing else, so its data has no licence but this
repository's. A story is planned first (cast, places, thing, plot) and then told, each sentence in one of several
forms; two equal stories are practically never drawn.

    python story_generator.py --count 3 --seed 7
    python story_generator.py --count 3 --seed 7 --documents   # as the model sees them, requests included
"""

from __future__ import annotations

import argparse
import random
from typing import NamedTuple

import story_words as words
from story_plots import PLOTS
from story_teller import Teller, a

REQUEST_SHARE = 0.4  # of all documents; the others are a story alone
INVENTED_NAMES = 0.12  # a person who asks for a story names its hero anyhow, so requests have more of them
INVENTED_NAMES_IN_REQUESTS = 0.35
REQUEST_TEMPLATE = "[INST] {request} [/INST] {story}"  # what the chat template in tokenizer_config.json renders

SUBJECTS = {
    "lost_thing": ("who loses {thing}", "who looks for {thing}"),
    "quarrel": ("who learns to share", "who has a quarrel with a friend", "and a quarrel about {thing}"),
    "overcame_fear": ("who is afraid", "who learns to be brave", "who overcomes a fear"),
    "contest": ("who takes part in a contest", "who wants to win"),
    "hurt_animal": ("who helps a hurt animal", "who takes care of an animal"),
    "growing": ("who plants a seed", "who learns to be patient"),
    "confession": ("who tells a lie", "who breaks something", "who learns to tell the truth"),
    "gift": ("who makes a present", "who needs a birthday present"),
    "newcomer": ("who meets somebody new", "who makes a new friend"),
    "treasure": ("who finds a treasure", "who finds an old map", "who goes on an adventure"),
    "lost_pet": ("who loses a pet", "who looks for a lost pet"),
    "storm": ("who gets into a storm", "and a storm"),
}

WITH_FRIEND = {"quarrel", "contest", "newcomer", "treasure", "storm"}  # plots whose friend is there to the end
SMALL_TALK_SHARE = 0.02
SMALL_TALK = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Good morning!", "Good evening!", "Hey"),
        ("Hello! Whom shall I tell you a story about?", "Hello! I tell short stories. Ask me for one!"),
    ),
    (
        ("Who are you?", "What are you?", "What can you do?", "What is your name?", "Help"),
        (
            "I am a small storyteller. Ask me for a story about a child or an animal.",
            "I tell short stories. Try: Tell me a story about a fox who is afraid.",
        ),
    ),
    (
        ("Thank you!", "Thanks", "Thank you, that was nice.", "Great story!", "Good night!"),
        (
            "You are welcome! Shall I tell you another story?",
            "I am glad that you liked it. Good night, and sweet dreams!",
        ),
    ),
)


class Story(NamedTuple):
    """A story, and a request that it answers."""

    text: str
    request: str


def _request(t: Teller, plot: str) -> tuple[str, str]:
    """A request that the story of this teller answers, and the ending that the request asks for ("" for none)."""
    hero = t.hero
    verb = t.pick(
        "Tell me a story", "Write a story", "Write a short story", "Please tell me a story", "Can you tell me a story"
    )
    kind = hero.kind if t.chance(0.6) else f"{hero.trait.word} {hero.kind}"
    name = t.pick(f" named {hero}", f" called {hero}", f" named {hero}", "")
    subject = " " + t.pick(*SUBJECTS[plot]).format(thing=a(t.owned)) if t.chance(0.7) else ""
    if t.chance(0.1):
        request = verb
    elif plot in WITH_FRIEND and t.chance(0.3):
        friend = t.friend.kind if t.friend.kind != hero.kind else f"friend named {t.friend}"
        request = f"{verb} about {a(hero.kind)}{name} and {a(friend)}"
    else:
        request = f"{verb} about {a(kind)}{name}{subject}"
    request += "?" if verb.startswith("Can") else "."
    if t.chance(0.75):
        return request, ""
    if t.chance(0.5):
        marker = t.pick(*words.MARKERS)
        return f"{request} End it with {marker}", f" The end {marker}"
    return f'{request} Finish with the words "The end".', " The end."


def make_story(rng: random.Random, plot: str | None = None, invented_names: float = INVENTED_NAMES) -> Story:
    """Draws one story (of the given plot, or of any)."""
    teller = Teller(rng, invented_names)
    chosen = plot or teller.choose(list(PLOTS))
    PLOTS[chosen](teller)
    request, ending = _request(teller, chosen)
    return Story(teller.story() + ending, request)


def make_document(rng: random.Random) -> str:
    """Draws one training document: a story alone, a request and its story, or a word of small talk."""
    draw = rng.random()
    if draw < SMALL_TALK_SHARE:
        said, answers = rng.choice(SMALL_TALK)
        answer = answers[0] if rng.random() < 0.75 else answers[1]
        return REQUEST_TEMPLATE.format(request=rng.choice(said), story=answer)
    if draw < SMALL_TALK_SHARE + REQUEST_SHARE:
        story = make_story(rng, invented_names=INVENTED_NAMES_IN_REQUESTS)
        return REQUEST_TEMPLATE.format(request=story.request, story=story.text)
    teller = Teller(rng, INVENTED_NAMES)
    PLOTS[teller.choose(list(PLOTS))](teller)
    return teller.story()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1, help="how many to print")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument("--plot", choices=list(PLOTS), help="only stories of this plot")
    parser.add_argument("--documents", action="store_true", help="print training documents instead of stories")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    for _ in range(arguments.count):
        print(make_document(rng) if arguments.documents else make_story(rng, arguments.plot).text, end="\n\n")


if __name__ == "__main__":
    main()
