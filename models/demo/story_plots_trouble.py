"""Plots that begin with a trouble: something lost or broken, a quarrel, a fear, a storm."""

from __future__ import annotations

import story_words as words
from story_teller import Teller, a, capital


def lost_thing(t: Teller) -> None:
    hero, friend, thing, owned = t.hero, t.friend, t.thing.noun, t.owned
    t.introduce(
        t.pick(
            f"{hero.He} had {a(owned)} and loved to {t.thing.use} every day.",
            f"What {hero.he} loved most in the world was {hero.his} {owned}.",
            f"For {hero.his} birthday, {t.elder} had given {hero.him} {a(owned)}.",
        )
    )
    t.paragraph()
    t.tell(
        f"{t.one_day()} {hero} wanted to {t.thing.use}, but the {thing} was gone.",
        f"{t.one_day()} {hero} woke up and could not find the {thing}.",
        f"{t.one_day()} {hero} came home and saw that the {thing} was missing.",
    )
    t.speak(hero, f"Oh no! Where is my {owned}?", f"My {thing} is gone!", f"I must find my {thing} before dark.")
    t.tell(
        f"{hero.He} looked everywhere at home, but it was not there.",
        f"{hero} felt a lump in {hero.his} throat.",
        f"{hero.He} wanted to cry, but then {hero.he} had an idea.",
    )
    t.paragraph()
    t.tell(
        f"{hero} went to {friend}, who was a good friend.",
        f"{hero.He} ran to {hero.his} friend {friend}.",
        f"Just then {friend} came by and saw {hero.his} sad face.",
    )
    t.answer(
        friend,
        f"Where did you {t.thing.use} last?",
        "Think hard. Where were you yesterday?",
        "Do not worry. We will look together.",
    )
    first, second, last = t.places[0], t.places[1], t.places[2]
    t.tell(
        f'"I was {first.at} {first.name}, {second.at} {second.name} and {last.at} {last.name}," said {hero}.',
        f"{hero} remembered that {hero.he} had been {first.at} {first.name}, {second.at} {second.name} and {last.at}"
        f" {last.name}.",
    )
    t.tell(
        f"First they looked {first.at} {first.name}. They searched {t.pick(*first.spots)}, but found only"
        f" {t.pick('an old shoe', 'a feather', 'a snail', 'a button')}.",
        f"So they went to {first.name} and looked {t.pick(*first.spots)}. There was nothing there.",
    )
    t.tell(
        f"Then they searched {second.at} {second.name}, but the {thing} was not there either.",
        f"Next they tried {second.name}. Nobody there had seen {a(owned)}.",
    )
    _found_at_the_last_place(t, last)


def _found_at_the_last_place(t: Teller, last: words.Place) -> None:
    hero, friend, thing = t.hero, t.friend, t.thing.noun
    t.paragraph()
    spot = t.pick(*last.spots)
    t.tell(
        f"At last they came to {last.name}. {friend} looked {spot} and saw something"
        f" {t.pick('shine', 'move in the wind', 'strange')}.",
        f"The sun was already low when they reached {last.name}. There, {spot}, lay something that looked familiar.",
    )
    t.speak(t.pick(str(friend), str(hero)), f"Here it is! Here is the {thing}!", f"Look, {spot}! It is the {thing}!")
    t.tell(f"{hero} jumped for joy and hugged {friend}.", f"{hero} laughed and thanked {friend} three times.")
    t.tell(
        f"They took turns {t.thing.using} until it was time to go home.",
        f"All the way home, {hero} held the {thing} tightly.",
    )
    t.moral(
        "a good friend is worth more than any treasure",
        "it helps to stay calm and think",
        "things are easier to find together",
        "precious things need a safe place",
    )


