"""A small Python function from a sentence; scored by running it."""

from chorale_training import tasks
from chorale_training.tasks import programs, sandbox


def sample(rng):
    program = programs.sample(rng)
    return programs.key_of(program), program


def generate(rng, held_out=False):
    key, program = tasks.draw(sample, rng, held_out)
    names = programs.names_of(program, rng)
    words = programs.describe(program, names, True)
    prompt = f"Write {names['f']}({programs.arguments(program, names)}): return {words}.\nCode:\n"
    return tasks.Item(prompt, programs.source(program, names),
                      {"name": names["f"], "tests": programs.tests(program, names)}, key)


def dialect(rng):
    """The same programs as docstring and body, lambda, expression, or described from the source."""
    _, program = tasks.draw(sample, rng)
    names = programs.names_of(program, rng)
    is_task_words = rng.random() < 0.4
    words = programs.describe(program, names, is_task_words)
    text, head = programs.expression(program, names), programs.arguments(program, names)
    form = rng.choice(("doc", "def", "def", "lambda", "expression", "words"))
    if form == "doc":
        doc = f'"""{words[0].upper()}{words[1:]}."""'
        return f"def {names['f']}({head}):\n    {doc}\n", f"    return {text}"
    if form == "def":
        frame = rng.choice(("# {f} of {h} gives {w}\nFunction:\n",
                            "Make a function {f} with {h} for {w}\nFunction:\n"))
        return (frame.format(f=names["f"], h=head, w=words),
                programs.source(program, names))
    if form == "lambda":
        return f"Short: {words}\nNamed {names['f']}:\n", f"{names['f']} = lambda {head}: {text}"
    if form == "expression":
        return f"Wanted: {words}\nExpression:\n", text
    return f"{programs.source(program, names)}\nMeaning:\n", words


def score_all(items, outputs):
    return sandbox.passes([(output, item.extra["name"], item.extra["tests"])
                           for item, output in zip(items, outputs)])


def score(item, output):
    """True when the function of `output` returns what every test says."""
    return score_all([item], [output])[0]
