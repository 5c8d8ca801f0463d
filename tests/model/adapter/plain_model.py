"""A small model in plain Python: its weights, its files, and a forward pass in doubles."""

import collections
import json
import math
import random
import re
import struct

LAYERS, HIDDEN, HEADS, KV_HEADS, DIM, FFN, VOCAB = 2, 16, 4, 2, 4, 24, 40
TOKENS = [3, 17, 29, 3, 8, 33, 21]

LINEARS = {'self_attn.q_proj': (HEADS * DIM, HIDDEN), 'self_attn.k_proj': (KV_HEADS * DIM, HIDDEN),
           'self_attn.v_proj': (KV_HEADS * DIM, HIDDEN), 'self_attn.o_proj': (HIDDEN, HEADS * DIM),
           'mlp.gate_proj': (FFN, HIDDEN), 'mlp.up_proj': (FFN, HIDDEN),
           'mlp.down_proj': (HIDDEN, FFN)}
MODULES = {f'model.layers.{i}.{name}': shape for i in range(LAYERS)
           for name, shape in LINEARS.items()}
MODULES['lm_head'] = (VOCAB, HIDDEN)
SHAPES = {**MODULES, 'model.embed_tokens': (VOCAB, HIDDEN)}
NORMS = ['model.norm'] + [f'model.layers.{i}.{n}' for i in range(LAYERS)
                          for n in ('input_layernorm', 'post_attention_layernorm')]
HEAD_NORMS = [f'model.layers.{i}.self_attn.{n}' for i in range(LAYERS)
              for n in ('q_norm', 'k_norm')]
SIZES = {**{name: HIDDEN for name in NORMS}, **{name: DIM for name in HEAD_NORMS}}

# Kinds of base: output and embedding in one, biases of attention, norms of queries and keys.
Base = collections.namedtuple('Base', 'tied biased head_norms', defaults=(False, False, False))


def matrix(rows, cols, seed, size=0.5):
    draw = random.Random(seed)
    return [[struct.unpack('<f', struct.pack('<f', draw.uniform(-size, size)))[0]
             for _ in range(cols)] for _ in range(rows)]


def write_tensors(path, tensors):
    """A safetensors file of f32 matrices, and vectors as one row."""
    header, data = {}, b''
    for name, rows in sorted(tensors.items()):
        flat = [x for row in rows for x in row]
        raw = struct.pack(f'<{len(flat)}f', *flat)
        is_vector = re.search(r'norm(\.modules_to_save\.\w+)?\.weight$|\.bias$|magnitude', name)
        shape = [len(rows[0])] if is_vector else [len(rows), len(rows[0])]
        header[name] = {'dtype': 'F32', 'shape': shape,
                        'data_offsets': [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as out:
        out.write(struct.pack('<Q', len(text)) + text + data)


BIASED = [m for m in MODULES if '.self_attn.' in m]


def norm_weight(name, seed=''):
    return [[1 + x for x in matrix(1, SIZES[name], seed + name)[0]]]


def base_weights(base):
    weights = {f'{name}.weight': matrix(*shape, seed=name) for name, shape in SHAPES.items()}
    if base.tied:
        del weights['lm_head.weight']
    if base.biased:
        for module in BIASED:
            weights[f'{module}.bias'] = matrix(1, SHAPES[module][0], module + 'bias')
    for name in NORMS + (HEAD_NORMS if base.head_norms else []):
        weights[f'{name}.weight'] = norm_weight(name)
    return weights


def times(rows, x):
    return [math.fsum(a * b for a, b in zip(row, x)) for row in rows]


def norm(weight, x):
    scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + 1e-6)
    return [v * scale * w for v, w in zip(x, weight[0])]


def norm_heads(weight, x):
    if weight is None:
        return x
    return [v for head in range(0, len(x), DIM) for v in norm(weight, x[head:head + DIM])]


def rotate(x, position):
    out = []
    for head in range(0, len(x), DIM):
        half = DIM // 2
        a, b = x[head:head + half], x[head + half:head + DIM]
        angles = [position * 10000 ** (-2 * i / DIM) for i in range(half)]
        out += [p * math.cos(t) - q * math.sin(t) for p, q, t in zip(a, b, angles)]
        out += [q * math.cos(t) + p * math.sin(t) for p, q, t in zip(a, b, angles)]
    return out


def plain_logits(weights):
    """Of the last of TOKENS, with the weights as they are."""
    x = [list(weights['model.embed_tokens.weight'][t]) for t in TOKENS]
    for i in range(LAYERS):
        at = f'model.layers.{i}.'
        w = {name: weights[f'{at}{name}.weight'] for name in LINEARS}

        def out(name, row):
            bias = weights.get(f'{at}{name}.bias', [[0] * len(w[name])])[0]
            return [a + b for a, b in zip(times(w[name], row), bias)]
        normed = [norm(weights[f'{at}input_layernorm.weight'], row) for row in x]

        def turned(name, row, t):
            heads = out(f'self_attn.{name}_proj', row)
            return rotate(norm_heads(weights.get(f'{at}self_attn.{name}_norm.weight'), heads), t)
        q = [turned('q', row, t) for t, row in enumerate(normed)]
        k = [turned('k', row, t) for t, row in enumerate(normed)]
        v = [out('self_attn.v_proj', row) for row in normed]
        for t in range(len(x)):
            mixed = []
            for head in range(HEADS):
                kv = head // (HEADS // KV_HEADS) * DIM
                query = q[t][head * DIM:(head + 1) * DIM]
                scores = [math.exp(sum(a * b for a, b in zip(query, k[s][kv:kv + DIM]))
                                   / math.sqrt(DIM)) for s in range(t + 1)]
                mixed += [sum(scores[s] * v[s][kv + d] for s in range(t + 1)) / sum(scores)
                          for d in range(DIM)]
            x[t] = [a + b for a, b in zip(x[t], out('self_attn.o_proj', mixed))]
        for t, row in enumerate(x):
            normed = norm(weights[f'{at}post_attention_layernorm.weight'], row)
            gate, up = out('mlp.gate_proj', normed), out('mlp.up_proj', normed)
            hidden = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up)]
            x[t] = [a + b for a, b in zip(row, out('mlp.down_proj', hidden))]
    output = weights.get('lm_head.weight', weights['model.embed_tokens.weight'])
    logits = times(output, norm(weights['model.norm.weight'], x[-1]))
    return [a + b for a, b in zip(logits, weights.get('lm_head.bias', [[0] * VOCAB])[0])]
