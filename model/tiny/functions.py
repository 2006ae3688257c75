"""Function tools as tutorials and clients offer them, in many spellings, and invented ones beside them.

A `Family` is a purpose (the weather of a place, a message to a person ...) with variants of everything a client may
choose: names, descriptions, parameter names. `draw_offer` makes one offer of it together with the questions it answers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from model.tiny.names import Names
from model.tiny.setting import Draw, Function


@dataclass(frozen=True, slots=True)
class Family:
    """What a function is for, and the ways to offer it and to ask for it."""

    topic: str
    """The noun of the purpose; results name it."""
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    slots: tuple[tuple[str, tuple[str, ...]], ...]
    """(kind of value, parameter names) for each required parameter."""
    phrases: tuple[str, ...]
    """Questions with `{0}`, `{1}` for the values."""
    result_keys: tuple[str, ...]


FAMILIES = (
    Family("weather", ("get_weather", "get_current_weather", "weather"),
           ("Get the weather.", "Get the current weather in a given location.",
            "Gets the current weather in the provided location.", "Returns the weather of a city.",
            "Get current temperature for a given location.", "Get the weather forecast for a city.",
            "Look up the weather.", "Get the current weather for a city"),
           (("place", ("city", "location")),),
           ("What is the weather in {0}?", "What's the weather in {0}?", "How is the weather in {0}?",
            "What is the weather like in {0}?", "What's the weather like in {0} today?", "Weather in {0}?",
            "Tell me the weather in {0}.", "Is it raining in {0}?", "How warm is it in {0}?",
            "What is the temperature in {0}?", "Will it rain in {0} tomorrow?", "Do I need an umbrella in {0}?",
            "weather in {0}", "Check the weather in {0}.", "What is the weather in {0} today?",
            "What is the current weather in {0}?", "Is it cold in {0}?", "Please tell me the weather in {0}."),
           ("temperature", "condition", "humidity", "wind", "forecast", "weather", "temp", "description")),
    Family("time", ("get_time", "get_current_time", "current_time"),
           ("Get the current time.", "Get the time in a city.", "Returns the local time of a place.",
            "Current time for a location."),
           (("place", ("city", "location")),),
           ("What time is it in {0}?", "What is the time in {0}?", "Tell me the time in {0}.",
            "What's the local time in {0}?", "Time in {0}?", "What is the current time in {0}?",
            "How late is it in {0}?"),
           ("time", "timezone", "hour", "clock")),
    Family("message", ("send_message", "send_text", "message"),
           ("Send a message to a person.", "Sends a text message.", "Send a message.", "Send someone a text."),
           (("person", ("recipient", "to")), ("phrase", ("text", "message"))),
           ("Send a message to {0}: {1}", "Tell {0}: {1}", "Text {0}: {1}", "Send {0} the message: {1}",
            "Write to {0}: {1}", "Message {0}: {1}", "Please send {0} this message: {1}"),
           ("status", "message_id", "delivered", "sent")),
    Family("email", ("send_email", "email", "send_mail"),
           ("Send an email.", "Sends an email to a person.", "Send a mail to a recipient."),
           (("person", ("recipient", "to")), ("phrase", ("subject", "title"))),
           ("Send an email to {0} about {1}", "Email {0} about {1}", "Write an email to {0} about {1}",
            "Mail {0} about {1}"),
           ("status", "email_id", "sent")),
    Family("order", ("lookup_order", "get_order", "get_order_status"),
           ("Look up an order.", "Get the status of an order.", "Returns the state of an order by its id.",
            "Track an order."),
           (("code", ("order_id", "id")),),
           ("Where is my order {0}?", "What is the status of order {0}?", "Look up order {0}.", "Track order {0}.",
            "Has order {0} been shipped?", "Check order {0}.", "What happened to my order {0}?"),
           ("status", "order", "delivery", "shipped", "carrier")),
    Family("stock", ("get_stock_price", "stock_price", "get_stock"),
           ("Get the price of a stock.", "Returns the current stock price.",
            "Get the latest stock price of a company."),
           (("name", ("symbol", "ticker")),),
           ("What is the stock price of {0}?", "How much is the stock of {0}?", "What's the price of {0} stock?",
            "Stock price of {0}?", "Get the stock price of {0}.", "What does {0} stock cost?"),
           ("price", "currency", "change", "symbol")),
    Family("search", ("search", "web_search", "search_web"),
           ("Search the web.", "Search for documents.", "Searches the internet for a query.",
            "Find pages about something."),
           (("phrase", ("query", "q")),),
           ("Search for {0}", "Search the web for {0}", "Find pages about {0}", "Look for {0}", "Google {0}",
            "Find documents about {0}"),
           ("title", "result", "page", "url", "summary")),
    Family("song", ("play_song", "play_music", "play"),
           ("Play a song.", "Plays music by title.", "Start a song.", "Play a track."),
           (("name", ("title", "song")),),
           ("Play {0}", "Play the song {0}.", "I want to hear {0}.", "Please play {0}.", "Put on {0}."),
           ("status", "song", "artist", "playing")),
    Family("timer", ("set_timer", "start_timer", "timer"),
           ("Set a timer.", "Starts a timer for some minutes.", "Start a countdown in minutes."),
           (("number", ("minutes", "duration")),),
           ("Set a timer for {0} minutes.", "Start a timer of {0} minutes.", "Timer for {0} minutes, please.",
            "Wake me in {0} minutes.", "Set a {0} minute timer."),
           ("status", "timer", "minutes", "ends")),
    Family("translation", ("translate", "translate_text", "translator"),
           ("Translate a text.", "Translates text into a language.", "Translate words to another language."),
           (("phrase", ("text", "input")), ("language", ("language", "target_language"))),
           ("Translate {0} into {1}.", "Translate {0} to {1}", "How do you say {0} in {1}?", "What is {0} in {1}?"),
           ("translation", "text", "language", "result")),
    Family("flight", ("book_flight", "find_flight", "search_flights"),
           ("Book a flight.", "Find flights between two cities.", "Search flights from one city to another."),
           (("place", ("origin", "from")), ("place", ("destination", "to"))),
           ("Book a flight from {0} to {1}.", "Find a flight from {0} to {1}.", "I want to fly from {0} to {1}.",
            "Are there flights from {0} to {1}?", "Fly me from {0} to {1}."),
           ("flight", "price", "departure", "airline")),
    Family("customer", ("get_user", "lookup_customer", "get_customer"),
           ("Get a user.", "Look up a customer by id.", "Returns information about a user.", "Fetch a user by id."),
           (("code", ("user_id", "id")),),
           ("Who is user {0}?", "Look up customer {0}.", "Get user {0}.", "Show me user {0}.", "Find customer {0}.",
            "Give me information about user {0}."),
           ("name", "email", "age", "city")),
    Family("light", ("turn_on_light", "switch_light", "light_on"),
           ("Turn on a light.", "Switch on the light of a room.", "Controls the lights of a room."),
           (("small", ("room", "location")),),
           ("Turn on the light in the {0}.", "Switch on the {0} light.", "Light in the {0}, please.",
            "Make the {0} bright."),
           ("status", "room", "light")),
    Family("restaurant", ("find_restaurant", "search_restaurants", "get_restaurants"),
           ("Find a restaurant.", "Find restaurants in a city.", "Search restaurants near a place."),
           (("place", ("city", "location")),),
           ("Find a restaurant in {0}.", "Where can I eat in {0}?", "Is there a good restaurant in {0}?",
            "Restaurants in {0}?", "I am hungry in {0}."),
           ("name", "restaurant", "rating", "street")),
    Family("news", ("get_news", "news", "fetch_news"),
           ("Get the news.", "Get the latest news about a topic.", "Returns headlines for a topic."),
           (("small", ("topic", "subject")),),
           ("What is the news about {0}?", "Any news about {0}?", "News on {0}?",
            "Give me the latest news about {0}.", "What is new in {0}?"),
           ("headline", "title", "source")),
    Family("addition", ("add", "add_numbers", "sum_numbers"),
           ("Add two numbers.", "Adds two numbers.", "Returns the sum of two large numbers."),
           (("large", ("a", "x")), ("large", ("b", "y"))),
           ("What is {0} + {1}?", "Add {0} and {1}.", "{0} + {1}", "What is the sum of {0} and {1}?",
            "Calculate {0} + {1}."),
           ("sum", "result", "value", "total")),
    Family("calendar", ("create_event", "add_event", "create_meeting"),
           ("Create a calendar event.", "Schedule a meeting.", "Add a meeting with a person to the calendar."),
           (("person", ("person", "name")), ("day", ("day", "date"))),
           ("Schedule a meeting with {0} on {1}.", "Meet {0} on {1}.", "Create a meeting with {0} for {1}.",
            "Add an event with {0} on {1}."),
           ("status", "event", "day", "event_id")),
)  # fmt: skip
LANGUAGES = ("French", "German", "Spanish", "Italian", "Japanese", "Portuguese", "Dutch", "Polish", "Greek", "Swedish")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
VERBS = ("get", "fetch", "find", "lookup", "check", "read", "query", "show", "do", "run", "request", "retrieve", "call")
INVENTED_SHARE = 0.06
UNITS = ("celsius", "fahrenheit")


@dataclass(frozen=True, slots=True)
class Offer:
    """A function on offer, its family, and the parameter names it chose."""

    function: Function
    family: Family
    parameters: tuple[str, ...]
    has_unit: bool = False

    @property
    def is_known(self) -> bool:
        """Return whether the purpose is one of the world's own."""
        return self.family in FAMILIES


