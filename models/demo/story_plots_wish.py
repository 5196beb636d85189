"""Plots that begin with a wish or a find: a contest, a creature, a seed, a present, a map, somebody new."""

from __future__ import annotations

import story_words as words
from story_teller import Teller, a, capital


def contest(t: Teller) -> None:
    hero, friend = t.hero, t.friend
    event, past, doing, title = t.choose(words.CONTESTS)
    t.introduce(f"More than anything, {hero.he} wanted to be the {title} of all.")
    t.meet_friend()
    t.paragraph()
    t.tell(
        f"{t.one_day()} a sign hung {t.places[0].at} {t.places[0].name}: in seven days there would be a {event}.",
        f"In {t.season}, there was always a {event}, and this year {hero} wanted to win.",
    )
    t.speak(hero, "I will practice every day.", "This time I will win!", f"Do you think I can win, {friend}?")
    if t.chance(0.65):
        _contest_by_practice(t, past, doing, event)
    else:
        _contest_by_kindness(t, doing, event)
    t.tell(f"{friend} cheered louder than anyone.", f"In the evening, they all ate {t.food} together.")
    t.moral("doing your best is what counts", "the best prize is a good friend", "it is not the prize that counts")


def _contest_by_practice(t: Teller, past: str, doing: str, event: str) -> None:
    hero, friend = t.hero, t.friend
    t.tell(
        f"On the first day, everything went wrong. {hero} fell over {hero.his} own feet and"
        f" {t.pick('bumped into a tree', 'landed in a puddle')}.",
        f"At first {hero} was not good at {doing}, and some of the others laughed.",
    )
    t.answer(
        friend,
        "Do not give up. Try again tomorrow.",
        "Everyone starts small. I will help you.",
        "You were better than yesterday.",
    )
    t.tell(
        f"So every morning before sunrise, {hero} {past} while {friend} counted and clapped. Day after day, it went a"
        " little better.",
        f"{hero} practiced in the sun and in the rain, and {friend} always brought {t.food}.",
    )
    t.paragraph()
    t.tell(
        f"Then the big day came. Everybody stood {t.outside.at} {t.outside.name} to watch the {event}.",
        f"At last it was the day of the {event}. {hero}'s heart was beating like a drum.",
    )
    t.tell(
        f"{hero} took a deep breath, thought of all the practice, and did {hero.his} very best.",
        f"{hero} was nervous, but {hero.he} looked at {friend} and smiled.",
    )
    t.tell(
        f"And what a surprise! {hero} won the first prize, {a(t.owned)}.",
        f"{hero} came second, and {hero.he} was as happy as a king, because {hero.he} had never been so good before.",
        f"When the judge called {hero}'s name, {hero.he} could not believe it. {hero.He} had won {a(t.owned)}!",
    )


def _contest_by_kindness(t: Teller, doing: str, event: str) -> None:
    hero, friend = t.hero, t.friend
    t.tell(
        f"All week long, {hero} practiced {doing}, and soon nobody could do it better.",
        f"{hero} practiced until {hero.he} was sure to win.",
    )
    t.paragraph()
    t.tell(
        f"On the day of the {event}, everyone came {t.pick('early', 'in their best clothes', 'with flags and bells')}."
        f" {hero} was doing better than anyone when {hero.he} heard a cry.",
        f"The {event} began, and {hero} was the best of all. But then {hero.he} heard somebody cry for help.",
    )
    t.tell(
        f"{friend} had fallen and hurt {friend.his} leg, and nobody else had seen it.",
        f"It was {friend}, who had slipped on a wet stone and could not get up.",
    )
    t.tell(
        f"{hero} looked at the prize, {a(t.owned)}, and then at {friend}.",
        f"For one moment {hero} did not know what to do. The prize was so near!",
    )
    t.tell(
        f"Then {hero.he} turned around, helped {friend} up and carried {friend.him} home.",
        f"Then {hero} stopped, went back and sat down next to {friend} until help came.",
    )
    t.speak(
        friend, "But now you have lost!", "Why did you stop? You were winning.", "Thank you. You are a true friend."
    )
    t.answer(
        hero,
        "A friend is more important than a prize.",
        "I can win next year. Today you need me.",
        "What good is a prize when my friend is hurt?",
    )
    t.paragraph()
    t.tell(
        f"Somebody else won the {event}, but in the evening the judge came to {hero}'s door with a second prize, for"
        " the kindest heart.",
        f"{hero} did not win, but everybody had seen what {hero.he} did, and they clapped for {hero.him} for a long"
        " time.",
    )


