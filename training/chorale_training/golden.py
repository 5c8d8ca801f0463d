"""golden.json of a model folder: ids, logits and greedy completions, for other engines.

Computed in float32 from the stored weights. A right implementation gives the same prompt ids, the
same greedy ids, and logits that differ by rounding only. `margin_min` of a completion is the
smallest lead of a chosen id over the second: where it is tiny, rounding may choose otherwise.
"""

import json
import os

import torch

from chorale_training import export

PROMPTS = (
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n',
    "import os\nimport sys\n\n\ndef main():\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "# Compute the mean and the variance of a list of numbers.\ndef mean(values):\n    return",
    "    for i in range(10):\n        if i % 2 == 0:\n            print(",
    "<|endoftext|>",
    "<|im_start|>user\nWrite a function that adds two numbers.<|im_end|>\n<|im_start|>assistant\n",
    "größe = 3  # naïve café, 日本語, ½ and 🙂\n",
)

TEXTS = (
    "", " ", "  ", "\n", "\t\tx", "a\n\n  b", "x = 12345.678e-9\r\n", "it's WE'LL don't",
    "__init__(self, *args, **kwargs)", "a\u00a0\u2003b\u001cc", "e\u0301 \u00e9",
    "\U0001f469\u200d\U0001f4bb", "<|im_start|><|im_end|>", "<|im_start",
    '<tool_call>{"name": 1}</tool_call>', "<|reserved_0|> <|reserved_9|>",
    "مرحبا بالعالم", "नमस्ते दुनिया", "Ⅷ ² ½ ٣",
)

_TOP_COUNT, _GREEDY_COUNT = 10, 32


def completion(model, tokenizer, prompt):
    """Prompt ids, the best first logits, and the greedy ids with their smallest margin."""
    ids = tokenizer.encode(prompt)
    greedy_ids = model.greedy(ids, _GREEDY_COUNT)
    logits = model(torch.tensor([ids + greedy_ids]))[0]
    best = logits[len(ids) - 1 : -1].topk(2).values
    top = logits[len(ids) - 1].topk(_TOP_COUNT)
    return {
        "text": prompt,
        "ids": ids,
        "greedy_ids": greedy_ids,
        "greedy_text": tokenizer.decode(greedy_ids),
        "margin_min": round(float((best[:, 0] - best[:, 1]).min()), 6),
        "first_top_ids": top.indices.tolist(),
        "first_top_logits": [round(value, 6) for value in top.values.tolist()],
    }


@torch.no_grad()
def compute(model, tokenizer):
    """The contents of golden.json; `first_logits` are those after the first prompt, by id."""
    completions = [completion(model, tokenizer, prompt) for prompt in PROMPTS]
    first = model(torch.tensor([completions[0]["ids"]]))[0, -1]
    return {
        "dtype": "float32",
        "completions": completions,
        "encodings": [{"text": text, "ids": tokenizer.encode(text)} for text in TEXTS],
        "first_logits": [round(value, 6) for value in first.tolist()],
    }


def save(folder):
    """Writes golden.json of the stored weights and tokenizer; returns its contents."""
    contents = compute(*export.load(folder))
    # One line a completion and an encoding, so that a change can be read as a difference.
    lines = [f'{{"dtype": "{contents["dtype"]}",']
    for key in ("completions", "encodings"):
        rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in contents[key])
        lines.append(f' "{key}": [\n  {rows}],')
    lines.append(f' "first_logits": {json.dumps(contents["first_logits"])}}}')
    export.write_text(os.path.join(folder, "golden.json"), "\n".join(lines) + "\n")
    return contents
