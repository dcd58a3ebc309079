#!/usr/bin/env python3
"""One training step of the model of bench/step34m.cherry in PyTorch, well configured: fused AdamW,
scaled_dot_product_attention, clipping; bf16 by autocast. Prints seconds a step (median) and peak resident memory.

    python3 bench/peers/pytorch_step34m.py [--threads 2] [--steps 5] [--compile] [--precision bf16] [--time 512 ...]
"""
import contextlib
import os

os.environ.pop("OPENBLAS_CORETYPE", None)
import torch
import torch.nn as nn
import torch.nn.functional as F

import shape


def rope(x, cos, sin):
    half = x.shape[-1] // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + rotated * sin


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size, inner = size, size.heads * size.key
        self.norm1, self.norm2 = nn.RMSNorm(size.embed, eps=1e-6), nn.RMSNorm(size.embed, eps=1e-6)
        self.qkv = nn.Linear(size.embed, 3 * inner, bias=False)
        self.out = nn.Linear(inner, size.embed, bias=False)
        self.up_gate = nn.Linear(size.embed, 2 * size.ffn, bias=False)
        self.down = nn.Linear(size.ffn, size.embed, bias=False)

    def forward(self, x, cos, sin):
        batch, time, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, time, 3, self.size.heads, -1).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(batch, time, -1))
        up, gate = self.up_gate(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table = nn.Embedding(size.vocab, size.embed)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.embed, eps=1e-6)
        self.head = nn.Linear(size.embed, size.vocab, bias=False)
        angle = torch.outer(torch.arange(size.time).float(), 10000.0 ** (-torch.arange(0, size.key, 2).float() / size.key))
        dtype = torch.bfloat16 if size.precision == "bf16" else torch.float32
        self.register_buffer("cos", torch.cat((angle.cos(), angle.cos()), -1).to(dtype))
        self.register_buffer("sin", torch.cat((angle.sin(), angle.sin()), -1).to(dtype))

    def forward(self, tokens, targets):
        x = self.table(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def main():
    size = shape.parse(__doc__)
    torch.set_num_threads(size.threads)
    torch.manual_seed(0)
    model = Model(size)
    run = torch.compile(model) if size.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(size.vocab, (size.batch, size.time + 1))
    compute = contextlib.nullcontext()
    if size.precision == "bf16":
        compute = torch.autocast("cpu", dtype=torch.bfloat16)

    def step():
        with compute:
            loss = run(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    shape.measure(size, f"pytorch {torch.__version__} {'compiled' if size.compile else 'eager'} {size.precision}", step)


main()