def hurt_animal(t: Teller) -> None:
    hero, elder = t.hero, t.elder
    creature, wound, moved, cure = t.choose(words.INJURED)
    place = t.outside
    t.introduce()
    t.paragraph()
    t.tell(
        f"{t.one_day()} {hero} was walking {'to' if place.at != 'by' else 'along'} {place.name} when {hero.he} heard a"
        " soft sound.",
        f"{t.one_day()} {hero} was playing {t.game} {place.at} {place.name} when something moved"
        f" {t.pick(*place.spots)}.",
    )
    t.tell(f"It was a {creature} with {wound}.", f"There sat a {creature}. It had {wound} and looked very frightened.")
    t.speak(
        hero, "Do not be afraid. I will help you.", "You poor thing! What happened to you?", "Hold still, little one."
    )
    t.tell(
        f"Very gently, {hero} picked up the {creature} and carried it home.",
        f"{hero} wrapped the {creature} in {hero.his} {t.pick('scarf', 'coat', 'blanket')} and took it home.",
    )
    t.paragraph()
    t.tell(f"{capital(t.elder_intro())}, knew what to do.", f"{hero} asked {t.elder_intro()}, for help.")
    t.speak(
        elder,
        f"It needs rest, food and {cure}.",
        f"We will take {cure}, and then we must be patient.",
        "If you care for it every day, it will get well.",
    )
    t.tell(
        f"So {hero} made a bed from {t.pick('an old basket', 'a wooden box', 'soft hay')} and gave the {creature} water"
        f" and {t.pick('crumbs', 'berries', 'seeds')} every day.",
        f"Every morning and every evening, {hero} fed the {creature} and sang to it.",
    )
    t.tell(
        f"After {t.pick('one week', 'two weeks', 'ten days', 'a month')}, the {creature} was well again and {moved}"
        " around the room.",
        f"Slowly the {creature} grew stronger, and one morning it {moved} right across the room.",
    )
    _set_free(t, creature, place)


def _set_free(t: Teller, creature: str, place: words.Place) -> None:
    hero, elder = t.hero, t.elder
    t.paragraph()
    t.tell(
        f"{hero} was happy, but also sad, because {hero.he} knew that it was time to say goodbye.",
        f"{hero} wanted to keep the {creature}, but {hero.he} knew that it belonged outside.",
    )
    t.speak(
        elder,
        "When you love somebody, you let them go where they are happy.",
        "It will not forget you.",
        "You have done well. Now let it go home.",
    )
    t.tell(
        f"So {hero} took the {creature} back to {place.name} and opened {hero.his} hands. The {creature} looked back"
        " once, and then it was gone."
        if t.world == "human"
        else (
            f"So {hero} took the {creature} back to {place.name}. The {creature} looked back once, and then it was"
            " gone."
        )
    )
    t.tell(
        f"In the next {t.pick('spring', 'year', 'month')}, {hero} heard a sound at the window. It was the {creature},"
        " and it had brought its whole family to say hello.",
        f"A few weeks later, {hero} got lost in the fog {t.places[1].at} {t.places[1].name}. Suddenly the {creature}"
        f" was there and showed {hero.him} the way home.",
        f"And sometimes, on quiet evenings, the {creature} came back to visit.",
    )
    t.moral(
        "kindness always comes back", "even a small creature can be a true friend", "love sometimes means letting go"
    )


def growing(t: Teller) -> None:
    hero, elder, friend = t.hero, t.elder, t.friend
    plant, size, color = t.choose(words.SEEDS)
    t.introduce()
    t.tell(f"{hero.He} did not like to wait for anything.", f"{hero} wanted everything to happen at once.")
    t.paragraph()
    t.tell(
        f"{t.one_day()} {t.elder_intro()}, gave {hero.him} a tiny {plant} seed.",
        f"{t.one_day()} {hero} found a tiny {plant} seed in {t.pick('an old box', 'a pocket', 'the kitchen drawer')}"
        f" and showed it to {t.elder_intro()}.",
    )
    t.speak(
        elder,
        f"Plant it, give it water every day, and one day you will have a {plant} {size}.",
        f"If you are patient, this will be a {plant} {size}.",
    )
    t.tell(
        f"{hero} ran outside, dug a hole and put the seed into the soft earth.",
        f"So {hero} planted the seed behind the house and gave it a cup of water.",
    )
    t.paragraph()
    t.tell(
        f"The next morning, {hero} ran to look, but there was only earth.",
        "On the second day, there was nothing to see. On the third day, there was nothing either.",
    )
    t.speak(hero, "It does not grow! It is a bad seed.", "Why does it take so long?", f"When will I see my {plant}?")
    t.answer(
        elder,
        "Under the earth, it is working hard. Give it time.",
        "Good things need time.",
        "You can not pull it out of the ground. Wait and water it.",
    )
    t.tell(
        f"{hero.His} friend {friend} laughed at the empty spot, but {hero} kept on watering it, in the sun and in the"
        " wind.",
        f"Every day {hero} brought water, and while {hero.he} waited, {hero.he} told the seed a story.",
        f"{hero} even {t.thing.used} beside the little hill of earth, so that the seed would not be lonely.".replace(
            " it ", f" {hero.his} {t.thing.noun} ", 1
        ),
    )
    t.paragraph()
    t.tell(
        f"Then, after {t.pick('two', 'three', 'four')} weeks, {hero} saw a tiny green leaf.",
        "One morning there was a small green tip in the dark earth.",
    )
    t.speak(hero, "It is alive!", f"{friend}, come and look!", "It is growing! It is really growing!")
    t.tell(
        f"The plant grew and grew, and by the end of {t.pick('summer', 'the season', 'the year')} it was {size}.",
        f"Week after week it grew, until it stood there, {color} and beautiful, {size}.",
    )
    t.tell(
        f"{hero.His} friend {friend} came to see it and was amazed.",
        f"{hero} gave the first new seeds to {hero.his} friend {friend}, so that {friend.he} could plant {a(plant)}"
        " too.",
        "Everyone who walked by stopped to look at it.",
    )
    t.moral(
        "good things take time", "patience makes small things great", "those who care every day are rewarded in the end"
    )


