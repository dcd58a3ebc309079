"""Parts B, C and D: fewer layers and recurrence, fusion of compressed models, several tokens at once."""
import json

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


def controls(study):
    """Six dense layers: from nothing with the tokens of the recovery, of everything, with the FLOPs of a loop."""
    reviews, valid = study.data("ko_reviews_train.txt"), study.data("ko_reviews_valid.txt")
    size = study.size
    dense = {"layers": size["keep"], "keep": size["keep"], "rounds": size["rounds"]}
    loop = flops_per_token(study, "loop_both", dense) / flops_per_token(study, "base", dense)
    deep_steps = max(size["deep"].values()) // study.tokens_per_step
    found = {}
    for name, steps in (("recovery_tokens", size["recover"]), ("loop_flops", int(size["recover"] * loop)),
                        ("all_tokens", size["recover"] + deep_steps)):
        def make():
            study.train("dense_" + name, "base", reviews, steps, sets={**dense, "steps": steps, "warmup": 20})
            return {"after": evaluated(study, "dense_" + name, "base", valid, dense), "steps": steps}

        found["dense_" + name] = study.result("dense_" + name, make)
    return found


def fusion(study):
    """Two and four compressed models that saw different text, alone, as an ensemble of experts, trained further."""
    reviews, valid = study.data("ko_reviews_train.txt"), study.data("ko_reviews_valid.txt")
    size, layers = study.size, min(study.size["deep"])
    sets = {"layers": layers, "keep": size["keep"], "rounds": size["rounds"]}
    found, experts = {}, []
    for seed in range(1, 5):
        def make():
            start, _ = study.convert("LoopBoth", [study.weights(f"deep{layers}")], f"expert{seed}", sets=sets)
            study.train(f"expert{seed}", "loop_both", reviews, size["recover"], init=start,
                        sets={**sets, "steps": size["recover"], "seed": 100 + seed})
            return {"loss": evaluated(study, f"expert{seed}", "loop_both", valid, sets)}

        found[f"expert{seed}"] = study.result(f"expert{seed}", make)
        experts.append(study.weights(f"expert{seed}"))
    extra = size["recover"] // 2
    for block, model, count in (("pair", "Pair", 2), ("pair_top", "PairTop", 2), ("four", "Four", 4),
                                ("four_top", "FourTop", 4)):
        def make():
            start, _ = study.convert(model, experts[:count], block, sets=sets)
            before = study.evaluate(start, block, valid, sets=sets)["loss"]
            study.train(block, block, reviews, extra, init=start, sets={**sets, "steps": extra})
            return {"before": before, "after": evaluated(study, block, block, valid, sets)}

        found[block] = study.result(block, make)

    def best_single():
        best = min(range(4), key=lambda i: found[f"expert{i + 1}"]["loss"])
        study.train("single", "loop_both", reviews, extra, init=experts[best], sets={**sets, "steps": extra})
        return {"after": evaluated(study, "single", "loop_both", valid, sets)}

    found["single"] = study.result("single", best_single)
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
