"""The four modes' forward: boundary, masks, gradients; and files give back what was trained."""

import os
import sys
import tempfile
import unittest

import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../training"))

from chorale_training import adapter, modes, qwen2, recipes, tokenizer_bpe  # noqa: E402

SMALL = qwen2.Config(vocab_size=280, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
END = 0
PAIRS = [([5, 9, 200, 9, 7], [11, 12]), ([3, 4], [9, 8, 7]), ([1, 2, 3], [])]


def random_model(seed):
    torch.manual_seed(seed)
    model = qwen2.Qwen2(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def frozen(model):
    return modes.Module(model.requires_grad_(False))


def random_adapter(model, targets=tuple(adapter.TARGETS)):
    torch.manual_seed(9)
    made = adapter.Adapter(model, 4, 8, targets)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return made


class Collate(unittest.TestCase):
    def test_counts_the_answer_and_the_end_only(self):
        batch = modes.collate(PAIRS, END)
        self.assertEqual(batch.target.tolist(), [[11, 12, 0, -100], [9, 8, 7, 0],
                                                 [0, -100, -100, -100]])

    def test_decode_begins_with_the_last_prompt_token(self):
        batch = modes.collate(PAIRS, END)
        self.assertEqual(batch.out[:, 0].tolist(), [7, 4, 3])
        self.assertEqual(batch.prompt_valid.sum(1).tolist(), [4, 1, 2])
        self.assertEqual(batch.prompt[1].tolist(), [0, 0, 0, 3])

    def test_refuses_a_prompt_without_a_boundary(self):
        with self.assertRaisesRegex(ValueError, "prompt of 1 tokens"):
            modes.collate([([5], [1])], END)


class Forward(unittest.TestCase):
    def setUp(self):
        self.base = frozen(random_model(1))

    def test_standard_in_two_parts_equals_the_plain_forward(self):
        trio = modes.trio_of("standard", self.base, self.base)
        logits = modes.forward(trio, modes.collate(PAIRS, END))
        for row, (prompt, answer) in enumerate(PAIRS):
            whole = self.base.model(torch.tensor([prompt + answer]))[0]
            torch.testing.assert_close(logits[row, : len(answer) + 1], whole[len(prompt) - 1 :],
                                       atol=1e-4, rtol=1e-4)

    def test_every_mode_with_an_untrained_adapter_equals_the_base(self):
        batch = modes.collate(PAIRS, END)
        expected = modes.forward(modes.Trio(*[self.base] * 3), batch)
        for kind in recipes.KINDS.values():
            module = recipes.new_module(kind, self.base)
            logits = modes.forward(modes.trio_of(kind.mode, self.base, module), batch)
            torch.testing.assert_close(logits[batch.out_valid], expected[batch.out_valid],
                                       atol=1e-4, rtol=1e-4)

    def test_greedy_in_a_batch_equals_greedy_alone(self):
        module = modes.Module(self.base.model, random_adapter(self.base.model))
        prompts = [prompt for prompt, _ in PAIRS]
        for mode in modes.MODES:
            trio = modes.trio_of(mode, self.base, module)
            together = modes.greedy(trio, prompts, 6, END)
            alone = [modes.greedy(trio, [prompt], 6, END)[0] for prompt in prompts]
            self.assertEqual(together, alone, mode)

    def test_greedy_equals_the_forward_over_its_own_output(self):
        module = modes.Module(self.base.model, random_adapter(self.base.model))
        for mode in modes.MODES:
            trio = modes.trio_of(mode, self.base, module)
            (ids,), logits = modes.greedy(trio, [[5, 9, 200]], 6, -1 + 280, keep_logits=True)
            whole = modes.forward(trio, modes.collate([([5, 9, 200], ids)], END))[0]
            torch.testing.assert_close(logits[:, 0], whole[: len(logits)], atol=1e-4, rtol=1e-4)

    def test_each_mode_reads_what_its_table_says(self):
        """The prompt's KV and the output's KV come from the writers of the mode."""
        module = frozen(random_model(2))
        batch = modes.collate(PAIRS, END)
        by_writer = {}
        for name, writer in (("base", self.base), ("M", module)):
            by_writer[name] = modes.prefill(modes.Trio(writer, writer, writer), batch.prompt,
                                            batch.prompt_valid).keys[1]
        for mode, writer in (("standard", "M"), ("prefillshare", "base"), ("sun", "M"),
                             ("icarus", "base")):
            trio = modes.trio_of(mode, self.base, module)
            cache = modes.prefill(trio, batch.prompt, batch.prompt_valid)
            torch.testing.assert_close(cache.keys[1], by_writer[writer], atol=0, rtol=0)


class Gradients(unittest.TestCase):
    def setUp(self):
        self.base = frozen(random_model(1))

    def loss(self, mode, module):
        modes.loss(modes.trio_of(mode, self.base, module), modes.collate(PAIRS, END)).backward()

    def test_prefillshare_stops_at_the_prompt(self):
        base = modes.Module(random_model(1))  # not frozen, so that a leak would show
        module = modes.Module(random_model(2))
        trio = modes.trio_of("prefillshare", base, module)
        modes.loss(trio, modes.collate(PAIRS, END)).backward()
        self.assertTrue(all(p.grad is None for p in base.parameters()))
        self.assertGreater(module.model.model.layers[0].self_attn.q_proj.weight.grad.norm(), 0)

    def test_sun_reaches_the_prefill_module_through_the_base(self):
        module = modes.Module(random_model(2))
        self.loss("sun", module)
        self.assertTrue(all(p.grad is None for p in self.base.parameters()))
        for name in ("k_proj", "v_proj"):
            for layer in (0, 1):
                linear = adapter.linear_of(module.model, layer, name)
                self.assertGreater(linear.weight.grad.norm(), 0)

    def test_icarus_writes_without_the_adapter(self):
        batch = modes.collate(PAIRS, END)
        module = modes.Module(self.base.model,
                              random_adapter(self.base.model, adapter.READER_TARGETS))
        caches = []
        for reader in (self.base, module):
            trio = modes.trio_of("icarus", self.base, reader)
            cache = modes.prefill(trio, batch.prompt, batch.prompt_valid)
            _, written = modes.decode(trio, cache, batch.out, batch.out_valid,
                                      batch.prompt_valid.sum(1))
            caches.append(cache.followed_by(written))
        for kind in ("keys", "values"):
            for left, right in zip(*(getattr(cache, kind) for cache in caches)):
                self.assertTrue(torch.equal(left, right))

    def test_icarus_trains_the_reader_of_every_layer(self):
        module = recipes.new_module(recipes.KINDS["icarus"], self.base)
        self.assertFalse([t for t in module.adapter.targets if t in ("k_proj", "v_proj")])
        self.loss("icarus", module)
        self.assertTrue(all(p.grad.norm() > 0 for p in module.adapter.up.values()))


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.base = frozen(random_model(1))

    def check_loads_back(self, module):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(parameter.half().float())
        tokenizer = tokenizer_bpe.train(["def f(x):\n    return x\n" * 9], 280)
        recipes.save_module(self.folder, module, tokenizer)
        again = recipes.load_module(self.folder, self.base)
        batch = modes.collate(PAIRS, END)
        trios = [modes.trio_of("standard", self.base, m) for m in (module, again)]
        left, right = (modes.forward(trio, batch) for trio in trios)
        torch.testing.assert_close(left, right, atol=0, rtol=0)

    def test_full_weights_load_back(self):
        self.check_loads_back(modes.Module(random_model(2)))

    def test_an_adapter_loads_back(self):
        self.check_loads_back(modes.Module(self.base.model, random_adapter(self.base.model)))

    def test_an_adapter_of_another_base_is_refused(self):
        random_adapter(self.base.model).save(self.folder)
        other = qwen2.Qwen2(qwen2.Config(**{**SMALL.__dict__, "intermediate_size": 64}))
        with self.assertRaisesRegex(ValueError, "another base"):
            adapter.load(self.folder, other)


class Recipes(unittest.TestCase):
    def test_names_of_recipe_and_form(self):
        self.assertEqual(recipes.kind_of("sun", "full"), "sun-full")
        self.assertEqual(recipes.kind_of("sun", None), "sun")
        self.assertEqual(recipes.kind_of("full", None), "full")
        self.assertEqual(recipes.kind_of("icarus", None), "icarus")
        with self.assertRaisesRegex(ValueError, "icarus"):
            recipes.kind_of("icarus", "full")


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