def gift(t: Teller) -> None:
    hero, elder, friend = t.hero, t.elder, t.friend
    present, material, made = t.choose(words.GIFTS)
    short = present.removeprefix("a ").removesuffix(" of the two of them")
    t.introduce()
    t.meet_friend()
    t.paragraph()
    t.tell(
        f"{capital(t.elder_intro())}, was going to have a birthday"
        f" {t.pick('in three days', 'on Sunday', 'the next day')}, and {hero} had no present.",
        f"{t.one_day()} {hero} remembered that it was almost the birthday of {t.elder_intro()}.",
    )
    t.speak(
        hero,
        "What can I give? I have no money.",
        f"I want to give {elder.him} something special.",
        "I need a present, and I need it soon.",
    )
    place = t.places[0]
    t.tell(
        f"{hero.He} went to look {place.at} {place.name}, but everything there"
        f" {'cost too much' if t.world == 'human' else 'was too big to carry'}.",
        f"First {hero.he} wanted to give {elder.him} {a(t.owned)}, but there was none to be found.",
    )
    t.answer(
        friend,
        "The best presents are the ones you make yourself.",
        "Why do you not make something?",
        f"I have {material}. We could make something from that!",
    )
    t.paragraph()
    t.tell(f"So {hero} took {material} and {made} {present}.", f"{hero} sat down with {material} and {made} {present}.")
    t.tell(
        f"The first one went wrong, and so did the second. {hero} almost gave up.",
        f"It was harder than {hero.he} had thought, and after an hour it looked crooked.",
    )
    t.speak(
        friend, "Try once more. It is getting better.", "It does not have to be perfect.", "Slowly! There is no hurry."
    )
    t.tell(
        f"{hero} worked all day and did not even stop to play {t.game}. In the evening, it was finished.",
        f"{hero} tried once more, slowly and carefully, and this time it was just right.",
    )
    _given(t, short)


def _given(t: Teller, short: str) -> None:
    hero, friend, elder = t.hero, t.friend, t.elder
    t.paragraph()
    t.tell(
        f"On the birthday, {elder} got {t.food}, flowers and many fine things. {hero} was ashamed of the little"
        f" {short}.",
        (
            f"When the day came, {hero}'s hands were shaking as {hero.he} gave the {short} to {elder}."
            if t.world == "human"
            else f"When the day came, {hero} was very nervous as {hero.he} gave the {short} to {elder}."
        ),
    )
    t.speak(
        elder,
        f"Did you make this {short} yourself?",
        "Is this really for me? Did you make it?",
        "Did you make this for me?",
    )
    t.tell(
        f"{hero} nodded. {elder} had tears in {elder.his} eyes and hugged {hero.him} for a long time.",
        f'"Yes," said {hero}. "All by myself, and {friend} helped me."',
    )
    t.speak(
        elder,
        "This is the most beautiful present of all, because your love is in it.",
        f"I have many things, but only one {short} from you.",
        "I will keep it forever.",
    )
    t.moral(
        "a present from the heart is the finest of all",
        "love can not be bought",
        "what we make with love is never too small",
    )


