"""The facts of the little world, and the ways to ask for them."""

from dataclasses import dataclass

from model.tiny.setting import Draw, Exchange, Setting, final, user

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "Ireland": "Dublin", "Austria": "Vienna", "Greece": "Athens", "Poland": "Warsaw",
    "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen", "Finland": "Helsinki", "Russia": "Moscow",
    "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Canada": "Ottawa", "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima",
    "Cuba": "Havana", "Mexico": "Mexico City", "Australia": "Canberra", "Turkey": "Ankara", "Iran": "Tehran",
    "Iraq": "Baghdad", "Belgium": "Brussels", "Hungary": "Budapest", "Ukraine": "Kyiv", "Switzerland": "Bern",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "South Korea": "Seoul", "the United States": "Washington",
    "the Netherlands": "Amsterdam", "Romania": "Bucharest", "Croatia": "Zagreb", "Morocco": "Rabat",
}  # fmt: skip
COLOURS = {
    "the sky": "blue", "the sea": "blue", "grass": "green", "a leaf": "green", "snow": "white", "milk": "white",
    "blood": "red", "a tomato": "red", "a banana": "yellow", "the sun": "yellow", "a lemon": "yellow",
    "coal": "black", "the night": "black", "an orange": "orange", "a carrot": "orange", "chocolate": "brown",
    "an elephant": "grey", "a flamingo": "pink", "a frog": "green", "rice": "white", "a strawberry": "red",
    "a crow": "black", "a cucumber": "green", "gold": "yellow",
}  # fmt: skip
SOUNDS = {
    "a dog": "woof", "a cat": "meow", "a cow": "moo", "a duck": "quack", "a sheep": "baa", "a pig": "oink",
    "a bee": "buzz", "a lion": "roar", "a snake": "hiss", "an owl": "hoot", "a mouse": "squeak",
}  # fmt: skip
LEGS = {
    "a dog": "four", "a cat": "four", "a horse": "four", "a cow": "four", "a bird": "two", "a duck": "two",
    "a human": "two", "a spider": "eight", "an ant": "six", "a bee": "six", "a snake": "no", "a fish": "no",
}  # fmt: skip
YOUNG = {
    "a dog": "puppy", "a cat": "kitten", "a cow": "calf", "a sheep": "lamb", "a horse": "foal", "a duck": "duckling",
    "a lion": "cub", "a frog": "tadpole", "a goat": "kid", "a pig": "piglet",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "cold": "hot", "big": "small", "small": "big", "fast": "slow", "slow": "fast", "up": "down",
    "down": "up", "day": "night", "night": "day", "old": "young", "young": "old", "happy": "sad", "sad": "happy",
    "open": "closed", "full": "empty", "empty": "full", "light": "dark", "dark": "light", "good": "bad", "bad": "good",
    "rich": "poor", "wet": "dry", "dry": "wet", "left": "right", "right": "left", "early": "late", "late": "early",
}  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
CONTINENTS = {
    "France": "Europe", "Germany": "Europe", "Italy": "Europe", "Spain": "Europe", "Poland": "Europe",
    "Japan": "Asia", "China": "Asia", "India": "Asia", "Thailand": "Asia", "Vietnam": "Asia", "Egypt": "Africa",
    "Kenya": "Africa", "Morocco": "Africa", "Brazil": "South America", "Peru": "South America",
    "Chile": "South America", "Canada": "North America", "Mexico": "North America", "Cuba": "North America",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Relation:
    """A table of facts with the phrases that ask for one and the sentence that states one."""

    table: dict[str, str]
    phrases: tuple[str, ...]
    """With `{x}` where the subject stands."""
    statement: str
    """With `{x}` and `{y}`, the subject and its value."""
    topic: str
    """What is asked for, in words for the reasoning."""


def _after(names: tuple[str, ...], step: int) -> dict[str, str]:
    return {name: names[(place + step) % len(names)] for place, name in enumerate(names)}


RELATIONS = (
    Relation(CAPITALS, (
        "What is the capital of {x}?", "What's the capital of {x}?", "Which city is the capital of {x}?",
        "Tell me the capital of {x}.", "Name the capital of {x}.", "capital of {x}", "Do you know the capital of {x}?",
        "What is the capital city of {x}?", "what is the capital of {x}",
    ), "The capital of {x} is {y}.", "the capital of {x}"),
    Relation(COLOURS, (
        "What colour is {x}?", "What color is {x}?", "What is the colour of {x}?", "Tell me the colour of {x}.",
        "Which colour has {x}?", "What is the color of {x}?", "what color is {x}", "Do you know what colour {x} is?",
    ), "The colour of {x} is {y}.", "the colour of {x}"),
    Relation(SOUNDS, (
        "What sound does {x} make?", "What does {x} say?", "Which sound does {x} make?", "How does {x} sound?",
    ), "The sound of {x} is {y}.", "the sound of {x}"),
    Relation(LEGS, (
        "How many legs does {x} have?", "How many legs has {x}?", "Tell me how many legs {x} has.",
    ), "It has {y} legs.", "the legs of {x}"),
    Relation(YOUNG, (
        "What is the young of {x} called?", "What do you call the young of {x}?", "What is the baby of {x} called?",
    ), "The young of {x} is called {y}.", "the young of {x}"),
    Relation(OPPOSITES, (
        "What is the opposite of {x}?", "What's the opposite of {x}?", "Tell me the opposite of {x}.",
        "opposite of {x}",
    ), "The opposite of {x} is {y}.", "the opposite of {x}"),
    Relation(_after(DAYS, 1) | _after(MONTHS, 1), (
        "What comes after {x}?", "What follows {x}?", "Which one comes after {x}?", "Tell me what comes after {x}.",
    ), "After {x} comes {y}.", "what comes after {x}"),
    Relation(_after(DAYS, -1) | _after(MONTHS, -1), (
        "What comes before {x}?", "Which one comes before {x}?", "Tell me what comes before {x}.",
    ), "Before {x} comes {y}.", "what comes before {x}"),
    Relation(CONTINENTS, (
        "On which continent is {x}?", "Where is {x}?", "Which continent is {x} on?",
        "In which part of the world is {x}?",
    ), "{X} is in {y}.", "the continent of {x}"),
)  # fmt: skip

LEAD_INS = ("", "", "", "", "", "", "Hi, ", "Hello! ", "Please tell me: ", "Quick question: ")
WEIGHTS = (8, 6, 2, 2, 2, 4, 3, 2, 3)


@dataclass(frozen=True, slots=True)
class Fact:
    """One question of the little world with its answers."""

    question: str
    topic: str
    subject: str
    value: str
    sentence: str


def draw_fact(draw: Draw) -> Fact:
    """Return a fact in a phrase whose pairing lies in the wanted part."""
    for _ in range(draw.max_tries):
        relation = draw.random.choices(RELATIONS, WEIGHTS)[0]
        subject = draw.random.choice(tuple(relation.table))
        phrase = draw.random.choice(relation.phrases)
        if draw.accepts(f"{phrase}|{subject}"):
            value = relation.table[subject]
            question = draw.random.choice(LEAD_INS) + phrase.format(x=subject)
            statement = relation.statement.format(x=subject, X=subject, y=value)
            return Fact(question, relation.topic.format(x=subject), subject, value, statement)
    raise AssertionError("no fact in the wanted part")


def fact_analysis(fact: Fact, setting: Setting) -> str:
    """Return the reasoning about one fact, in as many words as the effort asks for."""
    return {
        "low": f"It is {fact.value}.",
        "medium": f"The user asks about {fact.topic}. It is {fact.value}.",
        "high": f"The user asks about {fact.topic}. This belongs to the facts of my little world. "
        f"I remember that it is {fact.value}. So I answer with {fact.value}.",
    }[setting.effort]


def fact_exchange(draw: Draw, setting: Setting) -> Exchange:
    """Return a question about one fact, its reasoning and answer."""
    fact = draw_fact(draw)
    text = f"{fact.value[0].upper()}{fact.value[1:]}." if setting.is_brief else fact.sentence
    return Exchange("fact", user(fact.question), final(fact_analysis(fact, setting), text), text)
