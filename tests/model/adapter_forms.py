"""Every form in which PEFT writes an adapter, against a plain forward pass in Python's doubles.

Usage: adapter_forms.py PATH-OF-adapter_logits. Writes a small model and adapters of every form, asks
the program for their logits, and compares them with its own. Needs nothing but Python.
"""

import json
import math
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import unittest

LAYERS, HIDDEN, HEADS, KV_HEADS, DIM, FFN, VOCAB = 2, 16, 4, 2, 4, 24, 40
TOKENS = [3, 17, 29, 3, 8, 33, 21]
LOGITS_MAX = 1e-3
PROGRAM = None

LINEARS = {'self_attn.q_proj': (HEADS * DIM, HIDDEN), 'self_attn.k_proj': (KV_HEADS * DIM, HIDDEN),
           'self_attn.v_proj': (KV_HEADS * DIM, HIDDEN), 'self_attn.o_proj': (HIDDEN, HEADS * DIM),
           'mlp.gate_proj': (FFN, HIDDEN), 'mlp.up_proj': (FFN, HIDDEN),
           'mlp.down_proj': (HIDDEN, FFN)}
MODULES = {f'model.layers.{i}.{name}': shape for i in range(LAYERS)
           for name, shape in LINEARS.items()}
MODULES['lm_head'] = (VOCAB, HIDDEN)
SHAPES = {**MODULES, 'model.embed_tokens': (VOCAB, HIDDEN)}


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
        is_vector = re.search(r'norm\.weight$|\.bias$|lora_magnitude_vector', name)
        shape = [len(rows[0])] if is_vector else [len(rows), len(rows[0])]
        header[name] = {'dtype': 'F32', 'shape': shape,
                        'data_offsets': [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as out:
        out.write(struct.pack('<Q', len(text)) + text + data)


BIASED = [m for m in MODULES if '.self_attn.' in m]


def base_weights(tied, biased=False):
    weights = {f'{name}.weight': matrix(*shape, seed=name) for name, shape in SHAPES.items()}
    if tied:
        del weights['lm_head.weight']
    if biased:
        for module in BIASED:
            weights[f'{module}.bias'] = matrix(1, SHAPES[module][0], module + 'bias')
    norms = ['model.norm'] + [f'model.layers.{i}.{n}' for i in range(LAYERS)
                              for n in ('input_layernorm', 'post_attention_layernorm')]
    for name in norms:
        weights[f'{name}.weight'] = [[1 + x for x in matrix(1, HIDDEN, name)[0]]]
    return weights


def times(rows, x):
    return [math.fsum(a * b for a, b in zip(row, x)) for row in rows]


def norm(weight, x):
    scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + 1e-6)
    return [v * scale * w for v, w in zip(x, weight[0])]


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
        q = [rotate(out('self_attn.q_proj', row), t) for t, row in enumerate(normed)]
        k = [rotate(out('self_attn.k_proj', row), t) for t, row in enumerate(normed)]
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
            gate, up = times(w['mlp.gate_proj'], normed), times(w['mlp.up_proj'], normed)
            hidden = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up)]
            x[t] = [a + b for a, b in zip(row, times(w['mlp.down_proj'], hidden))]
    output = weights.get('lm_head.weight', weights['model.embed_tokens.weight'])
    return times(output, norm(weights['model.norm.weight'], x[-1]))


