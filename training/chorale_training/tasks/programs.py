"""Small Python functions: a description in words, the source, and what it should return.

A program is a tuple (kind, ...) of parts and constants. Kinds: "list" filters, maps and sums up a
list of numbers; "pair" computes with two numbers; "text" works on one string.
"""

_VERBS = ("get", "make", "find", "calc", "do", "run", "use", "work")
_NOUNS = ("total", "score", "rank", "value", "part", "data", "count", "mark", "size", "rate",
          "stock", "price", "level", "step", "gain", "load")
_LISTS = (("xs", "x"), ("nums", "n"), ("items", "i"), ("values", "v"))
_PAIRS = (("a", "b"), ("x", "y"), ("m", "n"), ("p", "q"))
_TEXTS = ("s", "text", "word", "line")

# part -> (words of the task, words of the dialects, source); {v} is the item, {k} the constant.
AGGREGATES = {
    "list": ("the list of", "a list with", "[{e}]"),
    "sum": ("the sum of", "the total of", "sum({e})"),
    "max": ("the largest of", "the maximum of", "max(({e}), default=0)"),
    "min": ("the smallest of", "the minimum of", "min(({e}), default=0)"),
    "count": ("the count of", "the number of", "len([{e}])"),
}
MAPS = {
    "same": ("the items of {l}", "all {v} in {l}", "{v}"),
    "mul": ("{k} times the items of {l}", "{v} times {k} for {v} in {l}", "{v} * {k}"),
    "add": ("the items of {l} plus {k}", "{v} plus {k} for {v} in {l}", "{v} + {k}"),
    "sub": ("the items of {l} minus {k}", "{v} minus {k} for {v} in {l}", "{v} - {k}"),
    "square": ("the squares of the items of {l}", "{v} squared for {v} in {l}", "{v} * {v}"),
    "neg": ("the negatives of the items of {l}", "minus {v} for {v} in {l}", "-{v}"),
    "mod": ("the items of {l} modulo {k}", "{v} modulo {k} for {v} in {l}", "{v} % {k}"),
}
FILTERS = {
    "all": ("", "", ""),
    "above": (" that are greater than {k}", " where {v} is above {k}", " if {v} > {k}"),
    "below": (" that are less than {k}", " where {v} is below {k}", " if {v} < {k}"),
    "even": (" that are even", " where {v} is even", " if {v} % 2 == 0"),
    "odd": (" that are odd", " where {v} is odd", " if {v} % 2 == 1"),
    "not": (" that are not {k}", " where {v} differs from {k}", " if {v} != {k}"),
    "divides": (" that {k} divides", " where {v} is divisible by {k}", " if {v} % {k} == 0"),
}
_HAS_NUMBER = ("mul", "add", "sub", "mod", "above", "below", "not", "divides")
PAIRS = {
    "plus_times": ("{k} times the sum of {a} and {b}", "{a} plus {b}, all times {k}",
                   "({a} + {b}) * {k}"),
    "minus_times": ("{k} times the difference of {a} and {b}", "{a} minus {b}, all times {k}",
                    "({a} - {b}) * {k}"),
    "times_plus": ("the product of {a} and {b}, plus {k}", "{a} times {b}, plus {k}",
                   "{a} * {b} + {k}"),
    "times_minus": ("the product of {a} and {b}, minus {k}", "{a} times {b}, minus {k}",
                    "{a} * {b} - {k}"),
    "max_plus": ("the larger of {a} and {b}, plus {k}", "maximum of {a} and {b}, plus {k}",
                 "max({a}, {b}) + {k}"),
    "min_plus": ("the smaller of {a} and {b}, plus {k}", "minimum of {a} and {b}, plus {k}",
                 "min({a}, {b}) + {k}"),
    "if_above": ("{k} if {a} is greater than {b}, else 0", "{k} when {a} is above {b}, otherwise 0",
                 "{k} if {a} > {b} else 0"),
    "if_below": ("{k} if {a} is less than {b}, else 0", "{k} when {a} is below {b}, otherwise 0",
                 "{k} if {a} < {b} else 0"),
}
TEXTS = {
    "repeat": ("{s} repeated {k} times", "{k} copies of {s}", "{s} * {k}"),
    "first": ("the first {k} characters of {s}", "{s} up to {k}", "{s}[:{k}]"),
    "last": ("the last {k} characters of {s}", "the end of {s} from {k}", "{s}[-{k}:]"),
    "skip": ("{s} without its first {k} characters", "{s} from {k} on", "{s}[{k}:]"),
    "step": ("every {k}th character of {s}", "{s} in steps of {k}", "{s}[::{k}]"),
    "longer": ("whether {s} is longer than {k}", "true when {s} has more than {k}",
               "len({s}) > {k}"),
    "shorter": ("whether {s} is shorter than {k}", "true when {s} has less than {k}",
                "len({s}) < {k}"),
}
_CASES = {"": ("", ""), "upper": (", in upper case", ".upper()"),
          "lower": (", in lower case", ".lower()")}

_LIST_INPUTS = ([], [1, 2, 3, 4, 5, 6], [7, -3, 12, 0, 9, 8, 15], [4, 4, 10, 11, -5, 20, 14, 3, 2],
                [13, 5, 18, 6, 9, 27, 24, 16, 7, 1, 30])
