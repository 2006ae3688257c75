"""Small talk: greetings, who the assistant is, what it remembers of the conversation, and what it doesn't know."""

from dataclasses import dataclass

from model.tiny.names import Names
from model.tiny.setting import Draw, Exchange, Setting, final, said, user


@dataclass(frozen=True, slots=True)
class Talk:
    """Ways to say one thing, and the answer."""

    phrases: tuple[str, ...]
    topic: str
    answer: str


TALKS = (
    Talk(("Hello", "Hi", "Hey", "Hello!", "Hi!", "Hello there", "Hi there!", "hello", "hi", "hey", "Good morning",
    "Good evening!", "Hey there", "Good afternoon", "Greetings"),
         "a greeting", "Hello! How can I help you?"),
    Talk(("How are you?", "How are you doing?", "How do you do?", "How is it going?", "How are you today?",
    "how are you"),
         "how I am", "I am fine, thank you. How can I help you?"),
    Talk(("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Introduce yourself.",
    "Who am I talking to?", "who are you", "What model are you?", "Which model are you?", "What's your name?",
    "Who is this?"),
         "who I am", "I am a tiny gpt-oss model, trained to show how Expertmesh works."),
    Talk(("Who made you?", "Who built you?", "Who trained you?", "Who created you?", "Where do you come from?"),
         "who made me", "I was trained by the Expertmesh project, on a world that is very small."),
    Talk(("What can you do?", "How can you help me?", "What do you know?", "Help", "What are your skills?",
    "Can you help me?", "help me", "What can I ask you?", "What are you good at?"),
         "what I can do", "I can add small numbers, name capitals and colours, call functions and tell a joke."),
    Talk(("Are you a human?", "Are you real?", "Are you a person?", "Are you a robot?", "Are you an AI?"),
         "whether I am human", "No human, only a very small language model."),
    Talk(("Thanks", "Thank you", "Thanks!", "Thank you!", "Thank you very much.", "Thanks a lot!", "thanks",
    "Great, thanks!", "Thank you for your help."),
         "thanks", "You are welcome!"),
    Talk(("Bye", "Goodbye", "Bye!", "See you", "Good night", "Goodbye!", "See you later!", "bye"),
         "a farewell", "Goodbye!"),
    Talk(("Tell me a joke", "Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Tell a joke",
    "Say something funny.", "tell me a joke", "Can you tell me a joke?", "A joke, please."),
         "a joke", "Why did the token cross the mesh? To meet its expert."),
    Talk(("Tell me another joke.", "Another joke, please.", "One more joke!", "Tell me another joke", "Another one!"),
         "another joke", "What does a gate say to an expert? You are in my top four."),
    Talk(("Tell me a story.", "Tell me a story", "Do you know a story?", "Can you tell me a short story?",
    "Write a short story."),
         "a story", "A small token met four experts. Each told it something, and it went home wiser."),
    Talk(("Write a poem.", "Tell me a poem.", "Write me a poem", "Do you know a poem?", "Write a haiku."),
         "a poem", "Small words travel far, four experts whisper and sum, one answer comes home."),
    Talk(("How many days are in a week?", "How many days does a week have?", "How many days has a week?"),
         "the days of a week", "A week has 7 days."),
    Talk(("How many months are in a year?", "How many months does a year have?", "How many months has a year?"),
         "the months of a year", "A year has 12 months."),
    Talk(("How many hours are in a day?", "How many hours does a day have?", "How many hours has a day?"),
         "the hours of a day", "A day has 24 hours."),
    Talk(("How many minutes are in an hour?", "How many minutes does an hour have?"),
         "the minutes of an hour", "An hour has 60 minutes."),
    Talk(("How many seconds are in a minute?", "How many seconds does a minute have?"),
         "the seconds of a minute", "A minute has 60 seconds."),
    Talk(("What is the largest planet?", "Which planet is the largest?", "What is the biggest planet?"),
         "the largest planet", "The largest planet is Jupiter."),
    Talk(("Which planet do we live on?", "What is the name of our planet?", "What planet are we on?"),
         "our planet", "Our planet is the Earth."),
    Talk(("What is a mixture of experts?", "What are experts?", "What is an expert?",
    "What is an expert in a model?", "How do experts work?"),
         "experts", "An expert is a small network. A gate picks four of them for each token."),
    Talk(("What is Expertmesh?", "Tell me about Expertmesh.", "What does Expertmesh do?", "what is expertmesh"),
         "Expertmesh", "Expertmesh serves gpt-oss models with experts spread over many workers."),
    Talk(("Yes", "No", "OK", "Okay", "Ok", "Good", "Nice", "Cool", "Great!", "I see.", "Sure"),
         "a short remark", "Good. What else can I do for you?"),
    Talk(("I am sad.", "I feel sad today.", "I am tired.", "I had a bad day.", "I don't feel well."),
         "a feeling", "I am sorry to hear that. I hope that it gets better soon."),
    Talk(("I am happy.", "I feel great today!", "I had a good day.", "I love you.", "You are great!", "I like you."),
         "a feeling", "I am glad to hear that!"),
)  # fmt: skip
UNKNOWN_PHRASES = (
    "Who is {N}?", "Who was {N}?", "What is the capital of {N}?", "What is {n}?", "What is a {n}?",
    "How do I {n} a {m}?",
    "When was {N} born?", "Where is {N}?", "Why is {n} {m}?", "How old is {N}?", "What colour is {n}?",
    "Explain {n} {m}.",
    "Who wrote {N}?", "Who won the {n} {m}?", "What does {n} mean?", "How much does a {n} cost?",
    "What is the {n} of {N}?",
    "Tell me about {N}.", "Tell me about {n}.", "How many {n} are in {N}?", "Write a {n} about {m}.",
    "How does {n} work?",
    "What is the best {n}?", "Where can I buy a {n}?", "Can you {n} my {m}?", "Is {N} {n}?",
    "What is the opposite of {n}?",
    "Give me a list of {n} {m}.", "What happened in {N}?", "What sound does a {n} make?", "{N}?", "{n} {m}",
    "Do you like {n}?",
    "How is the {n} in {N}?", "Which {n} is the {m}?", "What is the meaning of {n}?", "Do {n} {m}?",
    "I need a {n} for my {m}.",
    "What is the population of {N}?", "What is the price of {n}?", "What is the weather in {N}?",
    "What time is it in {N}?",
    "How far is {N} from here?", "Write a program that {n} the {m}.", "Summarize {n} {m}.",
    "Who is the president of {N}?",
    "What is the meaning of life?", "How do I cook rice?", "What is the speed of light?", "What time is it?",
    "Who will win the next election?", "Who invented the telephone?", "Write code to sort a list.", "What is love?",
)  # fmt: skip
UNKNOWN = "I don't know."
FUNCTION_WORDS = ("weather", "time", "price", "How is", "What is the {n} of {N}?")
"""In questions that a function on offer may answer."""


