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
from pytorch_block import Block, rotary_table


class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table = nn.Embedding(size.vocab, size.embed)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.embed, eps=1e-6)
        self.head = nn.Linear(size.embed, size.vocab, bias=False)
        cos, sin = rotary_table(size, torch.bfloat16 if size.precision == "bf16" else torch.float32)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

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
