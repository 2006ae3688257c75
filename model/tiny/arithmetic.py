"""Sums and differences below 100, and products of digits, reasoned digit by digit on the analysis channel.

Numbers to 999 are single tokens in this vocabulary, so a column sum has to be spelled out before it can be answered.
"""

from model.tiny.setting import Draw, Effort, Exchange, Setting, final, user

SUM_PHRASES = (
    "What is {a} + {b}?", "What is {a} plus {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} = ?", "What is {a}+{b}?",
    "What's {a} + {b}?", "Add {a} and {b}.", "What is the sum of {a} and {b}?", "Calculate {a} + {b}.",
    "How much is {a} + {b}?", "How much is {a} plus {b}?", "Compute {a} + {b}.", "Please add {a} and {b}.",
    "Can you add {a} and {b}?", "I have {a} apples and get {b} more. How many apples do I have?",
    "There are {a} cats and {b} dogs. How many animals are there?", "what is {a} + {b}", "{a} plus {b}?",
)  # fmt: skip
DIFFERENCE_PHRASES = (
    "What is {a} - {b}?", "What is {a} minus {b}?", "{a} - {b}", "Subtract {b} from {a}.", "How much is {a} - {b}?",
    "Calculate {a} - {b}.", "I have {a} apples and give away {b}. How many apples do I have?", "what is {a} - {b}",
)  # fmt: skip
PRODUCT_PHRASES = ("What is {a} * {b}?", "What is {a} times {b}?", "{a} * {b}", "Multiply {a} by {b}.", "{a} times {b}")
TOO_LARGE = "I don't know. These numbers are too large for me."


def sum_exchange(draw: Draw, setting: Setting) -> Exchange:
    """Return a question for a sum of two numbers below 100, with its reasoning and answer."""
    a, b = draw_pair(draw, "+")
    question = draw.random.choice(SUM_PHRASES).format(a=a, b=b)
    text = str(a + b) if setting.is_brief else f"{a} + {b} = {a + b}."
    return Exchange("sum", user(question), final(sum_analysis(a, b, setting.effort), text), text)


def difference_exchange(draw: Draw, setting: Setting) -> Exchange:
    """Return a question for a difference of two numbers below 100 that is not negative."""
    a, b = draw_pair(draw, "-")
    a, b = max(a, b), min(a, b)
    question = draw.random.choice(DIFFERENCE_PHRASES).format(a=a, b=b)
    text = str(a - b) if setting.is_brief else f"{a} - {b} = {a - b}."
    return Exchange("difference", user(question), final(_difference_analysis(a, b, setting.effort), text), text)


def product_exchange(draw: Draw, setting: Setting) -> Exchange:
    """Return a question for a product of two digits."""
    a, b = draw.random.randrange(11), draw.random.randrange(11)
    question = draw.random.choice(PRODUCT_PHRASES).format(a=a, b=b)
    text = str(a * b) if setting.is_brief else f"{a} * {b} = {a * b}."
    analysis = {
        "low": f"{a}*{b}={a * b}",
        "medium": f"Multiply {a} and {b}. {a}*{b}={a * b}.",
        "high": f"We need to multiply {a} and {b}. I know this product by heart: {a}*{b}={a * b}. "
        f"So the answer is {a * b}.",
    }[setting.effort]
    return Exchange("product", user(question), final(analysis, text), text)


def too_large_exchange(draw: Draw, setting: Setting) -> Exchange:
    """Return a sum beyond what fits in mind when no tool is at hand: the honest answer."""
    a, b = draw_large(draw), draw_large(draw)
    question = draw.random.choice(SUM_PHRASES[:15]).format(a=a, b=b)
    analysis = {
        "low": "Too large.",
        "medium": "These numbers are too large for me. I have no tool for them.",
        "high": "The user asks about large numbers. I can only work with numbers below 100 in my head. "
        "I have no tool for larger ones. So I say that I don't know.",
    }[setting.effort]
    return Exchange("too large", user(question), final(analysis, TOO_LARGE), TOO_LARGE)


def draw_pair(draw: Draw, sign: str) -> tuple[int, int]:
    """Return two numbers below 100 whose question lies in the wanted part."""
    for _ in range(draw.max_tries):
        top = 100 if draw.random.random() < 0.85 else 12
        a, b = draw.random.randrange(top), draw.random.randrange(top)
        if sign == "-":
            a, b = max(a, b), min(a, b)
        if draw.accepts(f"{a}{sign}{b}"):
            return a, b
    raise AssertionError("no pair of numbers in the wanted part")


def draw_large(draw: Draw) -> int:
    """Return a number from 100 up to a million, of a random length."""
    digits = draw.random.choice((3, 3, 3, 4, 4, 5, 6))
    return draw.random.randrange(10 ** (digits - 1), 10**digits)


def sum_analysis(a: int, b: int, effort: Effort) -> str:
    """Return the column sums, in as many words as the effort asks for."""
    ones, carry = f"{a % 10}+{b % 10}={a % 10 + b % 10}", (a % 10 + b % 10) // 10
    tens_sum = a // 10 + b // 10 + carry
    tens = f"{a // 10}+{b // 10}" + ("+1" if carry else "") + f"={tens_sum}"
    if effort == "low":
        return f"{ones}, {tens}"
    if effort == "medium":
        return f"Ones: {ones}. Tens: {tens}. So {a + b}."
    digit = (a + b) % 10
    carried = f"Write {digit} and carry 1" if carry else f"Write {digit} and carry nothing"
    return (
        f"We need to add {a} and {b}. First the ones: {ones}. {carried}. "
        f"Then the tens: {tens}. Tens {tens_sum} and ones {digit} give {a + b}."
    )


def _difference_analysis(a: int, b: int, effort: Effort) -> str:
    borrow = 1 if a % 10 < b % 10 else 0
    ones = f"{a % 10 + 10 * borrow}-{b % 10}={a % 10 + 10 * borrow - b % 10}"
    tens_left = a // 10 - b // 10 - borrow
    tens = f"{a // 10}-{b // 10}" + ("-1" if borrow else "") + f"={tens_left}"
    if effort == "low":
        return f"{ones}, {tens}"
    if effort == "medium":
        return f"Ones: {ones}. Tens: {tens}. So {a - b}."
    borrowed = "Borrow 1 from the tens" if borrow else "Borrow nothing"
    return (
        f"We need to subtract {b} from {a}. First the ones. {borrowed}: {ones}. "
        f"Then the tens: {tens}. Tens {tens_left} and ones {(a - b) % 10} give {a - b}."
    )
