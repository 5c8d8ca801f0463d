"""Word problems of two steps over small numbers; the answer works them out, the last number counts.

A problem is (form, a, b, c): the form says which two operations, in which order.
"""

import re

from chorale_training import tasks

NAMES = ("Mia", "Tom", "Ada", "Ben", "Eva", "Leo", "Ida", "Max", "Zoe", "Sam", "Amy", "Jon",
         "Lea", "Kai", "Nora", "Finn", "Ruth", "Paul", "Vera", "Carl")
THINGS = ("pears", "books", "coins", "cards", "shells", "pens", "nuts", "stamps", "plums", "eggs",
          "beads", "cups", "keys", "seeds", "toys", "cakes", "stones", "boxes", "roses", "balls")

# form -> (first operation, second operation)
FORMS = {"times_minus": "*-", "times_plus": "*+", "plus_times": "+*", "plus_minus": "+-",
         "minus_minus": "--", "minus_times": "-*", "plus_plus": "++", "minus_plus": "-+"}

_TASK_WORDS = {
    "times_minus": ("{N} packs {a} bags with {b} {t} each, then gives {c} {t} away.",
                    "There are {a} rows of {b} {t}. {N} takes {c} of them."),
    "times_plus": ("{N} packs {a} bags with {b} {t} each, then finds {c} more {t}.",
                   "There are {a} rows of {b} {t}. {N} brings {c} more."),
    "plus_times": ("Every day {N} gets {a} {t} at noon and {b} {t} at night. This goes on for {c} "
                   "days.", "A kit has {a} old and {b} new {t}. {N} buys {c} kits."),
    "plus_minus": ("{N} owns {a} {t}, gets {b} more and loses {c}.",
                   "A shelf holds {a} {t}. {N} adds {b} and takes {c} off."),
    "minus_minus": ("{N} owns {a} {t}, sells {b} and loses {c}.",
                    "A shelf holds {a} {t}. {N} takes {b}, and later {c} more, off."),
    "minus_times": ("Every day {N} gets {a} {t} and eats {b}. This goes on for {c} days.",
                    "A kit has {a} {t}, but {b} are broken. {N} buys {c} kits."),
    "plus_plus": ("{N} owns {a} {t}, gets {b} more and wins {c}.",
                  "A shelf holds {a} {t}. {N} adds {b}, and later {c} more."),
    "minus_plus": ("{N} owns {a} {t}, sells {b} and wins {c}.",
                   "A shelf holds {a} {t}. {N} takes {b} off and adds {c}."),
}
_DIALECT_WORDS = {
    "times_minus": ("{a} boxes of {b} {t} come in and {c} {t} go out.",
                    "{N} has {a} sets of {b} {t} and loses {c} {t}."),
    "times_plus": ("{a} boxes of {b} {t} come in and {c} {t} more.",
                   "{N} has {a} sets of {b} {t} and gets {c} {t}."),
    "plus_times": ("{a} {t} and {b} {t} come in, {c} times.",
                   "{N} gets {a} and {b} {t} on each of {c} days."),
    "plus_minus": ("{a} {t} come in, {b} more come in, {c} go out.",
                   "{N} has {a} {t}, gets {b} and loses {c}."),
    "minus_minus": ("{a} {t} come in, {b} go out, {c} more go out.",
                    "{N} has {a} {t}, loses {b} and gives {c} away."),
    "minus_times": ("{a} {t} come in and {b} go out, {c} times.",
                    "{N} gets {a} {t} and gives {b} away on each of {c} days."),
    "plus_plus": ("{a} {t} come in, {b} more come in, {c} more come in.",
                  "{N} has {a} {t}, gets {b} and finds {c}."),
    "minus_plus": ("{a} {t} come in, {b} go out, {c} more come in.",
                   "{N} has {a} {t}, loses {b} and gets {c}."),
}
_QUESTIONS = ("How many {t} are there now?", "How many {t} is that?", "How many {t} in the end?")
_TOP, _DIALECT_TOP = 50, 99  # the largest result
_SEPARATORS = ("\n", "; ", ", ", " | ", " then ")


def apply(left, sign, right):
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def _numbers(form, rng, top):
    """(a, b, c) whose two results lie within [1, top]."""
    while True:
        first, second = FORMS[form]
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        if first != "*":
            a, b = rng.randint(2, 60), rng.randint(2, 40)
            if second == "*":
                a, b = rng.randint(2, 19), rng.randint(1, 12)
        c = rng.randint(2, 9) if second == "*" else rng.randint(2, 40)
        middle = apply(a, first, b)
        limit = 9 if second == "*" else top
        if 1 <= middle <= limit and 1 <= apply(middle, second, c) <= top:
            return a, b, c


def _sample(rng, top=_TOP):
    form = rng.choice(sorted(FORMS))
    a, b, c = _numbers(form, rng, top)
    return f"math {form} {a} {b} {c}", form, a, b, c


def steps(form, a, b, c):
    """Two (left, sign, right, result)."""
    first, second = FORMS[form]
    middle = apply(a, first, b)
    return (a, first, b, middle), (middle, second, c, apply(middle, second, c))


def layout(worked, spaced, separator):
    """The steps as text: "2+3=5; 5*4=20" or with spaces around the signs."""
    pattern = "{} {} {} = {}" if spaced else "{}{}{}={}"
    return separator.join(pattern.format(*step) for step in worked)


def generate(rng, held_out=False):
    _, form, a, b, c = drawn = tasks.draw(_sample, rng, held_out)
    words = {"N": rng.choice(NAMES), "t": rng.choice(THINGS), "a": a, "b": b, "c": c}
    story = rng.choice(_TASK_WORDS[form]).format(**words)
    question = rng.choice(_QUESTIONS).format(**words)
    worked = steps(form, a, b, c)
    return tasks.Item(f"Q: {story} {question}\nSteps:\n", layout(worked, False, "\n"),
                      {"result": worked[1][3]}, drawn[0])


def dialect(rng):
    """A story and one of several requests about it; the layout of the work is shown by example."""
    _, form, a, b, c = tasks.draw(lambda r: _sample(r, _DIALECT_TOP), rng)
    words = {"N": rng.choice(NAMES), "t": rng.choice(THINGS), "a": a, "b": b, "c": c}
    story = rng.choice(_DIALECT_WORDS[form] + _TASK_WORDS[form][:1]).format(**words)
    worked, (first, second) = steps(form, a, b, c), FORMS[form]
    request = rng.choice(("work", "work", "work", "numbers", "sum", "plan"))
    if request == "work":
        spaced, separator = rng.random() < 0.5, rng.choice(_SEPARATORS)
        example = layout(steps("plus_times", 1, 2, 2), spaced, separator)
        return f"Story: {story}\nWork like {example}\nWork:\n", layout(worked, spaced, separator)
    if request == "numbers":
        return f"Story: {story}\nNumbers:\n", f"{a}, {b}, {c}"
    if request == "plan":
        return f"Story: {story}\nPlan:\n", f"{a} {first} {b}, then {second} {c}"
    text = f"({a} {first} {b}) {second} {c}"
    spaced, separator = rng.random() < 0.5, rng.choice(_SEPARATORS)
    example = layout(steps("plus_times", 1, 2, 2), spaced, separator)
    return f"Sum: {text}\nWork like {example}\nWork:\n", layout(worked, spaced, separator)


def score(item, output):
    """True when the last number of `output` is the result."""
    found = re.findall(r"\d+", output)
    return bool(found) and int(found[-1]) == item.extra["result"]


def score_all(items, outputs):
    return [score(item, output) for item, output in zip(items, outputs)]
