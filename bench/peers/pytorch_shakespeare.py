#!/usr/bin/env python3
"""nanoGPT's small CPU setting in PyTorch, the model of models/shakespeare_char.cherry, on bytes.
The last 10 % of the file is held out and evaluated whole. Prints loss and speed.

    python3 bench/peers/pytorch_shakespeare.py FILE [--seed 1] [--threads 2] [--steps 2000]
"""
import argparse
import math
import os
import time

os.environ.pop("OPENBLAS_CORETYPE", None)
import torch
import torch.nn as nn
import torch.nn.functional as F

WIDTH, HEADS, LAYERS, CONTEXT, BATCH, VOCAB = 128, 4, 4, 64, 12, 256


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return F.layer_norm(x, (WIDTH,), self.gain, None, 1e-5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = Norm(), Norm()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        batch, time_, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, time_, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(batch, time_, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.empty(VOCAB, WIDTH))
        self.positions = nn.Parameter(torch.empty(CONTEXT, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = Norm()
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith("out.weight") or name.endswith("down.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def forward(self, tokens, targets):
        x = self.table[tokens] + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.table.T
        return F.cross_entropy(logits.view(-1, VOCAB), targets.reshape(-1), reduction="none").view(targets.shape)


def rate(step, steps, warmup=100, high=1e-3, low=1e-4):
    if step < warmup:
        return high * (step + 1) / (warmup + 1)
    share = (step - warmup) / (steps - warmup)
    return low + 0.5 * (1 + math.cos(math.pi * share)) * (high - low)


@torch.no_grad()
def evaluate(model, data):
    total, count = 0.0, 0
    for start in range(0, len(data) - 1, CONTEXT * 64):
        for first in range(start, min(start + CONTEXT * 64, len(data) - 1), CONTEXT):
            window = data[first : first + CONTEXT + 1]
            losses = model(window[None, :-1], window[None, 1:])
            total, count = total + losses.sum().item(), count + losses.numel()
    return total / count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    data = torch.frombuffer(bytearray(open(arguments.file, "rb").read()), dtype=torch.uint8).long()
    split = int(0.9 * len(data))
    train, valid = data[:split], data[split:]
    model = Model()
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    start = time.perf_counter()
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, arguments.steps)
        first = torch.randint(len(train) - CONTEXT, (BATCH,))
        window = torch.stack([train[i : i + CONTEXT + 1] for i in first])
        loss = model(window[:, :-1], window[:, 1:]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    speed = arguments.steps * BATCH * CONTEXT / seconds
    print(f"pytorch {torch.__version__} seed {arguments.seed}: held-out loss {evaluate(model, valid):.4f}, "
          f"{seconds:.1f} s for {arguments.steps} steps, {speed:.0f} tokens/s")


main()