class Form:
    """An adapter: its config, its tensors by module, and how their keys are written."""

    def __init__(self, targets, names=None, rank=4, alpha=6.0, ranks=None, alphas=None, saved=(),
                 key='base_model.model.{}', end='', fields=None, rslora=False, body=False,
                 magnitude='.lora_magnitude_vector'):
        """`body`: made for the model without its output, whose names lack 'model.'."""
        self.names = names if names is not None else [m for m in SHAPES if targets(m)]
        self.rank, self.alpha, self.rslora = rank, alpha, rslora
        self.ranks, self.alphas = ranks or {}, alphas or {}
        self.saved, self.key, self.end = saved, key, end
        self.fields, self.body = fields or {}, body
        self.magnitude = magnitude  # how its keys end, with DoRA

    def key_of(self, module):
        return self.key.format(module.removeprefix('model.') if self.body else module)

    def rank_of(self, module):
        return self.ranks.get(module, self.rank)

    def scale_of(self, module):
        rank = self.rank_of(module)
        return self.alphas.get(module, self.alpha) / (math.sqrt(rank) if self.rslora else rank)

    def pair(self, module):
        out, into = SHAPES[module]
        rank = self.rank_of(module)
        if module == 'model.embed_tokens':
            return matrix(rank, out, module + 'a'), matrix(into, rank, module + 'b')
        return matrix(rank, into, module + 'a'), matrix(out, rank, module + 'b')

    def magnitudes(self, module):
        return [[1 + x for x in matrix(1, SHAPES[module][0], module + 'm')[0]]]

    def tensors(self):
        result = {}
        for module in self.names:
            a, b = self.pair(module)
            kind = 'embedding_' if module == 'model.embed_tokens' else ''
            weight = '' if kind else '.weight'
            result[self.key_of(module) + f'.lora_{kind}A{self.end}{weight}'] = a
            result[self.key_of(module) + f'.lora_{kind}B{self.end}{weight}'] = b
            if self.fields.get('use_dora'):
                result[self.key_of(module) + self.magnitude] = self.magnitudes(module)
        for module in self.saved:
            name = f'.modules_to_save{self.end}' if self.end else ''
            result[self.key_of(module) + f'{name}.weight'] = matrix(*SHAPES[module], 's' + module)
        return result

    def config(self):
        return {'peft_type': 'LORA', 'r': self.rank, 'lora_alpha': self.alpha, 'bias': 'none',
                'use_rslora': self.rslora, **self.fields}

    def weights(self, tied, biased=False):
        """The base with what the adapter adds."""
        weights = base_weights(tied, biased)
        if tied and ('lm_head' in self.names or self.saved):
            weights['lm_head.weight'] = weights['model.embed_tokens.weight']
        for module in self.saved:
            weights[f'{module}.weight'] = matrix(*SHAPES[module], 's' + module)
        if self.fields.get('ensure_weight_tying'):
            weights['lm_head.weight'] = weights['model.embed_tokens.weight']
        for module in self.names:
            a, b = self.pair(module)
            scale = self.scale_of(module)
            rank = range(self.rank_of(module))
            old = weights[f'{module}.weight']
            if module == 'model.embed_tokens':
                new = [[old[t][i] + scale * sum(b[i][r] * a[r][t] for r in rank)
                        for i in range(HIDDEN)] for t in range(VOCAB)]
                if tied:
                    weights.setdefault('lm_head.weight', old)
            else:
                new = [[old[i][j] + scale * sum(b[i][r] * a[r][j] for r in rank)
                        for j in range(len(old[0]))] for i in range(len(old))]
            if self.fields.get('use_dora'):
                new = [[size / math.sqrt(math.fsum(x * x for x in row)) * x for x in row]
                       for size, row in zip(self.magnitudes(module)[0], new)]
            weights[f'{module}.weight'] = new
        return weights


def has(*ends):
    return lambda module: any(module.endswith(end) for end in ends)


def linear(module):
    return module.startswith('model.layers')


def fields(**values):
    return values