def quarrel(t: Teller) -> None:
    hero, friend, elder, thing, owned = t.hero, t.friend, t.elder, t.thing.noun, t.owned
    t.introduce()
    t.meet_friend()
    place = t.places[0]
    t.paragraph()
    t.tell(
        f"{t.one_day()} {hero} and {friend} found {a(owned)} {place.at} {place.name}. It lay {t.pick(*place.spots)}.",
        f"{t.one_day()} the two were playing {t.game} {place.at} {place.name} when they saw {a(owned)}"
        f" {t.pick(*place.spots)}.",
    )
    t.speak(
        hero, "I saw it first! It is mine.", f"This {thing} belongs to me!", f"Give it to me! I want to {t.thing.use}."
    )
    t.answer(friend, f"No, I picked it up! It is my {thing}.", "That is not fair!", f"But I want to {t.thing.use} too!")
    t.tell(
        f"{hero} pulled on one side and {friend} pulled on the other, until both fell into the"
        f" {t.pick('mud', 'grass', 'leaves')}.",
        "They pulled and pushed, and soon they were both shouting.",
        f"{hero} stamped {hero.his} foot, and {friend} turned away and did not say another word.",
    )
    t.paragraph()
    t.tell(
        f"{capital(t.elder_intro())}, heard the noise and came over.",
        f"Just then {t.elder_intro()}, walked by and shook {elder.his} head.",
    )
    t.speak(
        elder,
        f"What is more fun, to {t.thing.use} alone or together?",
        f"A {thing} can be found again, but a friend can not.",
        f"If you fight, nobody will be able to {t.thing.use}.",
    )
    t.tell(
        f"{hero} looked at {friend}, and {friend} looked at the ground.",
        f"For a while nobody said anything. {hero} felt ashamed.",
    )
    t.speak(hero, "I am sorry. I was selfish.", "I am sorry that I shouted.", f"You can have it first, {friend}.")
    t.answer(
        friend, "I am sorry too. Let us share it.", "Let us take turns.", "We can share it. One day you, one day me."
    )
    t.paragraph()
    t.tell(
        f"So {hero} {t.thing.used} first, and then it was {friend}'s turn. It was much more fun than"
        f" {t.pick('fighting', 'being angry')}.",
        f"They agreed that {hero} would have the {thing} in the morning and {friend} in the afternoon.",
        f"{friend} {t.thing.used} while {hero} clapped, and then they changed places.",
    )
    t.maybe(
        0.65,
        f"{elder} brought {t.food} for both of them.",
        f"When evening came, they carried the {owned} home together.",
    )
    t.moral(
        "sharing makes everything twice as much fun",
        "a friend is worth more than a toy",
        "saying sorry is not hard when you mean it",
    )


def overcame_fear(t: Teller) -> None:
    hero, elder = t.hero, t.elder
    fear = t.choose(words.FEARS)
    t.introduce(f"But there was one thing that {hero} did not like at all: {hero.he} was afraid of {fear.name}.")
    t.tell(
        f"{hero.He} {hero.fill(fear.sign, elder)}.",
        f"{hero} {hero.fill(fear.sign, elder)}, and sometimes others laughed about it.",
    )
    t.paragraph()
    t.tell(
        f"{t.one_day()} {t.elder_intro()}, told {hero.him} a secret.",
        f"{t.one_day()} {hero} was sitting with {t.elder_intro()}.",
    )
    t.speak(
        elder,
        "Being brave does not mean that you are never afraid. It means that you go on anyway.",
        "When I was small, I was afraid too. I counted my steps, and every step made me stronger.",
        "Fear is like a shadow. It grows small when you walk towards it.",
    )
    t.tell(
        f"{hero} did not quite believe it, but {hero.he} remembered the words.",
        f"{hero} kept these words in {hero.his} heart.",
    )
    t.paragraph()
    t.tell(
        f"A few days later, something happened. Somebody had to {hero.fill(fear.errand, elder)}, and only {hero} was"
        " there.",
        f"The very next week, {hero} was alone when somebody had to {hero.fill(fear.errand, elder)}.",
    )
    t.tell(
        f"{hero.His} knees were shaking and {hero.his} heart beat fast.",
        f"{hero} stood still, and {hero.his} mouth was dry.",
    )
    t.tell(
        f'"I am afraid of {fear.name}, but I will go," {hero} whispered.',
        f'"One step, and then another," {hero} said to {hero.self_}.',
        f"Then {hero.he} remembered what {elder} had said.",
    )
    t.tell(f"{hero.He} {hero.fill(fear.deed, elder)}.", f"So {hero} {hero.fill(fear.deed, elder)}.")
    t.tell(
        f"And at the end {hero.he} found {hero.fill(fear.reward, elder)}.",
        f"There, at last, was {hero.fill(fear.reward, elder)}.",
    )
    t.paragraph()
    t.speak(hero, "I did it!", "It was not so bad after all.", "I was afraid, and I did it anyway.")
    t.tell(
        f"Everyone was proud of {hero}, and {hero.his} friend {t.friend} made {hero.him} a paper medal.",
        f"{elder} was very proud and made {t.food} for {hero.him}.",
        f"When {hero.his} friend {t.friend} heard about it, {t.friend.he} could hardly believe it.",
    )
    t.moral(
        "courage grows with every step",
        "being brave means going on although you are afraid",
        f"{fear.name} could not stop {hero.him} any more",
    )


