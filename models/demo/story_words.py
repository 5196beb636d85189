"""Words of the story generator: who lives where, with which things, in what weather.

Every list is read by story_plots.py, so an entry has to fit every sentence that uses its list: places are named
with their article and preposition, things with the verb that a child would use for them.
"""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Somewhere to be: f"{at} {name}", with spots where a small thing can hide."""

    at: str
    name: str
    spots: tuple[str, ...]


INDOORS = {
    "the library",
    "the market",
    "the barn",
    "the attic",
    "the train station",
    "the school",
    "the bakery",
    "the cave",
    "the old mill",
}


class Thing(NamedTuple):
    """Something a character owns; `use`, `used` and `using` are what it is for."""

    noun: str
    looks: tuple[str, ...]
    use: str
    used: str
    using: str


class Trait(NamedTuple):
    """A character's nature and what it does all day because of it (with the verb in the past)."""

    word: str
    habit: str


class Fear(NamedTuple):
    """What frightens somebody, the errand that demands courage, and what is found when it is overcome."""

    name: str
    sign: str
    errand: str
    deed: str
    reward: str


GIRL_NAMES = """
Mia Lily Anna Emma Lucy Nora Ella Ruby Rosa Clara Ivy Alice Molly Sara Zoe Nina Grace Daisy Eva Maya Lena Tessa Hannah
Julia Maria Olive Penny Sophie Amy Leila Greta Ada Fatima Yuki Priya Ingrid Carmen Amara Zoë Chloé Anaïs Renée Sofía
Matilda Abigail Adele Agatha Aisha Alma Amelia Angela Anita Astrid Audrey Aurora Beatrice Bella Bianca Bridget Camille
Caroline Catherine Cecilia Celeste Charlotte Christine Claire Cleo Cora Dalia Dana Delia Diana Dora Dorothy Edna Elena
Eliza Elsa Emily Erica Esme Esther Eugenia Evelyn Faith Fiona Frances Frida Gemma Georgia Gloria Gwen Harriet Heidi
Helen Hilda Hope Ines Irene Iris Isabel Isla Jada Jane Jasmine Jenny Jessica Joan Josephine Joy Judith June Karen Kate
Keiko Kim Kira Laila Laura Leah Lina Linda Lisa Lola Lorena Louise Luna Lydia Mabel Madeline Maggie Malia Margaret
Marina Marta Mary Maud Megan Melody Mina Miranda Miriam Monica Nadia Naomi Natalie Nell Odette Olga Ottilie Paloma
Paula Pearl Petra Phoebe Polly Quinn Rachel Ramona Rebecca Rita Robin Rosalind Roxy Sadie Salma Samira Selma Serena
Shirin Sibyl Sienna Simone Sonia Stella Susan Sylvia Tamara Tanya Thea Tilda Tina Uma Ursula Valerie Vera Victoria
Viola Violet Wanda Wendy Winnie Xenia Yara Yasmin Yvonne Zara Zelda
""".split()
BOY_NAMES = """
Tom Ben Max Leo Sam Jack Finn Oscar Hugo Noah Eli Peter Theo Luke Adam Oliver Jonas Henry Felix Milo Daniel Will
Arthur Simon Toby Ravi Omar Kenji Pablo Ivan Mateo Karl Nico Jamal Emil José Søren André Björn Théo Zoltán Aaron Abdul
Abel Aidan Alan Albert Alec Alex Alfred Amir Andrew Anton Archie Asher Axel Barney Basil Bernard Bill Bob Boris Brian
Bruno Caleb Carlos Casper Cedric Charlie Chen Chris Clark Claude Colin Conrad Craig Cyril Dario David Dennis Derek
Dexter Diego Dmitri Dominic Douglas Dylan Edgar Edmund Edward Edwin Elias Elmer Eric Ernest Ethan Evan Ezra Fabian
Farid Felipe Fergus Francis Frank Fred Gabriel Gareth Gavin George Gilbert Giles Gordon Graham Gregory Gus Hamish Hans
Harold Harry Harvey Hassan Hector Herbert Homer Horace Howard Hubert Ian Igor Isaac Ismael Jacob James Jasper Javier
Jeremy Jim Joe John Jonathan Joseph Joshua Julian Justin Kai Kevin Kofi Kurt Kyle Lars Laurence Leon Leonard Lewis
Liam Lionel Lorenzo Louis Lucas Magnus Malik Marco Mark Marvin Matthew Maurice Micah Michael Mohammed Morris Nathan
Ned Neil Nigel Nils Norman Olaf Orlando Otis Owen Patrick Paul Percy Philip Quentin Ralph Ray Rex Richard Robert Roger
Roland Roman Ronald Rory Rowan Rufus Rupert Samuel Sebastian Seth Stanley Stefan Stephen Steve Tariq Ted Thomas Tim
Tony Tristan Ulrich Vernon Victor Vincent Vladimir Walter Wayne Wesley Xavier Yannick Yusuf Zach Zeke
""".split()
ANIMAL_NAMES = (
    "Pip Bramble Hazel Clover Moss Thistle Poppy Rusty Nutmeg Willow Acorn Biscuit Dusty Fern Ginger Maple Pebble "
    "Sorrel Tansy Bracken Juniper Sage Tumble Whisker Button Marigold Copper Dash Patch Sunny Misty Bumble Scout Olly "
    "Flick Mira Tuck Wren Berry Jasper"
).split()
ELDER_NAMES = (
    "Rose",
    "Edith",
    "Agnes",
    "Walter",
    "George",
    "Martha",
    "Albert",
    "Ida",
    "Otto",
    "Bertha",
    "Hector",
    "Flora",
)
ELDER_IS_SHE = {"Rose", "Edith", "Agnes", "Martha", "Ida", "Bertha", "Flora"}
NAME_ONSETS = """
B C D F G H J K L M N P R S T V W Z B D F G K L M N P R S T Qu X Y Ch Sh Th Br Cr Dr Fr Gr Tr Bl Cl Fl Gl St Sk Wh Kn Tw
""".split()
NAME_VOWELS = "a e i o u a e i o u a e i o u ai ea ee oo ia io ou y".split()
NAME_CODAS = "n m l r s t d k x th nd rt ll tt ss ck b g p v z".split()

