"""The four modes as one forward: who writes the prompt's keys and values, who writes the output's,
and who predicts.

    mode           prompt writer   output writer   predictor
    standard       M               M               M
    prefillshare   base            M               M             prompt KV detached
    sun            M               base            base          prompt KV not detached
    icarus         base            base            base + M      M never writes
    plain sharing  base            M               M             M trained as standard; judged only

The boundary: the prompt writer sees all but the last prompt token; the output writer and the
predictor begin with the last prompt token. Where writer and predictor differ, the predictor's row
attends to the writer's keys and values, those of its own position included.

A batch has `prompt` [batch, P], all but the last token, padded on the left, and `out` [batch, A],
the last prompt token and what follows, padded on the right. Positions count real tokens from 0.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

from chorale_training import adapter as adapters
from chorale_training import qwen2

MODES = ("standard", "prefillshare", "sun", "icarus")
_MASKED = -30_000.0  # finite, so that a padded row stays finite too


class Module(nn.Module):
    """Weights that write and predict: a Qwen2 and, on top, perhaps an adapter."""

    def __init__(self, model, adapter=None):
        super().__init__()
        self.model, self.adapter = model, adapter

    def linear(self, layer, target, x):
        base = adapters.linear_of(self.model, layer, target)
        y = qwen2.linear(x, base.weight, base.bias)
        delta = None if self.adapter is None else self.adapter.delta(layer, target, x)
        return y if delta is None else y + delta

    def logits(self, x):
        """Logits of x [..., hidden], the last layer's output."""
        body = self.model.model
        return qwen2.linear(body.norm(x), body.embed_tokens.weight)


@dataclasses.dataclass(frozen=True)
class Trio:
    """The three modules of a model; `detach_prompt` stops gradients at the prompt's KV."""

    prompt_writer: Module
    output_writer: Module
    predictor: Module
    detach_prompt: bool = False


def trio_of(mode, base, module):
    """The Trio of a mode; `module` is M. ValueError for an unknown mode."""
    if mode == "standard":
        return Trio(module, module, module)
    if mode == "prefillshare":
        return Trio(base, module, module, detach_prompt=True)
    if mode == "sun":
        return Trio(module, base, base)
    if mode == "icarus":
        return Trio(base, base, module)
    raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}")


def plain_sharing(base, full):
    """A full fine-tune that reads a prompt written by the base, without training for it."""
    return Trio(base, full, full)


@dataclasses.dataclass
class Cache:
    """Keys and values [batch, kv_heads, length, head_dim] by layer; valid [batch, length]."""

    keys: list
    values: list
    valid: torch.Tensor

    def detached(self):
        return Cache([k.detach() for k in self.keys], [v.detach() for v in self.values], self.valid)

    def followed_by(self, other):
        return Cache([torch.cat(pair, 2) for pair in zip(self.keys, other.keys)],
                     [torch.cat(pair, 2) for pair in zip(self.values, other.values)],
                     torch.cat((self.valid, other.valid), 1))


def _rope(config, positions):
    """(cos, sin) [batch, 1, length, head_dim / 2] of positions [batch, length]."""
    count = int(positions.max()) + 1
    table = qwen2.rope_table(config, torch.arange(count, device=positions.device))
    return tuple(part[positions].unsqueeze(1) for part in table)


def _mask(valid_past, valid_new):
    """Added to scores, [batch, 1, new, past + new]: real keys, and of the new ones none later."""
    length = valid_new.shape[1]
    past = torch.ones(length, 0 if valid_past is None else valid_past.shape[1], dtype=torch.bool)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    seen = torch.cat((past, causal), 1).to(valid_new.device)
    valid = valid_new if valid_past is None else torch.cat((valid_past, valid_new), 1)
    allowed = seen[None] & valid[:, None]
    return torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, _MASKED)[:, None]


def _attend(q, k, v, mask):
    """q [batch, heads, length, head_dim] over k and v [batch, kv_heads, keys, head_dim]."""
    batch, heads, length, size = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    rows = (q * size**-0.5).reshape(batch * kv_heads, -1, size)
    scores = rows @ k.reshape(batch * kv_heads, keys, size).transpose(1, 2)
    weights = (scores.view(batch, heads, length, keys) + mask).softmax(-1).to(v.dtype)
    mixed = weights.view(batch * kv_heads, -1, keys) @ v.reshape(batch * kv_heads, keys, size)
    return mixed.view(batch, heads, length, size)


def _heads(x, size):
    """[batch, length, heads * size] -> [batch, heads, length, size]."""
    return x.view(*x.shape[:2], -1, size).transpose(1, 2)


def _rows(module, ids, positions, mask, keys_and_values, last_layer_whole=True):
    """The last layer's output of a module's rows; keys_and_values(layer, normed x, rope) says what
    they attend to. None when the last layer need only be asked for its keys and values."""
    config, body = module.model.config, module.model.model
    rope, size = _rope(config, positions), config.head_dim
    x = body.embed_tokens(ids)
    for i, layer in enumerate(body.layers):
        y = layer.input_layernorm(x)
        k, v = keys_and_values(i, y, rope)
        if i + 1 == config.num_hidden_layers and not last_layer_whole:
            return None
        q = qwen2.rotate(_heads(module.linear(i, "q_proj", y), size), rope)
        mixed = _attend(q, k, v, mask).transpose(1, 2).reshape(*ids.shape, -1)
        x = x + module.linear(i, "o_proj", mixed)
        y = layer.post_attention_layernorm(x)
        gate = functional.silu(module.linear(i, "gate_proj", y))
        x = x + module.linear(i, "down_proj", gate * module.linear(i, "up_proj", y))
    return x


