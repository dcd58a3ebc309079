#!/usr/bin/env python3
"""One training step of the model of bench/step34m.cherry in JAX: one jitted function, its state donated; bf16
as casts of the weights. Prints seconds a step (median) and peak resident memory.

    python3 bench/peers/jax_step34m.py [--threads 2] [--steps 5] [--precision bf16] [--time 512 ...]
"""
import os

import shape

SIZE = shape.parse(__doc__)
os.environ.pop("OPENBLAS_CORETYPE", None)
if hasattr(os, "sched_setaffinity"):  # XLA takes as many threads as it may run on
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: SIZE.threads])
import jax
import jax.numpy as jnp

COMPUTE = jnp.bfloat16 if SIZE.precision == "bf16" else jnp.float32


def parameters(key):
    inner = SIZE.heads * SIZE.key
    shapes = dict(wq=(SIZE.embed, inner), wk=(SIZE.embed, inner), wv=(SIZE.embed, inner), wo=(inner, SIZE.embed),
                  gate=(SIZE.embed, SIZE.ffn), up=(SIZE.embed, SIZE.ffn), down=(SIZE.ffn, SIZE.embed))

    def layer(key):
        keys = jax.random.split(key, len(shapes))
        weights = {name: 0.02 * jax.random.normal(k, s) for k, (name, s) in zip(keys, shapes.items())}
        return weights | dict(g1=jnp.ones(SIZE.embed), g2=jnp.ones(SIZE.embed))

    table, head, *layers = jax.random.split(key, SIZE.layers + 2)
    return dict(table=0.02 * jax.random.normal(table, (SIZE.vocab, SIZE.embed)), g=jnp.ones(SIZE.embed),
                head=0.02 * jax.random.normal(head, (SIZE.embed, SIZE.vocab)), layers=[layer(k) for k in layers])


def rms_norm(x, gain):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * gain


def rope(x):
    angle = jnp.outer(jnp.arange(SIZE.time), 10000.0 ** (-jnp.arange(0, SIZE.key, 2) / SIZE.key))[:, None]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def block(x, w):
    n = rms_norm(x, w["g1"])
    q, k, v = ((n @ w[name]).reshape(SIZE.batch, SIZE.time, SIZE.heads, SIZE.key) for name in ("wq", "wk", "wv"))
    a = jax.nn.dot_product_attention(rope(q), rope(k), v, is_causal=True)
    x = x + a.reshape(SIZE.batch, SIZE.time, -1) @ w["wo"]
    n = rms_norm(x, w["g2"])
    return x + (jax.nn.silu(n @ w["gate"]) * (n @ w["up"])) @ w["down"]


def loss_of(weights, tokens):
    weights = jax.tree.map(lambda w: w.astype(COMPUTE), weights)
    x = weights["table"][tokens[:, :-1]]
    for layer in weights["layers"]:
        x = block(x, layer)
    logits = (rms_norm(x, weights["g"]) @ weights["head"]).astype(jnp.float32)
    right = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - right)


def update(state, tokens):
    weights, first, second, count = state
    loss, gradients = jax.value_and_grad(loss_of)(weights, tokens)
    norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients)))
    gradients = jax.tree.map(lambda g: g * jnp.minimum(1, 1 / norm), gradients)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * g * g, second, gradients)
    count = count + 1

    def new(w, m, v):
        return w - 3e-4 * (m / (1 - 0.9**count) / (jnp.sqrt(v / (1 - 0.95**count)) + 1e-8) + 0.1 * w)

    return (jax.tree.map(new, weights, first, second), first, second, count), loss


def main():
    weights = parameters(jax.random.key(0))
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = [(weights, zeros, jax.tree.map(jnp.zeros_like, weights), jnp.float32(0))]
    tokens = jax.random.randint(jax.random.key(1), (SIZE.batch, SIZE.time + 1), 0, SIZE.vocab)
    run = jax.jit(update, donate_argnums=0)

    def step():
        state[0], loss = run(state[0], tokens)
        return float(jax.block_until_ready((state[0], loss))[1])

    shape.measure(SIZE, f"jax {jax.__version__} {SIZE.precision}", step)


main()
