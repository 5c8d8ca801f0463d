"""A model folder as Hugging Face lays it out, written from the weights of a Qwen2.

The files appear one by one, each whole or not at all, so that a reader may look at any time.
"""

import json
import os

import numpy as np
import torch

from chorale_training import qwen2, safetensors, tokenizer_bpe

# ChatML: what Qwen's models speak, without a default system prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_text(path, text):
    """Replaces the file at `path` in one step."""
    unfinished = f"{path}.unfinished"
    with open(unfinished, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(unfinished, path)


def _write_json(path, contents):
    write_text(path, json.dumps(contents, indent=2, ensure_ascii=False) + "\n")


def half(name, tensor):
    """The tensor as a numpy array in f16; ValueError when a value does not fit."""
    with np.errstate(over="ignore"):
        array = tensor.detach().cpu().numpy().astype(np.float16)
    if not np.isfinite(array).all():
        raise ValueError(f"tensor {name!r} has values that are not finite in f16")
    return array


def save(folder, model, tokenizer):
    """config.json, model.safetensors (f16), tokenizer and generation files of `model`."""
    os.makedirs(folder, exist_ok=True)
    end, turn_end = tokenizer.id_of(tokenizer_bpe.END_OF_TEXT), tokenizer.id_of("<|im_end|>")
    tensors = {name: half(name, tensor) for name, tensor in model.state_dict().items()}
    safetensors.save(os.path.join(folder, "model.safetensors"), tensors, {"format": "pt"})
    _write_json(os.path.join(folder, "config.json"), model.config.to_json(end, "float16"))
    write_text(os.path.join(folder, "tokenizer.json"), tokenizer.to_text())
    _write_json(os.path.join(folder, "tokenizer_config.json"), {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_position_embeddings,
        "bos_token": None, "eos_token": tokenizer_bpe.END_OF_TEXT,
        "pad_token": tokenizer_bpe.END_OF_TEXT, "unk_token": None,
        "add_bos_token": False, "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    })
    _write_json(os.path.join(folder, "generation_config.json"), {
        "bos_token_id": end, "eos_token_id": [end, turn_end], "pad_token_id": end,
        "do_sample": False,
    })


def load(folder):
    """(Qwen2 in float32, Tokenizer) of a folder that save() wrote."""
    model = qwen2.Qwen2(qwen2.Config.load(os.path.join(folder, "config.json")))
    arrays = safetensors.load(os.path.join(folder, "model.safetensors"))
    model.load_state_dict({n: torch.from_numpy(a.astype(np.float32)) for n, a in arrays.items()})
    return model.eval(), tokenizer_bpe.load(os.path.join(folder, "tokenizer.json"))
