"""A request and two or three tools; the answer calls the one that fits, as JSON.

Tools have one text and one whole number to pass. The task knows each tool by one name and one name
for each argument; the dialects draw them anew every time.
"""

import json

from chorale_training import tasks

CITIES = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Berlin", "Tokyo", "Delhi", "Quito", "Madrid",
          "Dublin", "Prague", "Vienna", "Boston", "Sydney", "Seoul")
SONGS = ("blue moon", "red river", "old road", "soft rain", "gold star", "green hill", "dark water",
         "long night", "high wind", "new day", "lost key", "cold fire")
CHORES = ("tea", "lunch", "the bus", "the rent", "a walk", "the cake", "water", "the call",
          "the train", "laundry", "a nap", "the report")
GOODS = ("milk", "bread", "rice", "apples", "soap", "paper", "cheese", "candles", "nails", "tape",
         "beans", "salt")
PEOPLE = ("Mia", "Tom", "Ada", "Ben", "Eva", "Leo", "Ida", "Max", "Zoe", "Sam", "Amy", "Jon")
ROOMS = ("kitchen", "hall", "office", "garden", "attic", "garage", "studio", "cellar")

# (names of the tool, names of the text, names of the number, values, low, high, requests); the
# last request is the one that only the task uses.
_TOOLS = (
    (("weather", "forecast", "get_weather"), ("city", "place"), ("days", "n_days"), CITIES, 1, 14,
     ("Weather in {v} for {n} days.", "How will it be in {v} over {n} days?",
      "Tell me the weather of {v} for the next {n} days.")),
    (("play", "play_song", "music"), ("song", "title"), ("volume", "level"), SONGS, 1, 99,
     ("Play {v} at volume {n}.", "Put on {v}, volume {n}.",
      "I want to hear {v} at volume {n}.")),
    (("remind", "set_timer", "alarm"), ("text", "label"), ("minutes", "delay"), CHORES, 1, 90,
     ("Remind me of {v} in {n} minutes.", "In {n} minutes tell me about {v}.",
      "Do not let me forget {v} in {n} minutes.")),
    (("buy", "order", "add_to_cart"), ("item", "product"), ("count", "amount"), GOODS, 1, 40,
     ("Buy {n} of {v}.", "Order {v}, {n} of them.", "We need {n} more of {v}.")),
    (("pay", "send_money", "transfer"), ("to", "person"), ("amount", "euros"), PEOPLE, 5, 99,
     ("Pay {v} {n} euros.", "Send {n} euros to {v}.", "I owe {v} {n} euros, settle it.")),
    (("heat", "set_heat", "thermostat"), ("room", "zone"), ("degrees", "temp"), ROOMS, 15, 28,
     ("Heat the {v} to {n} degrees.", "Make the {v} {n} degrees warm.",
      "The {v} should have {n} degrees.")),
    (("book", "reserve", "book_table"), ("city", "where"), ("people", "seats"), CITIES, 2, 12,
     ("Book a table in {v} for {n}.", "Reserve {n} seats in {v}.",
      "We will eat in {v}, {n} of us.")),
    (("dim", "set_light", "lamp"), ("room", "area"), ("percent", "level"), ROOMS, 1, 99,
     ("Dim the {v} to {n} percent.", "Light in the {v} at {n} percent.",
      "Let the {v} have {n} percent of light.")),
)


def _sample(rng):
    tool = rng.randrange(len(_TOOLS))
    _, _, _, values, low, high, _ = _TOOLS[tool]
    value, number = rng.choice(values), rng.randint(low, high)
    return f"tools {tool} {value} {number}", tool, value, number


def _draw_names(tool, rng, is_task):
    names, texts, numbers = _TOOLS[tool][:3]
    if is_task:
        return names[0], texts[0], numbers[0]
    return rng.choice(names), rng.choice(texts), rng.choice(numbers)


def _scene(rng, held_out, is_task):
    """(key, schemas, request, (tool, text, number names), value, number)."""
    key, tool, value, number = tasks.draw(_sample, rng, held_out)
    others = rng.sample([i for i in range(len(_TOOLS)) if i != tool], rng.choice((1, 2)))
    named = {i: _draw_names(i, rng, is_task) for i in (tool, *others)}
    while len({names[0] for names in named.values()}) < len(named):
        named = {i: _draw_names(i, rng, is_task) for i in named}
    order = list(named)
    rng.shuffle(order)
    requests = _TOOLS[tool][6]
    request = rng.choice(requests if is_task else requests[:-1]).format(v=value, n=number)
    return key, [named[i] for i in order], request, named[tool], value, number


def generate(rng, held_out=False):
    key, schemas, request, names, value, number = _scene(rng, held_out, True)
    listed = "; ".join(f"{a}({b}: str, {c}: int)" for a, b, c in schemas)
    call = {"name": names[0], "arguments": {names[1]: value, names[2]: number}}
    return tasks.Item(f"Tools: {listed}\nUser: {request}\nCall:\n", json.dumps(call),
                      {"call": call}, key)


_LAYOUTS = (
    '{{"{f}": "{a}", "{g}": {{"{b}": "{v}", "{c}": {n}}}}}',
    '{{"{f}": "{a}", "{b}": "{v}", "{c}": {n}}}',
    '{a}({b}="{v}", {c}={n})',
    "{a} {b}={v} {c}={n}",
    '[{{"{f}": "{a}", "{g}": ["{v}", {n}]}}]',
)
_KEYS = (("name", "arguments"), ("tool", "input"), ("fn", "args"), ("call", "with"),
         ("use", "params"))


def dialect(rng):
    """Schemas in other words; the layout of the call is shown by an example."""
    _, schemas, request, (a, b, c), value, number = _scene(rng, False, False)
    layout, (f, g) = rng.choice(_LAYOUTS[:1] * 2 + _LAYOUTS), rng.choice(_KEYS)
    if rng.random() < 0.15:
        which = rng.choice((("Tool", a), ("Text", value), ("Number", str(number))))
        return f"Ask: {request}\nHave: {', '.join(s[0] for s in schemas)}\n{which[0]}:\n", which[1]
    example = layout.format(f=f, g=g, a="do", b="x", c="y", v="on", n=1)
    style = rng.choice(("{} with {} and {}", "{}: {} text, {} number", "{}({}: str, {}: int)"))
    listed = rng.choice(("; ", "\n")).join(style.format(*schema) for schema in schemas)
    answer = layout.format(f=f, g=g, a=a, b=b, c=c, v=value, n=number)
    return f"Have: {listed}\nLike: {example}\nAsk: {request}\nDo:\n", answer


def score(item, output):
    """True when `output` is JSON and equal to the call."""
    try:
        return json.loads(output) == item.extra["call"]
    except ValueError:
        return False


def score_all(items, outputs):
    return [score(item, output) for item, output in zip(items, outputs)]
