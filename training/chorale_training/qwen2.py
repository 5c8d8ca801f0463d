"""Qwen2ForCausalLM in torch, with Hugging Face's parameter names, config.json and rotation order.

Attention is in three steps that a recipe can take apart: `project` makes queries, keys and values,
`attend` is a function of any queries over any keys and values, and `combine` goes back to the
residual stream. So a row may attend to keys and values that other weights wrote.

Shapes: x [batch, length, hidden]; q [batch, kv_heads, group, length, head_dim], where `group` query
heads share a key head; k and v [batch, kv_heads, length, head_dim].
"""

import dataclasses
import json
import math

import torch
from torch import nn
from torch.nn import functional

# Queries that attend at once. A block sees only the keys up to its end, which saves up to half of
# the work of a full square and keeps the scores of one block in cache.
_QUERY_BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int = 6400
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads

    def validate(self):
        """ValueError that names the field which cannot be."""
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not an even multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )

    def to_json(self, end_of_text_id, torch_dtype):
        """The contents of config.json."""
        return {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
            **dataclasses.asdict(self),
            "hidden_act": "silu", "tie_word_embeddings": True, "attention_dropout": 0.0,
            "use_sliding_window": False, "use_cache": True, "initializer_range": 0.02,
            "bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id,
            "torch_dtype": torch_dtype,
        }

    @staticmethod
    def load(path):
        with open(path, encoding="utf-8") as file:
            contents = json.load(file)
        if contents.get("model_type") != "qwen2" or not contents.get("tie_word_embeddings"):
            raise ValueError(f"{path}: expected model_type qwen2 with tie_word_embeddings true")
        config = Config(**{f.name: contents[f.name] for f in dataclasses.fields(Config)})
        config.validate()
        return config


def linear(x, weight, bias=None):
    """functional.linear; in float32 without gradients on a CPU by oneDNN, which is 15 times as fast
    as the reference BLAS that Debian's torch falls back to."""
    if (torch.is_grad_enabled() or torch.is_autocast_cpu_enabled() or x.is_cuda
            or x.dtype != torch.float32 or not torch.backends.mkldnn.is_available()):
        return functional.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1]).to_mkldnn()
    y = torch._C._nn.mkldnn_linear(rows, weight.to_mkldnn(), bias).to_dense()
    return y.view(*x.shape[:-1], -1)


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rope_table(config, positions):
    """(cos, sin), each [length, head_dim / 2] in float32, of an int tensor of positions."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    angles = positions.double()[:, None].cpu() * config.rope_theta**-exponents
    return angles.cos().float().to(positions.device), angles.sin().float().to(positions.device)


def rotate(x, rope):
    """Turns the pairs (i, i + head_dim / 2) of the last axis: halves, not neighbours."""
    cos, sin = (part.to(x.dtype) for part in rope)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def attend(q, k, v):
    """Causal attention of queries over keys of the same positions; the shape of q."""
    batch, kv_heads, group, length, head_dim = q.shape
    blocks = []
    for begin in range(0, length, _QUERY_BLOCK):
        end = min(begin + _QUERY_BLOCK, length)
        q_rows = q[:, :, :, begin:end].reshape(batch * kv_heads, -1, head_dim)
        keys = k[:, :, :end].reshape(batch * kv_heads, end, head_dim)
        values = v[:, :, :end].reshape(batch * kv_heads, end, head_dim)
        scores = (q_rows * head_dim**-0.5) @ keys.transpose(1, 2)
        scores = scores.view(-1, group, end - begin, end)
        future = torch.full((end - begin, end), -torch.inf, device=q.device).triu(begin + 1)
        weights = (scores + future.to(scores.dtype)).softmax(-1).to(v.dtype)
        rows = weights.view(batch * kv_heads, -1, end) @ values
        blocks.append(rows.view(batch, kv_heads, group, end - begin, head_dim))
    return torch.cat(blocks, 3)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self._kv_heads, self._head_dim = config.num_key_value_heads, config.head_dim
        kv_size = self._kv_heads * self._head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, kv_size)
        self.v_proj = nn.Linear(config.hidden_size, kv_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def project(self, x, rope):
        """(q, k, v) of x, with q and k rotated to their positions."""
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self._kv_heads, -1, self._head_dim)
        k = self.k_proj(x).view(batch, length, self._kv_heads, self._head_dim)
        v = self.v_proj(x).view(batch, length, self._kv_heads, self._head_dim)
        q, k, v = q.permute(0, 2, 3, 1, 4), k.transpose(1, 2), v.transpose(1, 2)
        return rotate(q, rope), rotate(k, rope), v

    def combine(self, heads):
        """`heads`, the shape of q, back to the shape of x."""
        batch, _, _, length, _ = heads.shape
        return self.o_proj(heads.permute(0, 3, 1, 2, 4).reshape(batch, length, -1))

    def forward(self, x, rope):
        return self.combine(attend(*self.project(x, rope)))


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x, rope):
        x = x + self.self_attn(self.input_layernorm(x), rope)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Everything but the output projection."""

    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids, rope):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, rope)
        return self.norm(x)


class Qwen2(nn.Module):
    """state_dict() has exactly the tensors of the checkpoint; logits use the embedding (tied)."""

    def __init__(self, config):
        super().__init__()
        config.validate()
        self.config = config
        self.model = Body(config)

    def init_weights(self):
        """Normal 0.02; what adds to the residual stream is scaled down with the depth."""
        residual_std = 0.02 / math.sqrt(2 * self.config.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=residual_std if into_residual else 0.02)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids):
        """Logits [batch, length, vocab] of ids [batch, length] at positions 0, 1, ..."""
        rope = rope_table(self.config, torch.arange(ids.shape[1], device=ids.device))
        return functional.linear(self.model(ids, rope), self.model.embed_tokens.weight)

    def loss(self, windows):
        """Mean cross entropy in nats of windows [batch, length + 1], each token but the first."""
        logits = self(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())

    @torch.no_grad()
    def greedy(self, ids, count):
        """The `count` most likely ids after the list `ids`, one by one."""
        ids, prompt_length = list(ids), len(ids)
        for _ in range(count):
            logits = self(torch.tensor([ids], device=self.model.embed_tokens.weight.device))
            ids.append(int(logits[0, -1].argmax()))
        return ids[prompt_length:]
