"""Low-rank adapters (LoRA, arXiv 2106.09685, section 4.1) and PEFT's files.

A target layer computes W x + b + (alpha / r) B A x, with A [r, in] and B [out, r]; B starts at
zero, so a new adapter changes nothing. Files: adapter_config.json and
adapter_model.safetensors, with tensors base_model.model.model.layers.N.<layer>.lora_A.weight and
lora_B.weight.
"""

import json
import math
import os

import numpy as np
import torch
from torch import nn

from chorale_training import export, qwen2, safetensors

TARGETS = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn",
           "o_proj": "self_attn", "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}
# A reader never writes keys or values, so an adapter on k and v could not matter.
READER_TARGETS = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def linear_of(model, layer, target):
    """The nn.Linear called `target` in a layer of a Qwen2."""
    return getattr(getattr(model.model.layers[layer], TARGETS[target]), target)


class Adapter(nn.Module):
    """A and B of every target of every layer of `model`, whose weights it does not hold."""

    def __init__(self, model, rank, alpha, targets):
        super().__init__()
        unknown = [t for t in targets if t not in TARGETS]
        if unknown:
            raise ValueError(f"target_modules {unknown}: known are {', '.join(TARGETS)}")
        self.rank, self.alpha, self.targets = rank, alpha, tuple(targets)
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for layer in range(model.config.num_hidden_layers):
            for target in targets:
                linear, key = linear_of(model, layer, target), f"{layer}_{target}"
                a = torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features)
                self.down[key] = nn.Parameter(a)
                self.up[key] = nn.Parameter(torch.zeros(linear.out_features, rank))

    def delta(self, layer, target, x):
        """What the adapter adds to the layer's output for x [..., in]; None for no target."""
        if target not in self.targets:
            return None
        key = f"{layer}_{target}"
        low = qwen2.linear(x, self.down[key])
        return qwen2.linear(low, self.up[key]) * (self.alpha / self.rank)

    def _tensors(self):
        for key in self.down.keys():
            layer, target = key.split("_", 1)
            name = f"base_model.model.model.layers.{layer}.{TARGETS[target]}.{target}"
            yield f"{name}.lora_A.weight", self.down[key]
            yield f"{name}.lora_B.weight", self.up[key]

    def save(self, folder, base_name="base"):
        """Writes both files, tensors in f16."""
        os.makedirs(folder, exist_ok=True)
        arrays = {name: export.half(name, tensor) for name, tensor in self._tensors()}
        safetensors.save(os.path.join(folder, "adapter_model.safetensors"), arrays,
                         {"format": "pt"})
        export.write_text(os.path.join(folder, "adapter_config.json"), json.dumps({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name,
            "r": self.rank, "lora_alpha": self.alpha, "lora_dropout": 0.0, "bias": "none",
            "target_modules": list(self.targets), "fan_in_fan_out": False, "use_rslora": False,
            "inference_mode": True}, indent=2) + "\n")

    @torch.no_grad()
    def copy_from(self, arrays):
        """Takes the values of numpy arrays by their file names."""
        for name, tensor in self._tensors():
            if name not in arrays or arrays[name].shape != tuple(tensor.shape):
                raise ValueError(f"tensor {name!r}: expected shape {tuple(tensor.shape)}; "
                                 "the adapter was made for another base")
            tensor.copy_(torch.from_numpy(arrays[name].astype(np.float32)))


def load(folder, model):
    """The Adapter stored in `folder`, for the base `model`."""
    with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
        contents = json.load(file)
    if contents.get("peft_type") != "LORA":
        raise ValueError(f"{folder}: peft_type {contents.get('peft_type')!r}, expected LORA")
    adapter = Adapter(model, contents["r"], contents["lora_alpha"], contents["target_modules"])
    adapter.copy_from(safetensors.load(os.path.join(folder, "adapter_model.safetensors")))
    return adapter