CHILD_TRAITS = (
    Trait("curious", "asked a hundred questions before breakfast"),
    Trait("kind", "always had a good word for everyone"),
    Trait("cheerful", "sang on the way to everything"),
    Trait("quiet", "liked to listen more than to talk"),
    Trait("clever", "loved puzzles and riddles"),
    Trait("brave", "climbed every tree that was tall enough"),
    Trait("forgetful", "often left one sock behind"),
    Trait("patient", "could watch a snail cross a path"),
    Trait("stubborn", "never liked to hear the word no"),
    Trait("shy", "hid behind the door when visitors came"),
    Trait("lively", "ran where others walked"),
    Trait("careful", "looked twice before every step"),
    Trait("proud", "liked to be the best at every game"),
    Trait("dreamy", "saw castles in the clouds"),
    Trait("helpful", "carried baskets for the neighbors"),
    Trait("impatient", "could not wait for anything"),
)

ANIMALS = """
fox rabbit hedgehog mouse squirrel badger otter bear frog duck mole beaver deer goose raccoon turtle sparrow hare lamb
kitten fox rabbit hedgehog mouse squirrel cat dog puppy wolf penguin monkey pig hen pony lizard snail bat crow cricket
dragon robot gnome fairy elf troll unicorn lynx weasel panda koala chipmunk rat swan robin seal crab lion tiger elephant
""".split()
PROFESSIONS = ("prince", "pirate", "wizard", "knight", "baker", "sailor", "explorer", "inventor", "painter", "farmer")
ELDER_ANIMALS = ("owl", "tortoise", "heron", "goat", "raven", "stag", "toad")
JOBS = ("baker", "gardener", "teacher", "farmer", "sailor", "carpenter", "shepherd", "painter", "tailor", "librarian")
PETS = {
    "human": ("puppy", "kitten", "parrot", "pony", "rabbit", "goat", "duckling", "hamster"),
    "animal": ("ladybug", "snail", "cricket", "beetle", "firefly", "grasshopper"),
}
PET_LOOKS = ("small brown", "fluffy white", "tiny black", "spotted", "gray", "golden", "sleepy", "playful")

HOMES = {
    "human": (
        "in a small house by the sea",
        "in a yellow house at the end of a lane",
        "on a farm near the hills",
        "in a tall house above a bakery",
        "in a village between two rivers",
        "in a cottage beside the forest",
        "in a busy town with a clock tower",
        "in a little white house on a hill",
        "on a boat in the harbor",
        "in a stone house near the old bridge",
    ),
    "animal": (
        "in a hollow oak",
        "under the roots of an old tree",
        "in a burrow beside the brook",
        "at the edge of the forest",
        "in a cozy den on the hillside",
        "near a quiet pond",
        "in a little house made of sticks and moss",
        "under a hedge full of berries",
        "in a warm hole behind the waterfall",
        "in the middle of a green valley",
    ),
}