def write(module, ids, valid, positions, past=None, want_output=True):
    """(output, Cache) of new rows: the module writes their keys and values after `past`."""
    size, new = module.model.config.head_dim, Cache([], [], valid)

    def keys_and_values(layer, y, rope):
        k = qwen2.rotate(_heads(module.linear(layer, "k_proj", y), size), rope)
        v = _heads(module.linear(layer, "v_proj", y), size)
        new.keys.append(k)
        new.values.append(v)
        if past is None:
            return k, v
        return torch.cat((past.keys[layer], k), 2), torch.cat((past.values[layer], v), 2)

    mask = _mask(None if past is None else past.valid, valid)
    return _rows(module, ids, positions, mask, keys_and_values, want_output), new


def read(module, ids, valid, positions, past, written):
    """Output of rows that attend to `past` and to what another module wrote for them."""
    both = past.followed_by(written)
    return _rows(module, ids, positions, _mask(past.valid, valid),
                 lambda layer, y, rope: (both.keys[layer], both.values[layer]))


def prefill(trio, prompt, valid):
    """The Cache of a prompt without its last token."""
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    _, cache = write(trio.prompt_writer, prompt, valid, positions, want_output=False)
    return cache.detached() if trio.detach_prompt else cache


def decode(trio, cache, out, valid, first_positions):
    """(logits [batch, A, vocab], Cache of out's rows); first_positions [batch] is that of out's
    first token."""
    positions = first_positions[:, None] + torch.arange(out.shape[1], device=out.device)
    is_one = trio.output_writer is trio.predictor
    x, written = write(trio.output_writer, out, valid, positions, cache, want_output=is_one)
    if not is_one:
        x = read(trio.predictor, out, valid, positions, cache, written)
    return trio.predictor.logits(x), written


def forward(trio, batch):
    """Logits [batch, A, vocab] after each token of `out`; see Batch."""
    cache = prefill(trio, batch.prompt, batch.prompt_valid)
    logits, _ = decode(trio, cache, batch.out, batch.out_valid, batch.prompt_valid.sum(1))
    return logits


@dataclasses.dataclass(frozen=True)
class Batch:
    """prompt, out: as above. target [batch, A]: the id that follows each of out, -100 for none."""

    prompt: torch.Tensor
    prompt_valid: torch.Tensor
    out: torch.Tensor
    out_valid: torch.Tensor
    target: torch.Tensor


def collate(pairs, end):
    """A Batch of (prompt ids, answer ids); `end` is the id that ends an answer.

    The loss counts the answer and the end, nothing of the prompt."""
    for prompt, _ in pairs:
        if len(prompt) < 2:
            raise ValueError(f"prompt of {len(prompt)} tokens: the boundary needs 2 or more")
    prompts, outs = max(len(p) for p, _ in pairs) - 1, max(len(a) for _, a in pairs) + 1
    prompt, out = (torch.full((len(pairs), n), end) for n in (prompts, outs))
    target = torch.full((len(pairs), outs), -100)
    valid, out_valid = torch.zeros_like(prompt, dtype=torch.bool), torch.zeros_like(
        out, dtype=torch.bool)
    for row, (ids, answer) in enumerate(pairs):
        prompt[row, prompts - len(ids) + 1 :] = torch.tensor(ids[:-1])
        valid[row, prompts - len(ids) + 1 :] = True
        out[row, : len(answer) + 1] = torch.tensor([ids[-1], *answer])
        out_valid[row, : len(answer) + 1] = True
        target[row, : len(answer) + 1] = torch.tensor([*answer, end])
    return Batch(prompt, valid, out, out_valid, target)


def loss(trio, batch):
    """Mean cross entropy in nats of the targets."""
    logits = forward(trio, batch)
    return functional.cross_entropy(logits.flatten(0, 1).float(), batch.target.flatten())


@torch.no_grad()
def greedy(trio, prompts, count_max, end, keep_logits=False):
    """The most likely ids after each list of ids, up to `end` (left out) or count_max.

    With keep_logits also the logits [steps, batch, vocab] that chose them."""
    batch = collate([(ids, []) for ids in prompts], end)
    cache = prefill(trio, batch.prompt, batch.prompt_valid)
    last, positions = batch.out, batch.prompt_valid.sum(1)
    valid, chosen, kept = torch.ones_like(last, dtype=torch.bool), [], []
    done = torch.zeros(len(prompts), dtype=torch.bool)
    while len(chosen) < count_max and not done.all():
        logits, written = decode(trio, cache, last, valid, positions)
        cache, last = cache.followed_by(written), logits[:, -1].argmax(-1, keepdim=True)
        positions = positions + 1
        chosen.append(last[:, 0])
        if keep_logits:
            kept.append(logits[:, -1])
        done |= last[:, 0] == end
    rows = torch.stack(chosen, 1).tolist()
    outputs = [row[: row.index(end)] if end in row else row for row in rows]
    return (outputs, torch.stack(kept)) if keep_logits else outputs
