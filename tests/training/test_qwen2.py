"""The torch model against a plain reading of its definition, and the export that serves it."""

import json
import os
import sys
import tempfile
import unittest

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../training"))

from chorale_training import export, qwen2, safetensors, tokenizer_bpe  # noqa: E402

SMALL = qwen2.Config(vocab_size=280, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024)


def small_model():
    torch.manual_seed(3)
    model = qwen2.Qwen2(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def plain_logits(state, config, ids):
    """Row by row and head by head, in double."""
    state = {name: tensor.double().numpy() for name, tensor in state.items()}
    size, group = config.head_dim, config.num_attention_heads // config.num_key_value_heads

    def norm(x, name):
        return x / np.sqrt((x * x).mean() + config.rms_norm_eps) * state[name + ".weight"]

    def linear(x, name):
        return state[name + ".weight"] @ x + state.get(name + ".bias", 0.0)

    def turn(head, position):
        out = head.copy()
        for i in range(size // 2):
            angle = position * config.rope_theta ** (-2 * i / size)
            a, b = head[i], head[i + size // 2]
            out[i] = a * np.cos(angle) - b * np.sin(angle)
            out[i + size // 2] = b * np.cos(angle) + a * np.sin(angle)
        return out

    cache, logits = {}, []
    for position, token in enumerate(ids):
        x = state["model.embed_tokens.weight"][token]
        for layer in range(config.num_hidden_layers):
            name = f"model.layers.{layer}"
            y = norm(x, name + ".input_layernorm")
            k = linear(y, name + ".self_attn.k_proj").reshape(-1, size)
            v = linear(y, name + ".self_attn.v_proj").reshape(-1, size)
            cache[layer, position] = [turn(head, position) for head in k], v
            heads = []
            for h, q in enumerate(linear(y, name + ".self_attn.q_proj").reshape(-1, size)):
                q = turn(q, position)
                scores = np.array([q @ cache[layer, p][0][h // group] for p in range(position + 1)])
                weights = np.exp(scores / np.sqrt(size) - (scores / np.sqrt(size)).max())
                weights /= weights.sum()
                heads.append(sum(w * cache[layer, p][1][h // group] for p, w in enumerate(weights)))
            x = x + linear(np.concatenate(heads), name + ".self_attn.o_proj")
            y = norm(x, name + ".post_attention_layernorm")
            gate = linear(y, name + ".mlp.gate_proj")
            up = linear(y, name + ".mlp.up_proj")
            x = x + linear(gate / (1 + np.exp(-gate)) * up, name + ".mlp.down_proj")
        logits.append(state["model.embed_tokens.weight"] @ norm(x, "model.norm"))
    return np.stack(logits)


class Forward(unittest.TestCase):
    def test_equals_a_plain_reading_of_the_definition(self):
        model, ids = small_model(), [5, 9, 200, 9, 0, 279, 17]
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0].double().numpy()
        expected = plain_logits(model.state_dict(), SMALL, ids)
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)

    def test_does_not_depend_on_what_follows_across_query_blocks(self):
        model = small_model()
        ids = torch.randint(0, 280, (1, 600), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            whole, part = model(ids), model(ids[:, :300])
        torch.testing.assert_close(whole[:, :300], part, atol=1e-4, rtol=1e-4)

    def test_stories260k_gives_its_golden_greedy_ids(self):
        folder = os.path.join(os.environ.get("CHORALE_SHARED_DATA", ""), "models/stories260K")
        if not os.path.exists(folder):
            self.skipTest("CHORALE_SHARED_DATA names no folder with models/stories260K")
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            contents = json.load(file)
        names = qwen2.Config.__dataclass_fields__
        config = qwen2.Config(**{k: v for k, v in contents.items() if k in names})
        model = qwen2.Qwen2(config).eval()
        arrays = safetensors.load(os.path.join(folder, "model.safetensors"))
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        for name, tensor in model.state_dict().items():
            if name.endswith(".bias"):  # a Llama is a Qwen2 without biases
                tensors[name] = torch.zeros_like(tensor)
        tensors.pop("lm_head.weight", None)
        model.load_state_dict(tensors)
        with open(os.path.join(folder, "golden_greedy.json"), encoding="utf-8") as file:
            golden = json.load(file)
        self.assertEqual(model.greedy(golden["prompt_ids"], 200), golden["greedy_ids"])


class Config(unittest.TestCase):
    def test_refuses_heads_that_do_not_divide(self):
        with self.assertRaisesRegex(ValueError, "num_key_value_heads 3"):
            qwen2.Config(num_key_value_heads=3).validate()
        with self.assertRaisesRegex(ValueError, "hidden_size 250"):
            qwen2.Config(hidden_size=250).validate()


class Export(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.tokenizer = tokenizer_bpe.train(["def f(x):\n    return x\n" * 9], 280)

    def test_loads_back_with_equal_logits(self):
        model = small_model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.half().float())
        export.save(self.folder, model, self.tokenizer)
        again, tokenizer = export.load(self.folder)
        self.assertEqual(tokenizer.pieces, self.tokenizer.pieces)
        ids = torch.tensor([[1, 2, 3, 40]])
        with torch.no_grad():
            torch.testing.assert_close(again(ids), model(ids), atol=0, rtol=0)

    def test_has_the_tensor_names_of_hugging_face(self):
        export.save(self.folder, small_model(), self.tokenizer)
        names = set(safetensors.load(os.path.join(self.folder, "model.safetensors")))
        self.assertEqual(len(names), 2 + 12 * SMALL.num_hidden_layers)
        self.assertTrue({"model.embed_tokens.weight", "model.norm.weight",
                         "model.layers.1.self_attn.q_proj.bias",
                         "model.layers.0.mlp.gate_proj.weight",
                         "model.layers.0.post_attention_layernorm.weight"} <= names)

    def test_refuses_weights_that_do_not_fit_f16(self):
        model = small_model()
        with torch.no_grad():
            model.model.norm.weight[0] = 1e6
        with self.assertRaisesRegex(ValueError, "model.norm.weight"):
            export.save(self.folder, model, self.tokenizer)


if __name__ == "__main__":
    unittest.main()