# Name: a form. Forms whose names share what is before ':' are one adapter in several spellings.
FORMS = {
    'suffixes': Form(has('q_proj', 'v_proj'), fields=fields(target_modules=['q_proj', 'v_proj'])),
    'longer suffixes': Form(has('self_attn.o_proj', 'mlp.down_proj'),
                            fields=fields(target_modules=['self_attn.o_proj', 'mlp.down_proj'])),
    'all linear: word': Form(linear, fields=fields(target_modules='all-linear')),
    'all linear: capitals': Form(linear, fields=fields(target_modules='ALL-LINEAR')),
    'all linear: suffixes': Form(linear, fields=fields(
        target_modules=[name.split('.')[1] for name in LINEARS])),
    'all linear: expression': Form(linear, fields=fields(target_modules=r'model\.layers\..*_proj')),
    'all linear: names': Form(linear, fields=fields(
        target_modules=[m for m in MODULES if linear(m)])),
    'all linear: adapter in keys': Form(linear, end='.default',
                                        fields=fields(target_modules='all-linear')),
    'all linear: other adapter in keys': Form(linear, end='.my_role',
                                              fields=fields(target_modules='all-linear')),
    'all linear: body alone': Form(linear, body=True, fields=fields(
        target_modules='all-linear')),
    'all linear: no prefix': Form(linear, key='{}', fields=fields(target_modules='all-linear')),
    'layer numbers': Form(None, ['model.layers.1.self_attn.q_proj'],
                          fields=fields(target_modules=['layers.1.self_attn.q_proj'])),
    'bare layer numbers': Form(None, ['model.layers.0.mlp.up_proj'],
                               fields=fields(target_modules=['0.mlp.up_proj'])),
    'full name': Form(None, ['model.layers.0.self_attn.k_proj'],
                      fields=fields(target_modules=['model.layers.0.self_attn.k_proj'])),
    'expression of layers': Form(None, ['model.layers.1.self_attn.q_proj',
                                        'model.layers.1.self_attn.v_proj'],
                                 fields=fields(target_modules=r'.*\.1\.self_attn\.(q|v)_proj')),
    'one layer: list': Form(None, ['model.layers.1.mlp.gate_proj'], fields=fields(
        target_modules=['gate_proj'], layers_to_transform=[1], layers_pattern='layers')),
    'one layer: number': Form(None, ['model.layers.1.mlp.gate_proj'], fields=fields(
        target_modules=['gate_proj'], layers_to_transform=1)),
    'one layer: expression': Form(None, ['model.layers.1.mlp.gate_proj'], fields=fields(
        target_modules=['gate_proj'], layers_to_transform=[1], layers_pattern=['h', r'l\w+s'])),
    'body alone': Form(has('q_proj', 'down_proj'), body=True, alphas={
        'model.layers.1.mlp.down_proj': 2.5}, fields=fields(
            target_modules=r'layers\.\d\..*(q_proj|down_proj)',
            alpha_pattern={r'model\.layers\.0\..*': 99.0, r'^layers\.1\.mlp\.down_proj': 2.5})),
    'q_proj: patterns of the body': Form(has('q_proj'), fields=fields(
        target_modules=['q_proj'], alpha_pattern={r'^layers\..*': 99.0})),
    'q_proj: unmatched names beside matched ones': Form(has('q_proj'), fields=fields(
        target_modules=['q_proj', 'c_attn'])),
    'excluded names': Form(lambda m: linear(m) and not has('k_proj')(m) and '.0.mlp' not in m,
                           fields=fields(target_modules='all-linear', exclude_modules=[
                               'k_proj', 'model.layers.0.mlp.gate_proj', '0.mlp.up_proj',
                               'layers.0.mlp.down_proj'])),
    'excluded expression': Form(lambda m: linear(m) and '.1.' not in m, fields=fields(
        target_modules='all-linear', exclude_modules=r'model\.layers\.1\..*')),
    'rank pattern': Form(has('q_proj', 'o_proj'), ranks={
        'model.layers.0.self_attn.q_proj': 2, 'model.layers.1.self_attn.q_proj': 2,
        'model.layers.1.self_attn.o_proj': 7},
        fields=fields(target_modules=['q_proj', 'o_proj'],
                      rank_pattern={'q_proj': 2, 'layers.1.self_attn.o_proj': 7})),
    'alpha pattern': Form(has('q_proj', 'o_proj'), alphas={'model.layers.1.self_attn.q_proj': 1.5},
                          fields=fields(target_modules=['q_proj', 'o_proj'], alpha_pattern={
                              r'model.layers.1.self_attn.q_proj': 1.5})),
    'patterns that are expressions': Form(
        linear, ranks={m: 3 for m in MODULES if '.mlp.' in m},
        alphas={m: 9.0 for m in MODULES if 'layers.0' in m and linear(m)}, rslora=True,
        fields=fields(target_modules='all-linear', rank_pattern={r'mlp\..*': 3},
                      alpha_pattern={r'layers\.0\..*': 9.0, r'layers\..*': 6.0})),
    'rank stabilised': Form(has('v_proj'), rslora=True, fields=fields(target_modules=['v_proj'])),
    'output': Form(None, ['lm_head'], fields=fields(target_modules=['lm_head'])),
    'embedding': Form(None, ['model.embed_tokens'], fields=fields(target_modules=['embed_tokens'])),
    'embedding: its own key': Form(None, ['model.embed_tokens'], end='.default',
                                   fields=fields(target_modules=['embed_tokens'])),
    'both, and layers': Form(lambda m: has('q_proj', 'embed_tokens', 'lm_head')(m), ranks={
        'lm_head': 2}, fields=fields(target_modules=['q_proj', 'embed_tokens', 'lm_head'],
                                     rank_pattern={'lm_head': 2})),
    'magnitudes: bare': Form(linear, fields=fields(target_modules='all-linear', use_dora=True)),
    'magnitudes: adapter in keys': Form(
        linear, end='.default', magnitude='.lora_magnitude_vector.default.weight',
        fields=fields(target_modules='all-linear', use_dora=True)),
    'magnitudes: weight in keys': Form(linear, magnitude='.lora_magnitude_vector.weight',
                                       fields=fields(target_modules='all-linear', use_dora=True)),
    'magnitudes of the output': Form(None, ['lm_head'], rslora=True, fields=fields(
        target_modules=['lm_head'], use_dora=True)),
    'saved output: plain': Form(has('q_proj'), saved=['lm_head'], fields=fields(
        target_modules=['q_proj'], modules_to_save=['lm_head'])),
    'saved output: adapter in keys': Form(has('q_proj'), saved=['lm_head'], end='.default',
                                          fields=fields(target_modules=['q_proj'],
                                                        modules_to_save=['lm_head'])),
    'saved embedding': Form(has('q_proj'), saved=['model.embed_tokens'], fields=fields(
        target_modules=['q_proj'], modules_to_save=['embed_tokens'])),
    'saved embedding and output': Form(has('v_proj'), saved=['model.embed_tokens', 'lm_head'],
                                       fields=fields(target_modules=['v_proj'], modules_to_save=[
                                           'embed_tokens', 'lm_head'])),
}
BIASED_FORMS = {
    'suffixes': FORMS['suffixes'],
    'all linear': FORMS['all linear: word'],
    'magnitudes': FORMS['magnitudes: bare'],
}
TIED_FORMS = {
    'magnitudes of the output': FORMS['magnitudes of the output'],
    'output': FORMS['output'],
    'embedding': FORMS['embedding'],
    'saved output': FORMS['saved output: plain'],
    'saved embedding': FORMS['saved embedding'],
    'saved embedding, tied': Form(has('q_proj'), saved=['model.embed_tokens'], fields=fields(
        target_modules=['q_proj'], modules_to_save=['embed_tokens'], ensure_weight_tying=True)),
}