def draw_offer(random: Random, names: Names) -> Offer:
    """Return a function of a known family, or of an invented one."""
    family = _invented_family(random, names) if random.random() < INVENTED_SHARE else random.choice(FAMILIES)
    parameters = tuple(random.choice(spellings) for _, spellings in family.slots)
    if len(set(parameters)) < len(parameters):
        parameters = tuple(spellings[0] for _, spellings in family.slots)
    has_unit = family.topic == "weather" and random.random() < 0.2
    properties: dict[str, Any] = {
        name: _schema(kind, name, random) for (kind, _), name in zip(family.slots, parameters, strict=True)
    }
    if has_unit:
        properties["unit"] = {"type": "string", "enum": list(UNITS)}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    function = Function(random.choice(family.names), random.choice(family.descriptions), schema)
    return Offer(function, family, parameters, has_unit)


def draw_value(kind: str, draw: Draw, names: Names) -> str | int:
    """Return a value of the kind a slot asks for."""
    random = draw.random
    draws: dict[str, Callable[[], str | int]] = {
        "place": lambda: names.place(draw),
        "person": lambda: names.person(draw),
        "name": lambda: names.invented(random),
        "phrase": lambda: names.phrase(random, 2),
        "code": lambda: names.code(random),
        "small": lambda: names.small(random),
        "number": lambda: random.randrange(1, 100),
        "large": lambda: random.randrange(100, 1000) if random.random() < 0.6 else random.randrange(1000, 100000),
        "language": lambda: random.choice(LANGUAGES),
        "day": lambda: random.choice(DAYS),
    }
    return draws[kind]()


