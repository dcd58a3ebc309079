#!/usr/bin/env python3
"""Training steps of models/cherry_566m, cherry_227m and gpt2 in PyTorch on a GPU, at its best setting: torch.compile,
the quickest of its fused attentions, bf16 by autocast, fused AdamW, clipping, no wait between steps. Prints one JSON
object: seconds a step (median), tokens a second, peak bytes of the device (of tensors, and with what is cached between
them), seconds from the start of the process to the end of the first step but for the choice of an attention.

    python3 bench/gpu/pytorch_train.py cherry_566m [--batch 16] [--time 2048] [--steps 10] [--compile model|blocks|none]

--compile blocks compiles one block, which all layers share, and the loss: within seconds instead of a minute. `--tiny`
shrinks every size and `--device cpu` runs it without a GPU: what tests do.
"""
import argparse
import contextlib
import json
import os
import statistics
import sys
import time

START = time.time()
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers"))
import torch
import torch.nn as nn
import torch.nn.functional as F

from torch.nn.attention import SDPBackend, sdpa_kernel

from pytorch_block import Block, rotary_table

IMPORTED = time.time() - START

# GPT-2's table as PyTorch likes it: 50257 rows in whole pieces of 128 bytes.
CHERRY = dict(vocab=74000, embed=1536, heads=12, key=128, ffn=2048)
MODELS = {
    "cherry_566m": dict(CHERRY, layers=24, order=range(24)),
    "cherry_227m": dict(CHERRY, layers=6, order=[0, *[1, 2, 3, 4] * 8, 5]),
    "gpt2": dict(vocab=50304, embed=768, heads=12, key=64, ffn=3072, layers=12, order=range(12)),
}
TINY = dict(vocab=320, embed=64, heads=4, key=16, ffn=96)


def loss_of(norm, x, table, targets):
    return F.cross_entropy(F.linear(norm(x), table).flatten(0, 1), targets.flatten())


class Decoder(nn.Module):
    """Blocks in any order over a tied table; a core of blocks that run again mixes each round by a learned gate."""

    def __init__(self, size):
        super().__init__()
        self.order, self.rounds = list(size.order), (len(size.order) - 2) // max(size.layers - 2, 1)
        self.table = nn.Embedding(size.vocab, size.embed)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.embed, eps=1e-6)
        self.recurrent = len(self.order) > size.layers
        if self.recurrent:
            self.gate = nn.Parameter(torch.full((self.rounds, size.embed), 4.0))
            self.step = nn.Parameter(torch.zeros(self.rounds, size.embed))
        cos, sin = rotary_table(size, torch.bfloat16)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def trunk(self, x):
        if not self.recurrent:
            for block in self.blocks:
                x = block(x, self.cos, self.sin)
            return x
        first, *core, last = self.blocks
        x = first(x, self.cos, self.sin)
        for i in range(self.rounds):
            y = x + self.step[i]
            for block in core:
                y = block(y, self.cos, self.sin)
            gate = torch.sigmoid(self.gate[i])
            x = (1 - gate) * x + gate * y
        return last(x, self.cos, self.sin)

    def forward(self, tokens, targets):
        return loss_of(self.norm, self.trunk(self.table(tokens)), self.table.weight, targets)


class GptBlock(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.heads = size.heads
        self.norm1, self.norm2 = nn.LayerNorm(size.embed), nn.LayerNorm(size.embed)
        self.qkv, self.out = nn.Linear(size.embed, 3 * size.embed), nn.Linear(size.embed, size.embed)
        self.up, self.down = nn.Linear(size.embed, size.ffn), nn.Linear(size.ffn, size.embed)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table, self.positions = nn.Embedding(size.vocab, size.embed), nn.Embedding(size.time, size.embed)
        self.blocks = nn.Sequential(*(GptBlock(size) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.embed)

    def forward(self, tokens, targets):
        x = self.table(tokens) + self.positions.weight[: tokens.shape[1]]
        return loss_of(self.norm, self.blocks(x), self.table.weight, targets)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    for name, value in dict(batch=16, time=2048, steps=10).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", choices=("model", "blocks", "none"), default="model")
    parser.add_argument("--tiny", action="store_true")
    size = parser.parse_args()
    for name, value in {**MODELS[size.model], **(TINY if size.tiny else {})}.items():
        setattr(size, name, value)
    return size


def seconds_of(step, count, on_gpu):
    """Of each of `count` steps. A GPU is asked for them ahead, as in training, and its own clock is read."""
    if not on_gpu:
        clocks = [time.perf_counter()]
        for _ in range(count):
            step()
            clocks.append(time.perf_counter())
        return [end - begin for begin, end in zip(clocks, clocks[1:])]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1e3 for begin, end in zip(marks, marks[1:])]


def attention_seconds(size, backend):
    shape = (size.batch, size.heads, size.time, size.key if "key" in vars(size) else size.embed // size.heads)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

    def step():
        F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(v)

    with sdpa_kernel(backend):
        seconds_of(step, 2, True)
        return statistics.median(seconds_of(step, 5, True))


def choose_attentions(size):
    """The fused attentions that this PyTorch has for the shape, the quickest first, then what it takes by itself."""
    seconds = {}
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION"):
        with contextlib.suppress(Exception):  # it has none, or refuses the shape
            seconds[name] = attention_seconds(size, getattr(SDPBackend, name))
    torch.cuda.empty_cache()
    return [*sorted(seconds, key=seconds.get), "default"]


def compiled(model, how):
    global loss_of
    if how == "blocks":
        for block in model.blocks:
            block.compile()
        loss_of = torch.compile(loss_of)
    return torch.compile(model) if how == "model" else model


def main():
    size = parse()
    for attention in choose_attentions(size) if size.device == "cuda" else ["default"]:
        context = contextlib.nullcontext() if attention == "default" else sdpa_kernel(getattr(SDPBackend, attention))
        try:
            with context:
                return train(size, attention)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:  # compiled, or with the strides of a model, it may refuse what it took alone
            if attention == "default":
                raise
            print(f"{attention}: {error}", file=sys.stderr)


def train(size, attention):
    begun, on_gpu = time.time(), size.device == "cuda"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with torch.device(size.device):
        model = Gpt2(size) if size.model == "gpt2" else Decoder(size)
        tokens = torch.randint(size.vocab, (size.batch, size.time + 1))
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter is not getattr(model, "gate", None):
                nn.init.normal_(parameter, std=0.02)
    run = compiled(model, size.compile)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step():
        with torch.autocast(size.device, dtype=torch.bfloat16):
            loss = run(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    step().item()
    first = IMPORTED + time.time() - begun
    for _ in range(2):
        step()
    middle = statistics.median(seconds_of(step, size.steps, on_gpu))
    print(json.dumps(dict(
        name=f"pytorch {torch.__version__} {size.compile}", model=size.model, batch=size.batch, attention=attention,
        parameters=sum(parameter.numel() for parameter in model.parameters()), step_seconds=middle,
        tokens_per_second=size.batch * size.time / middle, first_step_seconds=first, loss=step().item(),
        peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
        reserved_bytes=torch.cuda.max_memory_reserved() if on_gpu else 0)))


main()