def confession(t: Teller) -> None:
    hero, elder = t.hero, t.elder
    broken = t.pick(*words.BREAKABLES)
    t.introduce()
    t.paragraph()
    t.tell(
        f"{t.one_day()} {hero} was playing {t.game} inside, although {t.elder_intro()}, had said not to.",
        f"{t.one_day()} {hero} ran through the house with {hero.his} {t.owned}, although {t.elder_intro()}, had told"
        f" {hero.him} to be careful.",
    )
    t.tell(
        f"Crash! The {broken} fell down and broke into a hundred pieces.",
        f"Then there was a loud crash. The {broken} was broken!",
    )
    t.tell(
        f"{hero} was so frightened that {hero.he} hid the pieces"
        f" {t.pick('under the bed', 'behind the stove', 'in a dark corner')}.",
        f"Quickly {hero} swept up the pieces and hid them {t.pick('in a box', 'under a rug', 'behind the door')}.",
    )
    t.paragraph()
    t.tell(f"In the evening, {elder} came home.", f"When {elder} came back, {elder.he} looked around.")
    t.speak(elder, f"Where is the {broken}?", f"Do you know what happened to the {broken}?")
    t.answer(hero, "I do not know.", "Maybe a thief took it.", "Maybe the wind did it.")
    t.tell(f"{elder} said nothing, but {elder.he} looked sad.", f"{elder} only nodded and went to make dinner.")
    t.tell(
        f"That night {hero} could not sleep. The lie felt like a heavy stone in {hero.his} stomach.",
        f"At dinner they had {t.food}, but {hero} could not eat a single bite.",
    )
    t.tell(
        f"{hero.He} turned to the left and to the right, and the moon seemed to look at {hero.him}.",
        f'"If I tell the truth, {elder} will be angry," {hero.he} thought. "But if I do not, I will never feel happy'
        ' again."',
    )
    _told_the_truth(t, broken)


def _told_the_truth(t: Teller, broken: str) -> None:
    hero, elder = t.hero, t.elder
    t.paragraph()
    t.tell(
        (
            f"Early in the morning, {hero} went to {elder} with the pieces in {hero.his} hands."
            if t.world == "human"
            else f"Early in the morning, {hero} brought all the pieces to {elder}."
        ),
        f"At last {hero} got up and knocked on {elder}'s door.",
    )
    t.speak(
        hero, f"I broke the {broken}, and then I lied. I am so sorry.", f"It was me. I broke the {broken} and hid it."
    )
    t.answer(
        elder,
        "Thank you for telling me the truth. That was brave.",
        f"I knew it already. A {broken.split()[-1]} can be replaced, but trust can not.",
        "I am not angry. I am glad that you told me.",
    )
    t.tell(
        f"Together they {t.pick('glued the pieces', 'cleaned up the last pieces')}, and {hero} promised to be more"
        " careful.",
        f"{hero} worked in the garden for a week to pay for a new one.",
    )
    t.tell(f"The stone in {hero.his} stomach was gone.", f"{hero} felt as light as a feather.")
    t.moral(
        "the truth is lighter than a lie",
        "honest words mend more than glue",
        "everyone can make a mistake, but a lie makes it bigger",
    )


