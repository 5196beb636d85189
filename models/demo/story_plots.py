"""The plots: each tells one kind of story, from a wish or a trouble to an end that follows from it.

Every plot plants what it needs later (a thing, a fear, a tool, a promise), so the end answers the beginning.
"""

from __future__ import annotations

from collections.abc import Callable

from story_plots_trouble import confession, lost_pet, lost_thing, overcame_fear, quarrel, storm
from story_plots_wish import contest, gift, growing, hurt_animal, newcomer, treasure
from story_teller import Teller

PLOTS: dict[str, Callable[[Teller], None]] = {
    "lost_thing": lost_thing,
    "quarrel": quarrel,
    "overcame_fear": overcame_fear,
    "contest": contest,
    "hurt_animal": hurt_animal,
    "growing": growing,
    "confession": confession,
    "gift": gift,
    "newcomer": newcomer,
    "treasure": treasure,
    "lost_pet": lost_pet,
    "storm": storm,
}