PLACES = {
    "human": (
        Place("in", "the park", ("under a bench", "behind the swings", "beside the pond")),
        Place("in", "the library", ("between two thick books", "under the reading table", "behind a curtain")),
        Place("at", "the market", ("under a table of melons", "behind the flower stand", "next to the cheese cart")),
        Place("at", "the beach", ("under a pile of seaweed", "between two rocks", "inside an old rowboat")),
        Place("in", "the garden", ("under the rose bush", "behind the watering can", "between the bean rows")),
        Place("in", "the barn", ("behind a bale of hay", "under the wooden ladder", "inside an empty bucket")),
        Place("in", "the attic", ("inside a dusty trunk", "behind an old mirror", "under a broken chair")),
        Place("at", "the train station", ("under a green bench", "behind the ticket counter", "beside the big clock")),
        Place("at", "the school", ("under a desk", "behind the blackboard", "on the highest shelf")),
        Place("by", "the river", ("among the tall reeds", "under the bridge", "behind a smooth stone")),
        Place("in", "the bakery", ("behind a sack of flour", "under the counter", "beside the warm oven")),
        Place("on", "the hill", ("under a lonely pine tree", "behind the old wall", "in the long grass")),
    ),
    "animal": (
        Place("in", "the meadow", ("under a big leaf", "among the daisies", "behind a molehill")),
        Place("by", "the brook", ("between two wet stones", "under a fern", "among the reeds")),
        Place("in", "the forest", ("inside a hollow log", "under a pile of leaves", "behind a mushroom")),
        Place("at", "the pond", ("under a lily pad", "behind the willow roots", "in the soft mud")),
        Place("on", "the hill", ("behind a gray rock", "in the long grass", "under a thorn bush")),
        Place("in", "the orchard", ("under an apple tree", "inside an old basket", "behind the stone wall")),
        Place("by", "the waterfall", ("behind the curtain of water", "under a mossy stone", "beside a tall fern")),
        Place("in", "the cave", ("in a dark corner", "under a flat rock", "behind a pile of pebbles")),
        Place("in", "the berry patch", ("under the thickest bush", "between the thorns", "beside an ant hill")),
        Place("at", "the old mill", ("under the wheel", "behind a sack of grain", "beside the wooden door")),
    ),
}

THINGS = (
    Thing("kite", ("red", "yellow", "striped"), "fly it", "flew it", "flying it"),
    Thing("ball", ("green", "bouncy", "striped"), "kick it", "kicked it", "kicking it"),
    Thing("drum", ("little", "wooden", "loud"), "beat it", "beat it", "beating it"),
    Thing("whistle", ("silver", "tin", "wooden"), "blow it", "blew it", "blowing it"),
    Thing("boat", ("little", "blue", "wooden"), "sail it", "sailed it", "sailing it"),
    Thing("lantern", ("brass", "small", "round"), "light it", "lit it", "lighting it"),
    Thing("flute", ("silver", "bamboo", "old"), "play it", "played it", "playing it"),
    Thing("scarf", ("warm", "purple", "woolen"), "wear it", "wore it", "wearing it"),
    Thing("hat", ("straw", "pointed", "blue"), "wear it", "wore it", "wearing it"),
    Thing("wagon", ("red", "wooden", "little"), "pull it", "pulled it", "pulling it"),
    Thing("bell", ("golden", "copper", "tiny"), "ring it", "rang it", "ringing it"),
    Thing("compass", ("brass", "old", "silver"), "carry it", "carried it", "carrying it"),
    Thing("storybook", ("thick", "blue", "old"), "read it", "read it", "reading it"),
    Thing("spinning top", ("painted", "wooden", "red"), "spin it", "spun it", "spinning it"),
    Thing("blanket", ("soft", "patchwork", "yellow"), "cuddle it", "cuddled it", "cuddling it"),
    Thing("paintbox", ("new", "wooden", "bright"), "open it", "opened it", "opening it"),
)

WEATHERS = ("sunny", "windy", "cloudy", "bright", "foggy", "chilly", "warm", "rainy")
SEASONS = ("spring", "summer", "autumn", "winter")
FOODS = (
    "apple pie",
    "honey cakes",
    "warm soup",
    "berry jam",
    "plum pudding",
    "pancakes",
    "roasted chestnuts",
    "fresh bread",
    "carrot cake",
    "oat cookies",
    "crêpes",
    "pear tart",
)
GAMES = ("hide and seek", "tag", "leapfrog", "pirates", "marbles", "follow the leader", "catch")
MARKERS = tuple("🌟🌈🌻🦊🐻🎈🌙🍎🐢🚀🎉🍰")

