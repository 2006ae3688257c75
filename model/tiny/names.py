"""Names to copy: of cities, people and things, real and invented, so that copying is learnt and not a list of names.

Invented names are drawn from the tokenizer's own pieces in both spellings (with and without a space before them).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from model.tiny.setting import Draw

CITIES = (
    *(
        "Paris Berlin Rome Madrid Lisbon London Dublin Vienna Athens Warsaw Stockholm Oslo Copenhagen Helsinki Moscow "
        "Tokyo Beijing Cairo Nairobi Ottawa Santiago Lima Havana Canberra Ankara Tehran Baghdad Brussels Budapest Kyiv "
        "Bern Bangkok Hanoi Seoul Washington Amsterdam Bucharest Zagreb Rabat Sydney Melbourne Toronto Montreal "
        "Vancouver Chicago Boston Seattle Denver Dallas Houston Austin Miami Atlanta Portland Phoenix Detroit Munich "
        "Hamburg Frankfurt Cologne Milan Naples Turin Venice Florence Barcelona Valencia Seville Porto Manchester "
        "Liverpool Edinburgh Glasgow Mumbai Delhi Shanghai Osaka Kyoto Singapore Jakarta Manila Dubai Istanbul Lagos "
        "Accra Casablanca Johannesburg Bogota Quito Caracas Geneva Zurich Basel Lyon Marseille Nice Prague Krakow Riga "
        "Tallinn Vilnius Sofia Belgrade Reykjavik Dakar Tunis Algiers Doha Kabul Karachi Lahore Dhaka Kathmandu Perth "
        "Auckland Wellington Honolulu Sacramento Cleveland Memphis Nashville Orlando Pittsburgh Philadelphia Baltimore"
    ).split(),
    "New York", "San Francisco", "Los Angeles", "New Delhi", "Hong Kong", "Buenos Aires", "Cape Town", "San Diego",
    "Las Vegas", "Mexico City", "Tel Aviv", "Kuala Lumpur", "Rio de Janeiro", "New Orleans", "Salt Lake City",
)  # fmt: skip
PEOPLE = tuple(
    (
        "Alice Bob Carol David Emma Frank Grace Henry Isabel Jack Kate Leo Maria Nina Oscar Paul Rachel Sam Tom Victor "
        "Anna Ben Clara Daniel Elena Felix Hannah Ivan Julia Karl Laura Max Nora Omar Peter Rosa Simon Sara John Mary "
        "James Linda Robert Michael William Susan Jessica Thomas Charles Nancy Lisa Matthew Anthony Mark Sandra Steven "
        "Ashley Andrew Joshua Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Eric "
        "Stephen Larry Justin Scott Amy Angela Helen Anne Emily Sophia Olivia Lucas Noah Liam Mia Zoe Ella Ada "
        "Alan Grace Ahmed Ali Fatima Yuki Chen Wei Raj Priya Pedro Carlos Juan Miguel Sofia Lucia Marco Luca Giulia "
        "Hans Greta Fritz Ingrid Lars Erik Olga Boris"
    ).split()
)


@dataclass(frozen=True, slots=True)
class Names:
    """The pieces that invented names are made of, each a token with a space before it."""

    capitals: tuple[str, ...]
    """Capitalised words, without their space."""
    smalls: tuple[str, ...]
    """Words and fragments in small letters, without their space."""
    nouns: tuple[str, ...]
    """Frequent words in small letters that are one piece with a space and without: functions are named after them."""
    real_share: float = 0.5
    """Share of names that are real ones."""

    def place(self, draw: Draw) -> str:
        """Return the name of a city in the wanted part, real or invented."""
        return self._real_or_invented(draw, CITIES)

    def person(self, draw: Draw) -> str:
        """Return the name of a person in the wanted part, real or invented."""
        return self._real_or_invented(draw, PEOPLE)

    def invented(self, random: Random) -> str:
        """Return one or two words: `Lisbon`, `Lisbon Rock`, `Lisbonish`."""
        words = [random.choice(self.capitals)]
        if random.random() < 0.1:
            words[0] += random.choice(self.smalls)
        if random.random() < 0.2:
            words.append(random.choice(self.capitals))
        return " ".join(words)

    def small(self, random: Random) -> str:
        """Return a word in small letters, mostly a frequent one."""
        return random.choice(self.nouns if random.random() < 0.7 else self.smalls)

    def phrase(self, random: Random, most: int = 4) -> str:
        """Return some words in small letters."""
        return " ".join(self.small(random) for _ in range(random.randint(1, most)))

    def code(self, random: Random) -> str:
        """Return an identifier such as an order has: digits, with or without letters before them."""
        number = str(random.randrange(10 ** random.randint(2, 6)))
        shape = random.random()
        if shape < 0.45:
            return number
        letters = "".join(random.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(random.randint(1, 3)))
        return f"{letters}-{number}" if shape < 0.7 else letters[0] + number

    def _real_or_invented(self, draw: Draw, real: tuple[str, ...]) -> str:
        for _ in range(draw.max_tries):
            is_real = draw.random.random() < self.real_share
            name = draw.random.choice(real) if is_real else self.invented(draw.random)
            if draw.accepts(f"name|{name}"):
                return name
        raise AssertionError("no name in the wanted part")


def pieces(words: Iterable[tuple[bytes, int]], max_capital_id: int, max_small_id: int, max_noun_id: int) -> Names:
    """Return the names' pieces found among (token bytes, token id) pairs of a vocabulary."""
    ordered = sorted(words, key=lambda pair: pair[1])
    texts = {text for text, _ in ordered}
    capitals = [text for text, token in ordered if token < max_capital_id and re.fullmatch(rb" [A-Z][a-z]{2,}", text)]
    smalls = [text for text, token in ordered if token < max_small_id and re.fullmatch(rb" [a-z]{3,}", text)]
    frequent = [text for text, token in ordered if token < max_noun_id and re.fullmatch(rb" [a-z]{4,}", text)]
    nouns = [text for text in frequent if text[1:] in texts]
    return Names(_bare(capitals), _bare(smalls), _bare(nouns))


def _bare(texts: list[bytes]) -> tuple[str, ...]:
    """Return pieces without the space before them."""
    return tuple(text[1:].decode() for text in texts)
