"""Part A: selective supervision from a pretrained base, its controls, gradient coupling, free generation."""
import os
import subprocess

TASKS = {"news": ("ko_news_train.tsv", "ko_news_valid.tsv", "spans", "tsv"),
         "chat": ("ko_chat_train.tsv", "ko_chat_valid.tsv", "answers", "pairs")}


def pretrain(study):
    """The base at the end of pretraining, at 300 steps, and at its start."""
    reviews = study.data("ko_reviews_train.txt")
    steps = max(1, study.size["tokens"] // study.tokens_per_step)
    schedule = {"steps": steps}

    def start():
        # One step at rate 0 writes the weights as they start.
        study.train("base_start", "base", reviews, 1, sets={"rate": 0, "final_rate": 0, "decay": 0})
        return study.evaluate(study.weights("base_start"), "base", study.data("ko_reviews_valid.txt"))

    def early():
        study.train("base_early", "base", reviews, min(300, steps), sets={**schedule, "steps": min(300, steps)})
        return study.evaluate(study.weights("base_early"), "base", study.data("ko_reviews_valid.txt"))

    def end():
        study.train("base", "base", reviews, steps, sets=schedule)
        return study.evaluate(study.weights("base"), "base", study.data("ko_reviews_valid.txt"))

    return {name: study.result("pretrain_" + name, make) for name, make in
            (("start", start), ("early", early), ("end", end))}


def arm(study, task, name, block, flags, sets, seed, init):
    """Fine-tunes in stretches; losses over all, supervised and other tokens of held-out text after each."""
    train_file, valid_file, spans, _ = TASKS[task]
    run = f"{task}_{name}_{seed}"

    def make():
        points = []
        for step in study.size["steps"]:
            weights = init
            if step:
                weights = study.train(run, block, study.data(train_file), step, *flags, init=init,
                                      sets={**sets, "seed": seed})
            if weights is None:  # a random start has no file before its first step
                continue
            shuffled = [flag for flag in flags if flag == "--shuffle-tokens"]  # such arms are held against such text
            point = study.evaluate(weights, "tune", study.data(valid_file), "--supervise", spans, *shuffled)
            points.append({"step": step, **point})
        return points

    return study.result("tune_" + run, make)


def share_of(study, task):
    train_file, _, spans, _ = TASKS[task]

    def make():
        found = study.evaluate(study.weights("base"), "tune", study.data(train_file), "--supervise", spans)
        return {"share": found["supervised_tokens"] / found["tokens"]}

    return study.result("share_" + task, make)["share"]


def arms(study, task):
    """Every arm of one task: {name: [[points of a seed], ...]}."""
    own = ["--supervise", TASKS[task][2]]
    share = round(share_of(study, task), 4)
    table = ["--format", TASKS[task][3]]
    some = ["--supervise", f"random:{share}", *table]
    plain = ["--supervise", "all", *table]
    base, start = study.weights("base"), study.weights("base_start")
    many, one = range(1, study.size["seeds"] + 1), range(1, 2)
    rows = [
        ("full", "tune", plain, {"alpha": 0}, many, base),
        ("only", "tune", own, {"alpha": 1}, many, base),
        ("mixed", "tune", own, {"alpha": 0.7}, many, base),
        ("random", "tune", some, {"alpha": 1}, many, base),
        ("random_mixed", "tune", some, {"alpha": 0.7}, many, base),
        ("share_of_sequences", "tune", plain + ["--share", share], {"alpha": 1}, many, base),
        ("rare", "tune", ["--supervise", f"rare:{share}", *table], {"alpha": 1}, one, base),
        ("top_loss", "tune_top_loss", plain, {"share": share}, one, base),
        ("full_slow", "tune", plain, {"alpha": 0, "rate": 3e-5}, one, base),
        ("only_slow", "tune", own, {"alpha": 1, "rate": 3e-5}, one, base),
        ("mixed_slow", "tune", own, {"alpha": 0.7, "rate": 3e-5}, one, base),
        ("full_shuffled", "tune", plain + ["--shuffle-tokens"], {"alpha": 0}, one, base),
        ("only_shuffled", "tune", own + ["--shuffle-tokens"], {"alpha": 1}, one, base),
        ("full_from_start", "tune", plain, {"alpha": 0}, one, start),
        ("only_from_start", "tune", own, {"alpha": 1}, one, start),
        ("mixed_from_start", "tune", own, {"alpha": 0.7}, one, start),
    ]
    return {name: [arm(study, task, name, block, flags, sets, seed, init) for seed in seeds]
            for name, block, flags, sets, seeds, init in rows}


def coupling(study):
    """Gamma of the base at three moments: entities and a random split of the same share, real and shuffled."""
    train_file, _, spans, _ = TASKS["news"]
    share = round(share_of(study, "news"), 4)
    found = {}
    for moment in ("base_start", "base_early", "base"):
        for split, how in (("entities", spans), ("random", f"random:{share}")):
            for text in ("real", "shuffled"):
                flags = ["--supervise", how, "--format", "tsv", "--batches", study.size["batches"], "--json",
                         "--tokenizer", study.tokenizer()] + (["--shuffle-tokens"] if text == "shuffled" else [])

                def make():
                    import json
                    return json.loads(study.cherry("couple", "--train", "tune", "--weights", study.weights(moment),
                                                   "--data", study.data(train_file), *flags))

                name = f"couple_{moment}_{split}_{text}"
                found[moment, split, text] = study.result(name, make)
    return found


def repetition(text, length=4):
    """Share of runs of `length` characters that came before in the same text."""
    runs = [text[i:i + length] for i in range(len(text) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def generation(study, names):
    """Free samples of each arm: repetition, and their loss under the base."""
    found = {}
    for name in names:
        def make():
            weights = study.weights("base") if name == "base" else study.weights(f"news_{name}_1")
            texts = [study.cherry("generate", "--train", "tune", "--weights", weights, "--prompt", "영화", "--tokens",
                                  60, "--seed", seed, "--tokenizer", study.tokenizer())
                     for seed in range(1, study.size["samples"] + 1)]
            path = os.path.join(study.work, f"samples_{name}.txt")
            with open(path, "w") as file:
                file.write("".join(texts))
            loss = study.evaluate(study.weights("base"), "base", path)["loss"]
            return {"repetition": sum(map(repetition, texts)) / len(texts), "base_loss": loss, "sample": texts[0]}

        found[name] = study.result("generate_" + name, make)
    return found
