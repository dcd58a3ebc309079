#!/usr/bin/env python3
"""PyTorch as the outside judge: models/gpt2.cherry and models/llama.cherry at a small size, written again
in PyTorch, with weights and tokens that a formula gives; and tests/data/distill.cherry, a student under a teacher.
Writes gpt2.json, llama.json and distill.json beside itself:

    python3 tests/judge/reference.py            (needs PyTorch; the test suite does not)

Element i of the stored tensor `name` is base + 0.12 sin(phase + 0.7311 i + 0.0013 i^2), rounded to f32: base is 1 for
gains of norms and 0 for all else, phase is (FNV-1a of the name mod 6283) / 1000. tests/unit/judge.c fills
Cherry's state by the same formula and compares. Everything is computed in double; the f32 figures in the
file show how far PyTorch itself goes from them.
"""
import json
import math
import os
import sys

import torch
import torch.nn.functional as F

BATCH, TIME, VOCAB, EMBED, LAYERS = 4, 16, 64, 32, 2
STEPS, RATE, BETAS, DECAY = 20, 3e-3, (0.9, 0.95), 0.1

# What `--set` makes of the model files, so that the C side builds the same.
COMMON = ["vocab=64", "embed=32", "layers=2", "batch=4", "accumulate=1"]
SETTINGS = {
    "gpt2": COMMON + ["heads=4", "context=16"],
    "llama": COMMON + ["groups=2", "queries=2", "key=8", "ffn=48", "time=16"],
    "distill": [],
}


def fnv1a(name):
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def weight(name, shape, base):
    phase = (fnv1a(name) % 6283) / 1000
    values = [base + 0.12 * math.sin(phase + 0.7311 * i + 0.0013 * i * i) for i in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float64).float().reshape(shape)


def tokens_of_step(step):
    """tokens[batch, time] and the targets that follow them."""
    rows = [[(37 * (step % 2) + 11 * b + t * t + (t * b) // 3) % VOCAB for t in range(TIME + 1)] for b in range(BATCH)]
    rows = torch.tensor(rows)
    return rows[:, :-1], rows[:, 1:]


def norm_names(name):
    return name.split(".")[-1] in ("scale", "g", "g1", "g2")


class Gpt2:
    """LayerNorm first, learned positions, GELU in its tanh form, biases, tied head."""

    def shapes(self):
        heads, key, ffn = 4, 8, 4 * EMBED
        shapes = {"table": (VOCAB, EMBED), "positions": (TIME, EMBED)}
        for layer in range(LAYERS):
            block = {"norm1.scale": (EMBED,), "norm1.shift": (EMBED,), "attn.wq": (EMBED, heads, key),
                     "attn.wk": (EMBED, heads, key), "attn.wv": (EMBED, heads, key), "attn.wo": (heads, key, EMBED),
                     "attn.bq": (heads * key,), "attn.bk": (heads * key,), "attn.bv": (heads * key,),
                     "attn.bo": (EMBED,), "norm2.scale": (EMBED,), "norm2.shift": (EMBED,), "mlp.up": (EMBED, ffn),
                     "mlp.down": (ffn, EMBED), "mlp.b_up": (ffn,), "mlp.b_down": (EMBED,)}
            shapes.update({f"trunk.{layer}.{name}": shape for name, shape in block.items()})
        shapes.update({"norm.scale": (EMBED,), "norm.shift": (EMBED,)})
        return shapes

    def logits(self, w, tokens):
        x = w["table"][tokens] + w["positions"]
        for layer in range(LAYERS):
            p = {name.split(".", 2)[2]: value for name, value in w.items() if name.startswith(f"trunk.{layer}.")}
            n = F.layer_norm(x, (EMBED,), p["norm1.scale"], p["norm1.shift"])
            q, k, v = (torch.einsum("bte,ehk->bhtk", n, p["attn.w" + c]) + p["attn.b" + c].reshape(1, 4, 1, 8)
                       for c in "qkv")
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + torch.einsum("bhtk,hke->bte", a, p["attn.wo"]) + p["attn.bo"]
            n = F.layer_norm(x, (EMBED,), p["norm2.scale"], p["norm2.shift"])
            x = x + F.gelu(n @ p["mlp.up"] + p["mlp.b_up"], approximate="tanh") @ p["mlp.down"] + p["mlp.b_down"]
        return F.layer_norm(x, (EMBED,), w["norm.scale"], w["norm.shift"]) @ w["table"].T


class Llama:
    """RMSNorm first, rotary positions by halves, grouped queries, SwiGLU, untied head."""

    def shapes(self):
        groups, queries, key, ffn = 2, 2, 8, 48
        shapes = {"table": (VOCAB, EMBED), "g": (EMBED,), "head": (EMBED, VOCAB)}
        for layer in range(LAYERS):
            block = {"g1": (EMBED,), "wq": (EMBED, groups, queries, key), "wk": (EMBED, groups, key),
                     "wv": (EMBED, groups, key), "wo": (groups, queries, key, EMBED), "g2": (EMBED,),
                     "gate": (EMBED, ffn), "up": (EMBED, ffn), "down": (ffn, EMBED)}
            shapes.update({f"trunk.{layer}.{name}": shape for name, shape in block.items()})
        return shapes

    @staticmethod
    def norm(x, gain):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain

    @staticmethod
    def turn(x):
        """x[..., time, key] by its positions."""
        half = x.shape[-1] // 2
        rate = 10000.0 ** (-2 * torch.arange(half, dtype=torch.float64) / x.shape[-1])
        angle = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), rate)
        cos, sin = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def logits(self, w, tokens):
        x = w["table"][tokens]
        for layer in range(LAYERS):
            p = {name.split(".", 2)[2]: value for name, value in w.items() if name.startswith(f"trunk.{layer}.")}
            n = self.norm(x, p["g1"])
            q = self.turn(torch.einsum("bte,egqk->bgqtk", n, p["wq"]))
            k = self.turn(torch.einsum("bte,egk->bgtk", n, p["wk"])).unsqueeze(2)
            v = torch.einsum("bte,egk->bgtk", n, p["wv"]).unsqueeze(2)
            a = F.scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q), is_causal=True)
            x = x + torch.einsum("bgqtk,gqke->bte", a, p["wo"])
            m = self.norm(x, p["g2"])
            x = x + (F.silu(m @ p["gate"]) * (m @ p["up"])) @ p["down"]
        return self.norm(x, w["g"]) @ w["head"]


