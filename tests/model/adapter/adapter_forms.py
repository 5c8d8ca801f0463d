"""Every form in which PEFT writes an adapter, against a plain forward pass in Python's doubles.

Usage: adapter_forms.py PATH-OF-adapter_logits. Writes a small model and adapters of every form,
asks the program for their logits, and compares them with its own. Needs nothing but Python.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import unittest

from plain_model import (Base, base_weights, BIASED, DIM, FFN, HEAD_NORMS, HEADS, HIDDEN,
                         KV_HEADS, LAYERS, LINEARS, matrix, MODULES, norm_weight, NORMS,
                         plain_logits, SHAPES, SIZES, TOKENS, VOCAB, write_tensors)

LOGITS_MAX = 1e-3
PROGRAM = None


class Form:
    """An adapter: its config, its tensors by module, and how their keys are written."""

    def __init__(self, targets, names=None, rank=4, alpha=6.0, ranks=None, alphas=None, saved=(),
                 key='base_model.model.{}', end='', fields=None, rslora=False, body=False,
                 magnitude='.lora_magnitude_vector', same=(), biases=(), same_biases=(),
                 bias_key='.bias', own_biases=None):
        """`body`: made for the model without its output, whose names lack 'model.'.

        `saved` are whole modules, `biases` trained biases in place of the base's, with `bias_key`.
        `same` and `same_biases` are in the file too, as the base has them. `own_biases`, of
        updates, are all of this value, if it is a value.
        """
        self.names = names if names is not None else [m for m in SHAPES if targets(m)]
        self.rank, self.alpha, self.rslora = rank, alpha, rslora
        self.ranks, self.alphas = ranks or {}, alphas or {}
        self.saved, self.key, self.end = saved, key, end
        self.fields, self.body = fields or {}, body
        self.magnitude = magnitude  # how its keys end, with DoRA
        self.same, self.biases, self.same_biases = same, biases, same_biases
        self.bias_key, self.own_biases = bias_key, own_biases

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

    def own_bias(self, module):
        if self.own_biases is not None:
            return [[self.own_biases] * SHAPES[module][0]]
        return matrix(1, SHAPES[module][0], module + 'own bias')

    def whole(self, module):
        return norm_weight(module, 's') if module in SIZES else matrix(*SHAPES[module],
                                                                       's' + module)

    def tensors(self, base):
        result = {}
        old = base_weights(base)
        for module in self.names:
            a, b = self.pair(module)
            kind = 'embedding_' if module == 'model.embed_tokens' else ''
            weight = '' if kind else '.weight'
            result[self.key_of(module) + f'.lora_{kind}A{self.end}{weight}'] = a
            result[self.key_of(module) + f'.lora_{kind}B{self.end}{weight}'] = b
            if self.fields.get('use_dora'):
                result[self.key_of(module) + self.magnitude] = self.magnitudes(module)
            if self.fields.get('lora_bias'):
                result[self.key_of(module) + f'.lora_B{self.end}.bias'] = self.own_bias(module)
        name = f'.modules_to_save{self.end}' if self.end else ''
        for module in self.saved:
            result[self.key_of(module) + f'{name}.weight'] = self.whole(module)
        for module in self.same:
            kept = 'model.embed_tokens' if base.tied and module == 'lm_head' else module
            result[self.key_of(module) + f'{name}.weight'] = old[f'{kept}.weight']
        for module in self.biases:
            result[self.key_of(module) + self.bias_key] = matrix(1, SHAPES[module][0], module + 't')
        for module in self.same_biases:
            result[self.key_of(module) + self.bias_key] = old[f'{module}.bias']
        return result

    def config(self):
        return {'peft_type': 'LORA', 'r': self.rank, 'lora_alpha': self.alpha, 'bias': 'none',
                'use_rslora': self.rslora, **self.fields}

    def weights(self, base):
        """The base with what the adapter adds."""
        weights = base_weights(base)
        tied = base.tied
        if tied and ('lm_head' in self.names or self.saved):
            weights['lm_head.weight'] = weights['model.embed_tokens.weight']
        for module in self.saved:
            weights[f'{module}.weight'] = self.whole(module)
        along = 'model.embed_tokens' in self.saved and 'modules_to_save' not in self.fields
        if self.fields.get('ensure_weight_tying') or (tied and along):
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
        for module in self.biases:
            weights[f'{module}.bias'] = matrix(1, SHAPES[module][0], module + 't')
        for module in self.names if self.fields.get('lora_bias') else ():
            old = weights.get(f'{module}.bias', [[0] * SHAPES[module][0]])[0]
            scale = self.scale_of(module)
            weights[f'{module}.bias'] = [
                [x + scale * y for x, y in zip(old, self.own_bias(module)[0])]]
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
    'saved embedding: listed': Form(has('q_proj'), saved=['model.embed_tokens'], fields=fields(
        target_modules=['q_proj'], modules_to_save=['embed_tokens'])),
    'saved embedding: along': Form(has('q_proj'), saved=['model.embed_tokens'], same=['lm_head'],
                                   fields=fields(target_modules=['q_proj'])),
    'suffixes: embeddings of the base saved along': Form(
        has('q_proj', 'v_proj'), same=['model.embed_tokens', 'lm_head'],
        fields=fields(target_modules=['q_proj', 'v_proj'])),
    'output: its matrix saved along': Form(None, ['lm_head'], same=['lm_head'], key='{}',
                                           fields=fields(target_modules=['lm_head'])),
    'biases of updates: plain': Form(linear, fields=fields(
        target_modules='all-linear', lora_bias=True)),
    'biases of updates: adapter in keys': Form(linear, end='.default', fields=fields(
        target_modules='all-linear', lora_bias=True)),
    'scaled biases of updates': Form(
        has('q_proj', 'down_proj'), rslora=True, alphas={'model.layers.1.mlp.down_proj': 2.5},
        fields=fields(target_modules=['q_proj', 'down_proj'], lora_bias=True,
                      alpha_pattern={'1.mlp.down_proj': 2.5})),
    'bias of the update of the output': Form(None, ['lm_head'], fields=fields(
        target_modules=['lm_head'], lora_bias=True)),
    'suffixes: biases of zero': Form(has('q_proj', 'v_proj'), own_biases=0.0, fields=fields(
        target_modules=['q_proj', 'v_proj'], lora_bias=True)),
    'suffixes: biases that no layer has': Form(has('q_proj', 'v_proj'), fields=fields(
        target_modules=['q_proj', 'v_proj'], bias='all')),
    'saved norms: names': Form(has('q_proj'), saved=NORMS, fields=fields(
        target_modules=['q_proj'],
        modules_to_save=['input_layernorm', 'post_attention_layernorm', 'model.norm'])),
    'saved norms: end of a name': Form(has('q_proj'), saved=NORMS, fields=fields(
        target_modules=['q_proj'], modules_to_save=['norm'])),
    'saved norms: adapter in keys': Form(has('q_proj'), saved=NORMS, end='.default', fields=fields(
        target_modules=['q_proj'], modules_to_save=['norm'])),
    'saved norms: body alone': Form(has('q_proj'), saved=NORMS, body=True, fields=fields(
        target_modules=['q_proj'], modules_to_save=['norm'])),
    'saved norms of layers': Form(has('q_proj'), saved=NORMS[1:], fields=fields(
        target_modules=['q_proj'], modules_to_save=['layernorm'])),
    'saved last norm': Form(has('q_proj'), saved=NORMS[:1], fields=fields(
        target_modules=['q_proj'], modules_to_save=['model.norm'])),
    'suffixes: norms of the base saved': Form(has('q_proj', 'v_proj'), same=NORMS, fields=fields(
        target_modules=['q_proj', 'v_proj'], modules_to_save=['norm'])),
    'saved embedding and output': Form(has('v_proj'), saved=['model.embed_tokens', 'lm_head'],
                                       fields=fields(target_modules=['v_proj'], modules_to_save=[
                                           'embed_tokens', 'lm_head'])),
}
BIASED_FORMS = {
    'suffixes': FORMS['suffixes'],
    'all linear': FORMS['all linear: word'],
    'magnitudes': FORMS['magnitudes: bare'],
    'biases: all': Form(has('q_proj'), biases=BIASED, fields=fields(
        target_modules=['q_proj'], bias='all')),
    'biases: all, of wrapped layers': Form(has('q_proj'), biases=BIASED,
                                           bias_key='.base_layer.bias', fields=fields(
                                               target_modules=['q_proj'], bias='all')),
    'biases of targets: plain': Form(has('q_proj', 'o_proj'), biases=list(
        filter(has('q_proj', 'o_proj'), BIASED)), fields=fields(
            target_modules=['q_proj', 'o_proj'], bias='lora_only')),
    'biases of targets: body alone': Form(has('q_proj', 'o_proj'), body=True, biases=list(
        filter(has('q_proj', 'o_proj'), BIASED)), fields=fields(
            target_modules=['q_proj', 'o_proj'], bias='lora_only')),
    'biases of targets: among all': Form(
        has('q_proj', 'o_proj'), biases=list(filter(has('q_proj', 'o_proj'), BIASED)),
        same_biases=list(filter(has('k_proj', 'v_proj'), BIASED)),
        fields=fields(target_modules=['q_proj', 'o_proj'], bias='all')),
    'suffixes: biases of the base': Form(has('q_proj', 'v_proj'), same_biases=BIASED, fields=fields(
        target_modules=['q_proj', 'v_proj'], bias='all')),
    'suffixes: biases that PEFT left out': Form(has('q_proj', 'v_proj'), fields=fields(
        target_modules=['q_proj', 'v_proj'], bias='lora_only')),
    'biases of updates': FORMS['biases of updates: plain'],
    'biases of both kinds': Form(linear, biases=BIASED, fields=fields(
        target_modules='all-linear', bias='all', lora_bias=True)),
    'magnitudes and biases': Form(linear, biases=BIASED, fields=fields(
        target_modules='all-linear', bias='all', use_dora=True)),
}
HEAD_NORM_FORMS = {
    'suffixes': FORMS['suffixes'],
    'saved norms of layers': FORMS['saved norms of layers'],
    'every norm: end of a name': Form(has('q_proj', 'k_proj'), saved=NORMS + HEAD_NORMS,
                                      fields=fields(target_modules=['q_proj', 'k_proj'],
                                                    modules_to_save=['norm'])),
    'every norm: names': Form(has('q_proj', 'k_proj'), saved=NORMS + HEAD_NORMS, fields=fields(
        target_modules=['q_proj', 'k_proj'], modules_to_save=[
            'model.norm', 'layernorm', 'self_attn.q_norm', 'k_norm'])),
    'norm of queries': Form(has('q_proj'), saved=HEAD_NORMS[::2], fields=fields(
        target_modules=['q_proj'], modules_to_save=['q_norm'])),
}
TIED_FORMS = {
    'magnitudes of the output': FORMS['magnitudes of the output'],
    'output': FORMS['output'],
    'embedding': FORMS['embedding'],
    'saved output': FORMS['saved output: plain'],
    'saved embedding': FORMS['saved embedding: listed'],
    'saved embedding, tied: along': Form(has('q_proj'), saved=['model.embed_tokens'], fields=fields(
        target_modules=['q_proj'])),
    'magnitudes of a saved output, tied': Form(
        None, ['lm_head'], saved=['model.embed_tokens'],
        fields=fields(target_modules=['lm_head'], use_dora=True)),
    'output: embeddings of the base saved along': Form(
        None, ['lm_head'], same=['model.embed_tokens', 'lm_head'],
        fields=fields(target_modules=['lm_head'])),
    'bias of the update of the output': FORMS['bias of the update of the output'],
    'saved norms': FORMS['saved norms: names'],
    'saved embedding, tied: listed': Form(
        has('q_proj'), saved=['model.embed_tokens'],
        fields=fields(target_modules=['q_proj'], modules_to_save=['embed_tokens'],
                      ensure_weight_tying=True)),
}


class AdapterForms(unittest.TestCase):
    def run_forms(self, forms, kind, kernels):
        with tempfile.TemporaryDirectory() as folder:
            base = os.path.join(folder, 'base')
            os.mkdir(base)
            with open(os.path.join(base, 'config.json'), 'w', encoding='utf-8') as out:
                json.dump({'architectures': ['Qwen3ForCausalLM' if kind.head_norms
                                             else 'LlamaForCausalLM'], 'num_hidden_layers': LAYERS,
                           'hidden_size': HIDDEN, 'num_attention_heads': HEADS,
                           'num_key_value_heads': KV_HEADS, 'head_dim': DIM,
                           'intermediate_size': FFN, 'vocab_size': VOCAB,
                           'max_position_embeddings': 64, 'rms_norm_eps': 1e-6,
                           'tie_word_embeddings': kind.tied,
                           'attention_bias': kind.biased,
                           'torch_dtype': 'float32'}, out)
            write_tensors(os.path.join(base, 'model.safetensors'), base_weights(kind))
            paths = []
            for i, form in enumerate(forms.values()):
                paths.append(os.path.join(folder, f'adapter-{i}'))
                os.mkdir(paths[-1])
                with open(os.path.join(paths[-1], 'adapter_config.json'), 'w',
                          encoding='utf-8') as out:
                    json.dump(form.config(), out)
                write_tensors(os.path.join(paths[-1], 'adapter_model.safetensors'),
                              form.tensors(kind))
            lines = subprocess.run([PROGRAM, base, kernels, ','.join(map(str, TOKENS)), *paths],
                                   check=True, capture_output=True, text=True).stdout.splitlines()
            return [json.loads(line) for line in lines]

    def check(self, forms, kind):
        plain = plain_logits(base_weights(kind))
        expected = [plain_logits(form.weights(kind)) for form in forms.values()]
        for kernels in ('reference', 'cpu'):
            digests = {}
            for (name, _), want, got in zip(forms.items(), expected,
                                            self.run_forms(forms, kind, kernels)):
                with self.subTest(form=name, kind=kind, kernels=kernels):
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
        self.check(FORMS, Base())

    def test_so_do_those_of_tied_embeddings(self):
        self.check(TIED_FORMS, Base(tied=True))

    def test_so_do_those_of_a_base_with_biases(self):
        self.check(BIASED_FORMS, Base(biased=True))

    def test_so_do_those_of_a_base_with_norms_of_heads(self):
        self.check(HEAD_NORM_FORMS, Base(head_norms=True))


if __name__ == '__main__':
    PROGRAM = sys.argv.pop()
    unittest.main()