class AdapterForms(unittest.TestCase):
    def run_forms(self, forms, tied, biased, kernels):
        with tempfile.TemporaryDirectory() as folder:
            base = os.path.join(folder, 'base')
            os.mkdir(base)
            with open(os.path.join(base, 'config.json'), 'w', encoding='utf-8') as out:
                json.dump({'architectures': ['LlamaForCausalLM'], 'num_hidden_layers': LAYERS,
                           'hidden_size': HIDDEN, 'num_attention_heads': HEADS,
                           'num_key_value_heads': KV_HEADS, 'head_dim': DIM,
                           'intermediate_size': FFN, 'vocab_size': VOCAB,
                           'max_position_embeddings': 64, 'rms_norm_eps': 1e-6,
                           'tie_word_embeddings': tied, 'attention_bias': biased,
                           'torch_dtype': 'float32'}, out)
            write_tensors(os.path.join(base, 'model.safetensors'), base_weights(tied, biased))
            paths = []
            for i, form in enumerate(forms.values()):
                paths.append(os.path.join(folder, f'adapter-{i}'))
                os.mkdir(paths[-1])
                with open(os.path.join(paths[-1], 'adapter_config.json'), 'w',
                          encoding='utf-8') as out:
                    json.dump(form.config(), out)
                write_tensors(os.path.join(paths[-1], 'adapter_model.safetensors'), form.tensors())
            lines = subprocess.run([PROGRAM, base, kernels, ','.join(map(str, TOKENS)), *paths],
                                   check=True, capture_output=True, text=True).stdout.splitlines()
            return [json.loads(line) for line in lines]

    def check(self, forms, tied, biased=False):
        plain = plain_logits(base_weights(tied, biased))
        expected = [plain_logits(form.weights(tied, biased)) for form in forms.values()]
        for kernels in ('reference', 'cpu'):
            digests = {}
            for (name, _), want, got in zip(forms.items(), expected,
                                            self.run_forms(forms, tied, biased, kernels)):
                with self.subTest(form=name, tied=tied, kernels=kernels):
                    self.assertNotIn('error', got)
                    off = max(abs(a - b) for a, b in zip(got['logits'], want))
                    self.assertLess(off, LOGITS_MAX)
                    moved = max(abs(a - b) for a, b in zip(plain, want))
                    self.assertGreater(moved, 10 * LOGITS_MAX)
                    one = digests.setdefault(re.split(': ', name)[0], got['digest'])
                    self.assertEqual(got['digest'], one)
            self.assertEqual(len(set(digests.values())), len(digests))

    def test_every_form_gives_the_logits_of_a_plain_forward_pass(self):
        self.assertGreaterEqual(len(FORMS), 24)
        self.check(FORMS, tied=False)

    def test_so_do_those_of_tied_embeddings(self):
        self.check(TIED_FORMS, tied=True)

    def test_so_do_those_of_a_base_with_biases(self):
        self.check(BIASED_FORMS, tied=False, biased=True)


if __name__ == '__main__':
    PROGRAM = sys.argv.pop()
    unittest.main()
