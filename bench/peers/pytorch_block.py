"""The block of models/std/transformer.cherry in PyTorch: RMSNorm first, rotary positions, SwiGLU, no biases."""
import torch
import torch.nn as nn
import torch.nn.functional as F


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


def rotary_table(size, dtype):
    """cos and sin, [time, key] each."""
    frequency = 10000.0 ** (-torch.arange(0, size.key, 2).float() / size.key)
    angle = torch.outer(torch.arange(size.time).float(), frequency)
    return torch.cat((angle.cos(),) * 2, -1).to(dtype), torch.cat((angle.sin(),) * 2, -1).to(dtype)