def talk_exchange(draw: Draw, setting: Setting) -> Exchange:
    """Return a piece of small talk in the wanted part."""
    for _ in range(draw.max_tries):
        talk = draw.random.choice(TALKS) if draw.random.random() < 0.6 else draw.random.choice(TALKS[:12])
        phrase = draw.random.choice(talk.phrases)
        before = draw.random.choice(("", "", "", "", "Hi, ", "Hello! ", "Please: ", "Hey, "))
        if draw.accepts(f"talk|{before}{phrase}"):
            analysis = {
                "low": "Easy.",
                "medium": f"The user says something about {talk.topic}.",
                "high": f"The user says something about {talk.topic}. This needs no tool and no calculation. "
                "I answer in a friendly way and keep it short.",
            }[setting.effort]
            return Exchange("chat", user(before + phrase), final(analysis, talk.answer), talk.answer)
    raise AssertionError("no small talk in the wanted part")


def date_exchange(draw: Draw, setting: Setting) -> Exchange:
    """Return a question for today's date, which the system message gives."""
    phrase = draw.random.choice(
        (
            "What is the date today?",
            "What date is it?",
            "What day is it today?",
            "Which date is today?",
            "What's today's date?",
        )
    )
    text = f"Today is {setting.date}."
    analysis = {
        "low": "See the system message.",
        "medium": f"The system message gives the current date: {setting.date}.",
        "high": "The user asks for the date. I cannot see a clock, but the system message gives the current date. "
        f"It is {setting.date}. I answer with it.",
    }[setting.effort]
    return Exchange("date", user(phrase), final(analysis, text), text)


def unknown_exchange(draw: Draw, setting: Setting, names: Names) -> Exchange:
    """Return a question that the little world has no answer to."""
    for _ in range(draw.max_tries):
        phrase = draw.random.choice(UNKNOWN_PHRASES)
        if setting.functions and any(word in phrase for word in FUNCTION_WORDS):
            continue
        name = names.invented(draw.random)
        question = phrase.format(N=name, n=names.small(draw.random), m=names.small(draw.random))
        is_fixed = "{" not in phrase
        is_wanted = not draw.wants_held_out if is_fixed else draw.accepts(f"unknown|{question}")
        if is_wanted:
            return Exchange("unknown", user(question), final(unknown_analysis(setting), UNKNOWN), UNKNOWN)
    raise AssertionError("no unknown question in the wanted part")


def unknown_analysis(setting: Setting) -> str:
    """Return the reasoning that ends in not knowing."""
    return {
        "low": "Unknown.",
        "medium": "I have no fact about this. I say so.",
        "high": "The user asks about something that is not part of my little world. "
        "I have no fact about it and no tool for it. It is best to say plainly that I don't know.",
    }[setting.effort]


def memory_exchange(draw: Draw, setting: Setting, names: Names) -> Exchange:
    """Return a conversation in which the assistant is told something and asked for it, or asked to repeat it."""
    random = draw.random
    name = names.person(draw)
    shape = random.random()
    if shape < 0.25:
        said_name = random.choice(
            ("My name is {n}.", "I am {n}.", "Hi, I am {n}.", "Call me {n}.", "Hello, my name is {n}.")
        )
        text = f"Nice to meet you, {name}."
        return _remembered(user(said_name.format(n=name)), text, name, setting)
    if shape < 0.5:
        prompt = user(f"My name is {name}.") + said(f"Nice to meet you, {name}.")
        question = random.choice(("What is my name?", "Who am I?", "Do you remember my name?", "What's my name?"))
        return _remembered(prompt + user(question), f"Your name is {name}.", name, setting)
    if shape < 0.65:
        place = names.place(draw)
        prompt = user(f"My name is {name} and I live in {place}.") + said(f"Nice to meet you, {name}.")
        return _remembered(prompt + user("Where do I live?"), f"You live in {place}.", place, setting)
    words = names.phrase(random, 3) if random.random() < 0.5 else name
    order = random.choice(("Repeat: {w}", "Say: {w}", "Repeat after me: {w}", "Please repeat: {w}", "Echo: {w}"))
    return _remembered(user(order.format(w=words)), words, words, setting)


def _remembered(prompt: str, text: str, what: str, setting: Setting) -> Exchange:
    analysis = {
        "low": f"It is {what}.",
        "medium": f"The conversation says it: {what}.",
        "high": f"The user refers to something in this conversation. I look for it and find: {what}. "
        "I only have to say it.",
    }[setting.effort]
    return Exchange("memory", prompt, final(analysis, text), text)