_PAIR_INPUTS = ([3, 4], [9, 2], [-5, 6], [7, 7], [0, 11])
_TEXT_INPUTS = ("", "a", "Hello", "The quick brown fox", "abcdEFGHijklMNOP")


def sample(rng):
    """A program whose parts are drawn at random."""
    kind = rng.choice(("list", "list", "list", "pair", "text"))
    if kind == "list":
        aggregate, filter_ = rng.choice(list(AGGREGATES)), rng.choice(list(FILTERS))
        map_ = "same" if aggregate == "count" else rng.choice(list(MAPS))
        if map_ == "mod" and filter_ in ("even", "odd"):
            filter_ = "all"
        numbers = [rng.randint(2, 12) if part in _HAS_NUMBER else 0 for part in (map_, filter_)]
        return ("list", aggregate, map_, numbers[0], filter_, numbers[1])
    if kind == "pair":
        return ("pair", rng.choice(list(PAIRS)), rng.randint(1, 20))
    part = rng.choice(list(TEXTS))
    case = rng.choice(list(_CASES)) if part not in ("longer", "shorter") else ""
    return ("text", part, rng.randint(2, 9), case)


def names_of(program, rng):
    """{"f": function, and the arguments by what they stand for}."""
    name = rng.choice(_NOUNS)
    names = {"f": name if rng.random() < 0.5 else f"{rng.choice(_VERBS)}_{name}"}
    if program[0] == "list":
        names["l"], names["v"] = rng.choice(_LISTS)
    elif program[0] == "pair":
        names["a"], names["b"] = rng.choice(_PAIRS)
    else:
        names["s"] = rng.choice(_TEXTS)
    return names


def arguments(program, names):
    return ", ".join(names[key] for key in "lsab" if key in names)


def describe(program, names, is_task):
    """What the program returns, in the words of the task or of the dialects."""
    side = 0 if is_task else 1
    if program[0] == "list":
        _, aggregate, map_, k_map, filter_, k_filter = program
        mapped = MAPS[map_][side].format(k=k_map, **names)
        filtered = FILTERS[filter_][side].format(k=k_filter, **names)
        return f"{AGGREGATES[aggregate][side]} {mapped}{filtered}"
    if program[0] == "pair":
        return PAIRS[program[1]][side].format(k=program[2], **names)
    return TEXTS[program[1]][side].format(k=program[2], **names) + _CASES[program[3]][0]


def expression(program, names):
    """The program as one Python expression."""
    if program[0] == "list":
        _, aggregate, map_, k_map, filter_, k_filter = program
        inner = "{} for {v} in {l}{}".format(
            MAPS[map_][2].format(k=k_map, **names), FILTERS[filter_][2].format(k=k_filter, **names),
            **names)
        if (map_, filter_) == ("same", "all"):
            short = {"list": "list({l})", "sum": "sum({l})", "max": "max({l}, default=0)",
                     "min": "min({l}, default=0)", "count": "len({l})"}
            return short[aggregate].format(**names)
        return AGGREGATES[aggregate][2].format(e=inner)
    if program[0] == "pair":
        return PAIRS[program[1]][2].format(k=program[2], **names)
    cased = names["s"] + _CASES[program[3]][1]
    return TEXTS[program[1]][2].format(k=program[2], s=cased)


def source(program, names):
    """The function: a header and one return."""
    return (f"def {names['f']}({arguments(program, names)}):\n"
            f"    return {expression(program, names)}")


def key_of(program):
    return "program " + " ".join(map(str, program))


def tests(program, names):
    """[[arguments, result], ...] from running our own source."""
    scope = {}
    exec(source(program, names), scope)  # our own text, not a model's
    inputs = {"list": [[list(i)] for i in _LIST_INPUTS], "pair": _PAIR_INPUTS,
              "text": [[i] for i in _TEXT_INPUTS]}[program[0]]
    return [[list(i), scope[names["f"]](*i)] for i in inputs]


def break_one(program, rng):
    """A program of the same kind with one part changed, which some test tells apart."""
    names = names_of(program, rng)
    expected = tests(program, names)
    while True:
        other = list(program)
        place = rng.randrange(1, len(program))
        table = {"list": (None, AGGREGATES, MAPS, None, FILTERS, None), "pair": (None, PAIRS, None),
                 "text": (None, TEXTS, None, _CASES)}[program[0]][place]
        if table is not None:
            other[place] = rng.choice(list(table))
        elif program[place]:
            other[place] = max(1, program[place] + rng.choice((-3, -2, -1, 1, 2, 3)))
        if _fits(other, program) and tests(tuple(other), names) != expected:
            return tuple(other)


def _fits(other, program):
    """True when every part that takes a number has one, and no other part has."""
    if other[0] == "list":
        wants = [part in _HAS_NUMBER for part in (other[2], other[4])]
        return ([bool(other[3]), bool(other[5])] == wants
                and (other[1] != "count" or other[2] == "same")
                and not (other[2] == "mod" and other[3] == 0))
    if other[0] == "text":
        return other[1] not in ("longer", "shorter") or other[3] == ""
    return tuple(other) != program