FEARS = (
    Fear(
        "the dark",
        "slept with a candle beside {his} bed",
        "fetch {elder} from the cellar, where the light had gone out",
        "walked down the dark stairs, one slow step after another",
        "{elder}, who hugged {him} tightly",
    ),
    Fear(
        "thunder",
        "hid under the table whenever the sky rumbled",
        "cross the yard in the storm to close the rattling gate",
        "ran through the rain while the thunder rolled",
        "a wet little bird behind the gate, safe from the wind",
    ),
    Fear(
        "deep water",
        "never went into the water above {his} knees",
        "cross the river to bring {elder} the medicine",
        "waded across, holding on to the rope",
        "{elder}, who was waiting on the other side with a smile",
    ),
    Fear(
        "high places",
        "never climbed higher than a chair",
        "climb the tall tree to free a bird caught in the branches",
        "climbed from branch to branch without looking down",
        "the most beautiful view of the whole valley",
    ),
    Fear(
        "strangers",
        "never spoke to anyone new",
        "ask the old traveler at the gate for the way home",
        "took a deep breath and said good evening",
        "a friendly old man with a bag full of stories",
    ),
    Fear(
        "the old bridge",
        "always took the long way around",
        "run over the old bridge to call for help for {elder}",
        "stepped onto the creaking boards and kept walking",
        "the doctor, who came at once with a black bag",
    ),
)

INJURED = (
    ("sparrow", "a broken wing", "flew", "a strip of soft cloth"),
    ("fawn", "a thorn in its leg", "ran", "warm water"),
    ("robin", "a sore wing", "flew", "a tiny splint"),
    ("lizard", "a hurt foot", "scampered", "a cool leaf"),
    ("butterfly", "a wet, torn wing", "fluttered", "a drop of honey"),
    ("turtle", "a crack in its shell", "crawled", "a little wax"),
    ("puppy", "a cut on its paw", "bounced", "a clean bandage"),
    ("crow", "a bruised leg", "hopped", "a small bandage"),
)

SEEDS = (
    ("sunflower", "taller than the fence", "golden"),
    ("pumpkin", "as big as a chair", "orange"),
    ("rose", "as high as the window", "pink"),
    ("bean", "right up to the roof", "green"),
    ("tulip", "as straight as a candle", "red"),
    ("melon", "rounder than the moon", "striped"),
    ("cherry tree", "taller than everyone in the family", "white"),
    ("strawberry", "thick and wide", "bright red"),
)

GIFTS = (
    ("a birthday card", "paper, glue and dried flowers", "drew"),
    ("a clay cup", "a lump of soft clay", "shaped"),
    ("a necklace", "seeds and a long thread", "strung"),
    ("a picture of the two of them", "three colors of paint", "painted"),
    ("a wooden spoon", "a piece of smooth wood", "carved"),
    ("a little song", "four lines that almost rhymed", "wrote"),
    ("a basket", "green willow twigs", "wove"),
    ("a pillow", "soft wool and an old shirt", "sewed"),
)

CONTESTS = (
    ("race around the lake", "ran", "running", "fastest runner"),
    ("kite contest", "flew kites", "flying kites", "best kite flyer"),
    ("cake contest", "baked cakes", "baking", "best baker"),
    ("singing contest", "sang", "singing", "best singer"),
    ("boat race", "rowed", "rowing", "fastest rower"),
    ("jumping contest", "jumped", "jumping", "highest jumper"),
    ("snow castle contest", "built castles", "building castles", "best builder"),
    ("drawing contest", "drew", "drawing", "best artist"),
)

BREAKABLES = (
    "blue vase",
    "best teapot",
    "big mirror",
    "glass bowl",
    "flower pot",
    "painted plate",
    "kitchen window",
    "honey jar",
)
OBSTACLES = (
    ("a wide stream", "rope", "tied the rope to a tree and swung across"),
    ("a dark tunnel", "lamp", "lit the lamp and walked through, hand in hand"),
    ("a locked gate", "hairpin", "turned the hairpin in the lock until it clicked"),
    ("a hungry goose", "slice of bread", "threw the slice of bread into the grass and tiptoed past"),
    ("a steep cliff", "ladder of rope", "hung the ladder of rope on a branch and climbed down"),
    ("a field of deep mud", "plank", "laid the plank over the mud and balanced across"),
    ("a crying baby goat", "bottle of milk", "fed it from the bottle of milk until it slept"),
    ("a thick hedge of thorns", "pair of gloves", "put on the pair of gloves and pushed the thorns aside"),
)
TREASURES = (
    ("a box of old coins", "buy bread for the whole village"),
    ("a chest of painted toys", "give one to every child they knew"),
    ("a jar of glowing stones", "put one in every window for the winter"),
    ("a bag of magic seeds", "plant one in every garden"),
    ("a basket of golden apples", "bake the biggest pie that anyone had ever seen"),
    ("a book of forgotten songs", "sing one every evening"),
)
