"""A function with one defect and what it should do; the answer is the function put right."""

from chorale_training import tasks
from chorale_training.tasks import code, programs


def generate(rng, held_out=False):
    key, program = tasks.draw(code.sample, rng, held_out)
    names = programs.names_of(program, rng)
    broken = programs.source(programs.break_one(program, rng), names)
    words = programs.describe(program, names, True)
    return tasks.Item(f"Bug: should return {words}.\n{broken}\nFixed:\n",
                      programs.source(program, names),
                      {"name": names["f"], "tests": programs.tests(program, names)}, key)


def dialect(rng):
    """The repair as a new line, as a difference, or as the whole function in another frame."""
    _, program = tasks.draw(code.sample, rng)
    names = programs.names_of(program, rng)
    wrong, right = programs.break_one(program, rng), program
    words = programs.describe(program, names, rng.random() < 0.4)
    broken, good = programs.source(wrong, names), programs.source(right, names)
    old, new = (programs.expression(p, names) for p in (wrong, right))
    form = rng.choice(("line", "diff", "whole", "whole", "which"))
    prompt = f"{broken}\n# wanted: {words}\n"
    if form == "line":
        return prompt + "New line:\n", f"    return {new}"
    if form == "diff":
        return prompt + "Diff:\n", f"-    return {old}\n+    return {new}"
    if form == "which":
        is_good = rng.random() < 0.5
        shown = good if is_good else broken
        return f"{shown}\n# wanted: {words}\nIs it right:\n", "yes" if is_good else "no"
    return prompt + "Corrected function:\n", good


score_all, score = code.score_all, code.score