def newcomer(t: Teller) -> None:
    hero, friend = t.hero, t.friend
    place = t.places[0]
    t.introduce()
    t.paragraph()
    t.tell(
        f"{t.one_day()} a new family moved in nearby. They had a {friend.kind} named {friend}, who did not know"
        " anyone.",
        f"{t.one_day()} {hero} saw somebody new {place.at} {place.name}. It was a {friend.kind} named {friend}, sitting"
        " all alone.",
    )
    t.tell(
        f"{friend} was {t.pick('shy', 'quiet')} and spoke with a soft voice, so nobody asked {friend.him} to play"
        f" {t.game}.",
        f"The others played {t.game}, but nobody asked {friend} to join them.",
    )
    t.tell(f"{hero} saw it and felt sorry for {friend.him}.", f"{hero} remembered how it felt to be alone.")
    t.speak(
        hero,
        "Hello! I am glad that you are here. Do you want to play with us?",
        f"Hello, my name is {hero}. What is yours?",
        f"Would you like to {t.thing.use} with me?".replace(" it ", f" my {t.thing.noun} "),
    )
    t.answer(friend, "I do not know how.", "Maybe tomorrow.", "I am not good at games.")
    t.paragraph()
    t.tell(
        f"But {hero} did not give up. The next day {hero.he} brought {t.food} and sat down next to {friend}.",
        f"The next day, {hero} came back with {hero.his} {t.owned} and put it between them.",
    )
    t.tell(
        f"For a while they just sat there. Then {friend} began to smile.",
        f"They shared it without many words, and {friend} smiled for the first time.",
    )
    t.speak(
        friend, "In my old home, I had a friend like you.", "Can I show you something?", "Shall I tell you a secret?"
    )
    t.tell(
        f"It turned out that {friend} could"
        f" {t.pick('whistle like a bird', 'tell wonderful stories', 'walk on a rope', 'draw anything in the world')}."
        f" {hero} had never seen anything like it.",
        f"{friend} knew a secret spot {t.places[1].at} {t.places[1].name}, {t.pick(*t.places[1].spots)}, where"
        f" {t.pick('it was always quiet', 'a family of ladybugs lived', 'one could sit and dream')}.",
    )
    t.paragraph()
    t.tell(
        f"When the others heard about it, they all wanted to be {friend}'s friends.",
        f"{hero} told all the others, and soon they came to see it too.",
    )
    t.tell(
        f"From then on they all played {t.game} together {place.at} {place.name}, and {friend} laughed the loudest.",
        f"Soon {friend} was never alone again, but {friend.his} best friend was always {hero}.",
    )
    t.moral(
        "a friendly word can change everything",
        "it takes only one friend to feel at home",
        "a quiet voice can hide a great heart",
    )


def treasure(t: Teller) -> None:
    hero, friend, elder = t.hero, t.friend, t.elder
    goal = t.outside
    (first, tool1, deed1), (second, tool2, deed2) = t.choose_several(words.OBSTACLES, 2)
    prize, good = t.choose(words.TREASURES)
    t.introduce()
    t.meet_friend()
    t.paragraph()
    t.tell(
        f"{t.one_day()} {hero} found an old map"
        f" {t.pick('under a loose floor board', 'inside an old book', 'in a bottle', 'behind a picture')}. A red cross"
        f" showed the way to {goal.name}.",
        f"{t.one_day()} {t.elder_intro()}, gave {hero} an old map. A red cross showed the way to {goal.name}.",
    )
    t.speak(
        hero,
        "There must be a treasure! Let us go and find it.",
        f"{friend}, pack your bag! We are going on an adventure.",
        "Shall we go and look for it?",
    )
    t.tell(
        f"They packed some {t.food}, a {tool1} and a {tool2}, and set off.",
        f"{friend} packed a {tool1}, {hero} packed a {tool2}, and away they went.",
    )
    t.paragraph()
    t.tell(f"After an hour they came to {first}.", f"They had not gone far when they came to {first}.")
    t.speak(friend, "How can we get past it?", "What shall we do now?", "Oh no! This is the end of our trip.")
    t.answer(hero, f"We have a {tool1}!", f"Do not worry. Remember the {tool1}!")
    t.tell(f"So they {deed1}.", f"Quickly they {deed1}.")
    t.tell(
        f"A little later, they stood before {second}.", f"But soon the way was blocked again, this time by {second}."
    )
    t.tell(
        f'"Now it is time for the {tool2}," said {friend}, and they {deed2}.',
        f"{friend} took out the {tool2}, and together they {deed2}.",
    )
    t.paragraph()
    t.tell(
        f"At last they reached {goal.name}. They looked {t.pick(*goal.spots)}, and there it was: {prize}!",
        f"The sun was going down when they came to {goal.name}. And there, {t.pick(*goal.spots)}, they found {prize}!",
    )
    t.speak(friend, "We are rich!", "What shall we do with it?", "I have never seen anything so beautiful.")
    t.answer(hero, f"It is too much for the two of us. We could {good}.", f"I know what we will do. We will {good}!")
    t.tell(
        f"And that is what they did. {elder} told everyone about the two heroes.",
        f"So they did, and there was a big feast with {t.food} that lasted until midnight.",
    )
    t.moral(
        "the best treasure is the one you share",
        "the way is easier with a friend by your side",
        "a good plan and a good friend open every door",
    )
