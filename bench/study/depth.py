"""Parts B, C and D: fewer layers and recurrence, fusion of compressed models, several tokens at once."""
import json
import os

import safetensors

KINDS = {"mean": "Mean", "step": "Step", "selected": "Select", "loop": "Loop", "loop_gate": "LoopGate",
         "loop_step": "LoopStep", "loop_both": "LoopBoth", "loop_skip": "LoopSkip", "loop_adapter": "LoopAdapter"}


def evaluated(study, name, block, data, sets):
    return study.evaluate(study.weights(name), block, data, sets=sets)["loss"]


def flops_per_token(study, block, sets):
    return json.loads(study.cherry("check", "--train", block, "--json", sets=sets))["flops_per_token"]


def depth(study):
    """Deep models, their compressions before and after recovery, and controls."""
    reviews, valid = study.data("ko_reviews_train.txt"), study.data("ko_reviews_valid.txt")
    size, found = study.size, {}
    small = {"keep": size["keep"], "rounds": size["rounds"]}
    for layers, tokens in size["deep"].items():
        deep = {**small, "layers": layers}
        steps = max(1, tokens // study.tokens_per_step)

        def train_deep():
            study.train(f"deep{layers}", "base", reviews, steps, sets={**deep, "steps": steps})
            return {"loss": evaluated(study, f"deep{layers}", "base", valid, deep), "steps": steps,
                    "flops": flops_per_token(study, "base", deep)}

        found[f"deep{layers}"] = study.result(f"deep{layers}", train_deep)
        for block, model in KINDS.items():
            name = f"deep{layers}_{block}"

            def recover():
                start, report = study.convert(model, [study.weights(f"deep{layers}")], name, sets=deep)
                before = study.evaluate(start, block, valid, sets=deep)["loss"]
                study.train(name, block, reviews, size["recover"], init=start, sets={**deep, "steps": size["recover"]})
                return {"before": before, "after": evaluated(study, name, block, valid, deep),
                        "flops": flops_per_token(study, block, deep), "report": report if block == "mean" else ""}

            found[name] = study.result(name, recover)
    return {**found, **controls(study)}


def embedding_only(study, layers, sets):
    """A fresh six-layer model whose table and last norm are a deep model's: a checkpoint to start from."""
    fresh = study.train("dense_fresh", "base", study.data("ko_reviews_train.txt"), 1,
                        sets={**sets, "rate": 0, "final_rate": 0, "decay": 0})
    tensors, start = safetensors.read(study.weights(f"deep{layers}")), safetensors.read(fresh)
    path = os.path.join(study.work, "runs", f"embedding_of_{layers}.safetensors")
    safetensors.write(path, start, {name: tensors[name] for name in ("table", "g")})
    return path


def controls(study):
    """Six dense layers: from nothing with the tokens of the recovery, of everything, with the FLOPs of a loop, and
    with the deep model's embedding alone."""
    reviews, valid = study.data("ko_reviews_train.txt"), study.data("ko_reviews_valid.txt")
    size = study.size
    dense = {"layers": size["keep"], "keep": size["keep"], "rounds": size["rounds"]}
    loop = flops_per_token(study, "loop_both", dense) / flops_per_token(study, "base", dense)
    deep_steps = size["deep"][max(size["deep"])] // study.tokens_per_step
    found = {}
    for name, steps, source in (("recovery_tokens", size["recover"], 0), ("loop_flops", int(size["recover"] * loop), 0),
                                ("all_tokens", size["recover"] + deep_steps, 0),
                                *((f"embedding_of_{layers}", size["recover"], layers) for layers in size["deep"])):
        def make():
            init = embedding_only(study, source, dense) if source else None
            study.train("dense_" + name, "base", reviews, steps, init=init,
                        sets={**dense, "steps": steps, "warmup": 20})
            return {"after": evaluated(study, "dense_" + name, "base", valid, dense), "steps": steps,
                    "flops": flops_per_token(study, "base", dense)}

        found["dense_" + name] = study.result("dense_" + name, make)
    return found


def ensemble(study, weights, valid, sets):
    """Loss of the mean of the models' probabilities."""
    names = dict(zip(("second", "third", "fourth"), weights[1:]))
    return study.evaluate(weights[0], f"ensemble{len(weights)}", valid, sets={**sets, **names})["loss"]


def fusion(study):
    """Two and four compressed models that saw different batches: alone, averaged, fused, each trained further."""
    reviews, valid = study.data("ko_reviews_train.txt"), study.data("ko_reviews_valid.txt")
    size, layers = study.size, min(study.size["deep"])
    sets = {"layers": layers, "keep": size["keep"], "rounds": size["rounds"]}
    extra, found = size["extra"], {}

    def continued(name, block, steps, init, more=None, judge=None):
        study.train(name, block, reviews, steps, init=init, sets={**sets, **(more or {}), "steps": steps})
        return evaluated(study, name, judge or block, valid, sets)

    def expert(seed):
        start, _ = study.convert("LoopBoth", [study.weights(f"deep{layers}")], f"expert{seed}", sets=sets)
        return {"before": study.evaluate(start, "loop_both", valid, sets=sets)["loss"],
                "after": continued(f"expert{seed}", "loop_both", size["recover"], start, {"seed": 100 + seed})}

    def fused(name, block, model, count, teacher=None):
        start, _ = study.convert(model, experts[:count], name, sets=sets)
        before = found[block]["before"] if teacher else study.evaluate(start, block, valid, sets=sets)["loss"]
        return {"before": before, "after": continued(name, name, extra, start, teacher, block),
                "flops": flops_per_token(study, block, sets)}

    seeds = range(1, 5)
    for seed in seeds:
        found[f"expert{seed}"] = study.result(f"expert{seed}", lambda: expert(seed))
    experts = [study.weights(f"expert{seed}") for seed in seeds]
    for seed in seeds:
        found[f"expert{seed}_more"] = study.result(f"expert{seed}_more", lambda: {
            "before": found[f"expert{seed}"]["after"],
            "after": continued(f"expert{seed}_more", "loop_both", extra, experts[seed - 1], {"seed": 200 + seed})})
    further = [study.weights(f"expert{seed}_more") for seed in seeds]
    for count in (2, 4):
        found[f"ensemble{count}"] = study.result(f"ensemble{count}", lambda: {
            "before": ensemble(study, experts[:count], valid, sets),
            "after": ensemble(study, further[:count], valid, sets)})
    teacher = {"teacher": study.weights(f"deep{layers}")}
    for block, model, count in (("pair", "Pair", 2), ("pair_top", "PairTop", 2), ("four", "Four", 4),
                                ("four_top", "FourTop", 4)):
        for name, more in ((block, None), (block + "_taught", teacher)):
            found[name] = study.result(name, lambda: fused(name, block, model, count, more))
    best = min(seeds, key=lambda seed: found[f"expert{seed}"]["after"])
    one = flops_per_token(study, "loop_both", sets)
    for block in ("pair", "four"):
        steps = round(extra * found[block]["flops"] / one)
        found[f"single_{block}_flops"] = study.result(f"single_{block}_flops", lambda: {
            "before": found[f"expert{best}"]["after"], "steps": steps,
            "after": continued(f"single_{block}_flops", "loop_both", steps, experts[best - 1])})
    return found


def heads(study):
    """Acceptance and speed of decoding with 1, 2 and 4 further heads, sampled at temperature 0.8."""
    reviews = study.data("ko_reviews_train.txt")
    steps, found = study.size["recover"], {}
    for count in (1, 2, 4):
        block = f"heads{count}"

        def make():
            start, _ = study.convert(f"Heads{count}", [study.weights("base")], block)
            study.train(block, block, reviews, steps, init=start, sets={"steps": steps})
            runs = {}
            for how in ([], ["--no-draft"]):
                samples = [json.loads(study.cherry("generate", "--train", block, "--weights", study.weights(block),
                                                   "--prompt", "영화", "--tokens", 120, "--seed", seed, "--tokenizer",
                                                   study.tokenizer(), "--json", *how))
                           for seed in range(1, study.size["samples"] + 1)]
                seconds = sum(s["tokens"] / s["tokens_per_second"] for s in samples)
                drafted, tokens = sum(s["drafted"] for s in samples), sum(s["tokens"] for s in samples)
                runs["plain" if how else "drafted"] = {
                    "acceptance": sum(s["accepted"] for s in samples) / max(1, drafted),
                    "tokens_per_step": tokens / sum(s["steps"] for s in samples),
                    "tokens_per_second": tokens / seconds}
            return runs

        found[block] = study.result("decode_" + block, make)
    return found