def _invented_family(random: Random, names: Names) -> Family:
    noun, verb, thing = random.choice(names.nouns), random.choice(VERBS), random.choice(names.nouns)
    key = random.choice(("name", "id", "key", "item", thing))
    return Family(
        noun,
        (f"{verb}_{noun}", f"{verb}_{noun}", noun, f"{noun}_{verb}", f"{verb}_{noun}_{thing}"),
        (f"Get the {noun} of a {thing}.", f"Returns the {noun}.", f"Look up the {noun} for a {thing}.",
         f"{verb} {noun}"),
        ((random.choice(("place", "name", "code", "small", "person")), (key,)),),
        (f"What is the {noun} of {{0}}?", f"Get the {noun} of {{0}}.", f"Show me the {noun} for {{0}}.",
         f"Find the {noun} of {{0}}."),
        (noun, "status", "value", "result"),
    )  # fmt: skip


def _schema(kind: str, name: str, random: Random) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if kind in {"number", "large"}:
        schema["type"] = random.choice(("integer", "number"))
    if random.random() < 0.3:
        text = {"place": "The city, e.g. San Francisco", "person": "Name of the person", "code": "The id"}.get(kind)
        schema["description"] = text if text and random.random() < 0.6 else f"The {name.replace('_', ' ')}"
    return schema