def lost_pet(t: Teller) -> None:
    hero, friend = t.hero, t.friend
    pet, look = t.pick(*words.PETS[t.world]), t.pick(*words.PET_LOOKS)
    pet_name = t.name(True)
    first, last = t.places[0], t.places[1]
    spot = t.pick(*last.spots)
    t.introduce(
        t.pick(
            f"{hero.He} had a {look} {pet} named {pet_name}.",
            f"{hero.His} dearest companion was {pet_name}, a {look} {pet}.",
        )
    )
    t.tell(
        f"Every day, {hero} and {pet_name} played {t.game} together.", f"At night, {pet_name} slept at {hero.his} feet."
    )
    t.paragraph()
    t.tell(
        f"{t.one_day()} the gate stood open, and {pet_name} was gone.",
        f"{t.one_day()} a loud noise frightened {pet_name}, and the {pet} ran away.",
    )
    t.speak(hero, f"{pet_name}! Where are you?", f"Come back, {pet_name}!", f"I have to find {pet_name}!")
    t.tell(
        f"{hero} ran to {first.name} and looked {t.pick(*first.spots)}, but there was no {pet}.",
        f"{hero.He} asked everyone {first.at} {first.name}, but nobody had seen a {look} {pet}.",
    )
    job = t.pick(*words.JOBS)
    helper = f"the {job}" if t.world == "human" else f"{friend} the {friend.kind}"
    t.tell(f"Then {helper} came along the path.", f"On the way, {hero.he} met {helper}.")
    t.speak(
        helper,
        f"I saw a {look} {pet} {last.at} {last.name}.",
        f"Listen! I heard a sound {last.at} {last.name}.",
        f"There are small footprints that lead to {last.name}.",
    )
    t.paragraph()
    t.tell(f"{hero} hurried to {last.name} as fast as {hero.he} could.", f"{hero} thanked {helper} and ran.")
    t.tell(
        f"And there, {spot}, sat {pet_name}, {t.pick('wet and shivering', 'covered with mud', 'fast asleep')}.",
        f"Something moved {spot}. It was {pet_name}!",
    )
    t.tell(
        f"But {pet_name} was not alone. Next to {pet_name} lay a tiny {t.pick('duckling', 'mouse', 'bird')} that had"
        " fallen from its nest.",
        f"One of {pet_name}'s feet was caught in a {t.pick('root', 'net', 'string')}, and {hero} set it free.",
        (
            f"{pet_name} jumped right into {hero.his} arms."
            if t.world == "human"
            else f"{pet_name} jumped up and danced around {hero.him}."
        ),
    )
    t.speak(hero, "I was so worried about you!", "I am so happy that I found you!", "Let us go home together.")
    t.paragraph()
    t.tell(
        f"At home, {t.elder_intro()}, was waiting with {t.food}, and {pet_name} got the biggest piece.",
        f"{hero} carried {pet_name} home and mended the gate.",
    )
    t.moral(
        "those we love need our care", "one should never stop looking for a friend", "a friend is worth a long search"
    )


def storm(t: Teller) -> None:
    hero, friend = t.hero, t.friend
    place = t.outside
    t.introduce()
    t.meet_friend()
    t.paragraph()
    t.tell(
        f"{t.one_day()} they were playing {t.game} {place.at} {place.name} when the sky turned dark.",
        f"{t.one_day()} the two went to {place.name} to {t.thing.use.replace(' it', f' their {t.thing.noun}')}. They"
        " did not see the black clouds.",
    )
    t.tell(
        f"The wind began to howl, and {t.pick('heavy rain', 'hail', 'snow')} fell from the sky.",
        "Suddenly there was a flash of lightning, and it began to pour.",
    )
    t.speak(friend, "We will never get home!", "I am cold, and I am scared.", "What shall we do?")
    t.answer(
        hero,
        (
            "Hold my hand. We will find a place to hide."
            if t.world == "human"
            else "Stay close to me. We will find a place to hide."
        ),
        "Do not be afraid. I have an idea.",
        "Look over there! I see a light.",
    )
    t.paragraph()
    shelter = t.pick("an empty hut", "a small cave", "a hollow tree", "an old wagon")
    t.tell(
        f"Not far away they found {shelter} and crept inside.", f"They ran as fast as they could and found {shelter}."
    )
    t.tell(
        f"It was dark inside, but it was dry. {hero} told funny stories so that {friend} would not be afraid.",
        f"They sat close together and shared {t.food} from {friend}'s bag.",
        f"{friend} was shivering, so {hero} gave {friend.him} {hero.his} own {t.pick('scarf', 'coat', 'blanket')}.",
    )
    t.tell(
        "Outside the storm roared like a lion, but inside they were singing.",
        "They counted the seconds between the lightning and the thunder. Slowly the storm moved away.",
    )
    _after_the_storm(t, place)


def _after_the_storm(t: Teller, place: words.Place) -> None:
    hero, friend, elder = t.hero, t.friend, t.elder
    t.paragraph()
    t.tell(
        f"At last the rain stopped. A rainbow stood over {place.name}.",
        "When it was quiet, they looked out. The whole world was shining.",
    )
    t.tell(
        f"{capital(t.elder_intro())}, had been looking for them everywhere with a lantern.",
        f"They heard somebody calling. It was {t.elder_intro()}.",
    )
    t.speak(
        elder,
        "There you are! I was so worried.",
        "Thank goodness! Are you all right?",
        "How clever of you to stay in a dry place!",
    )
    t.answer(
        friend,
        f"{hero} was so brave!",
        f"I was not afraid, because {hero} was with me.",
        f"{hero} told me stories all the time.",
    )
    t.tell(
        f"They walked home together and drank hot {t.pick('milk', 'tea', 'chocolate')} by the fire.",
        (
            "At home there were dry clothes and hot soup for both."
            if t.world == "human"
            else "At home there was a warm fire and hot soup for both."
        ),
    )
    t.moral(
        "after every storm the sun comes back",
        "fear is smaller when it is shared",
        "in a storm a friend is the best shelter",
    )