class Distill:
    """A tanh layer and a tied head, under a wider teacher of two; (1 - weight) next token + weight temperature^2 KL,
    over the positions where (batch + time) mod 3 is not 0. The teacher's tensors are named teacher.*."""

    def shapes(self):
        return {"table": (VOCAB, EMBED), "trunk.0.w1": (EMBED, 40), "trunk.0.w2": (40, EMBED)}

    def teacher_shapes(self):
        shapes = {"table": (VOCAB, 48), "head": (48, VOCAB)}
        for layer in range(2):
            shapes.update({f"trunk.{layer}.w1": (48, 56), f"trunk.{layer}.w2": (56, 48)})
        return {"teacher." + name: shape for name, shape in shapes.items()}

    @staticmethod
    def mix(x, w, name, layers):
        for layer in range(layers):
            x = x + torch.tanh(x @ w[f"{name}.{layer}.w1"]) @ w[f"{name}.{layer}.w2"]
        return x

    def loss(self, w, tokens, targets, share=0.4, temperature=3.0):
        t = {name: weight(name, shape, 0.0).to(w["table"].dtype) for name, shape in self.teacher_shapes().items()}
        student = self.mix(w["table"][tokens], w, "trunk", 1) @ w["table"].T
        teacher = self.mix(t["teacher.table"][tokens], t, "teacher.trunk", 2) @ t["teacher.head"]
        places = torch.arange(BATCH).unsqueeze(1) + torch.arange(TIME).unsqueeze(0)
        mask = places % 3 != 0
        divergence = F.kl_div(F.log_softmax(student[mask] / temperature, -1),
                              F.log_softmax(teacher[mask] / temperature, -1), reduction="batchmean", log_target=True)
        next_token = F.cross_entropy(student[mask], targets[mask])
        return (1 - share) * next_token + share * temperature ** 2 * divergence


def next_token_loss(model, w, tokens, targets):
    return F.cross_entropy(model.logits(w, tokens).reshape(-1, VOCAB), targets.reshape(-1))


def run(model, element):
    """Losses and gradient norms of STEPS updates, and the gradient norm of each tensor at the first."""
    w = {name: weight(name, shape, 1.0 if norm_names(name) else 0.0).to(element).requires_grad_()
         for name, shape in model.shapes().items()}
    groups = [{"params": [p for p in w.values() if p.dim() >= 2], "weight_decay": DECAY},
              {"params": [p for p in w.values() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=1e-8)
    losses, norms, parts = [], [], {}
    for step in range(STEPS):
        tokens, targets = tokens_of_step(step)
        loss = model.loss(w, tokens, targets) if hasattr(model, "loss") else next_token_loss(model, w, tokens, targets)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            parts = {name: p.grad.norm().item() for name, p in w.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(w.values(), 1.0).item())
        losses.append(loss.item())
        optimizer.step()
    return losses, norms, parts


def main():
    folder = os.path.dirname(os.path.abspath(__file__))
    for name, model in (("gpt2", Gpt2()), ("llama", Llama()), ("distill", Distill())):
        losses, norms, parts = run(model, torch.float64)
        losses32, norms32, _ = run(model, torch.float32)
        result = {"made_by": "tests/judge/reference.py, PyTorch " + torch.__version__.split("+")[0],
                  "settings": SETTINGS[name], "rate": RATE, "loss": losses, "gradient_norm": norms,
                  "gradient_norms_of_step_0": parts, "loss_f32": losses32, "gradient_norm_f32": norms32}
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
        worst = max(abs(a - b) / abs(a) for a, b in zip(losses + norms, losses32 + norms32))
        print(f"{name}: loss {losses[0]:.6f} to {losses[-1]:.6f}, norms {min(norms):.3f} to {max(norms):.3f}, "
              f"f32 off by {worst:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
