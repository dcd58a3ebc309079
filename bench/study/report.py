"""The results as a page of tables with plots beside it: <work>/study.md."""
import os
from statistics import mean, pstdev

import plot

PAPER = {"recovered": 0.67, "efficiency": 4.5, "coupling": 0.72}


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def last(points, key):
    return points[-1][key]


def spread_text(values, form="{:.3f}"):
    if not values:
        return "-"
    text = form.format(mean(values))
    return text if len(values) == 1 else f"{text} (±{form.format(pstdev(values))})"


def recovered(arms, name, key, full="full"):
    """Share of the full arm's fall of the loss, seed by seed."""
    base = arms[full][0][0]
    start = base[key] if base["step"] == 0 else None
    if start is None:
        return []
    found = []
    for seed, points in enumerate(arms[name]):
        reference = arms[full][min(seed, len(arms[full]) - 1)]
        fall = start - last(reference, key)
        found.append((start - last(points, key)) / fall)
    return found


def selective_part(found, work):
    text = ["## A. Selective supervision\n",
            "Fine-tuning of the pretrained base; the loss is held-out, over all tokens, over the supervised kind "
            "(entities of news, answers of chat) and over the others. *Recovered*: the arm's fall of the loss by its "
            "last step, as a share of the full arm's. *Per supervised token*: recovered / share of the tokens that "
            f"are supervised. The paper reports {PAPER['recovered']:.0%} from 15 %: {PAPER['efficiency']}.\n"]
    for task, arms in found["arms"].items():
        share = found["shares"][task]
        rows = []
        for name in arms:
            # Arms with a rate or a text of their own are held against the full arm of the same kind.
            full = next((f"full_{end}" for end in ("slow", "shuffled", "from_start") if name.endswith(end)), "full")
            part = 1 if name.startswith("full") else share
            whole = recovered(arms, name, "loss", full)
            rows.append([name, f"{part:.1%}", spread_text([last(p, "loss") for p in arms[name]]),
                         spread_text([last(p, "loss_supervised") for p in arms[name]]),
                         spread_text([last(p, "loss_unsupervised") for p in arms[name]]),
                         spread_text(whole, "{:.2f}"),
                         spread_text(recovered(arms, name, "loss_unsupervised", full), "{:.2f}"),
                         spread_text([w / part for w in whole], "{:.2f}")])
        start = arms["full"][0][0]
        text.append(f"### {task}: {share:.1%} of the tokens are of the kind; start {start['loss']:.3f} "
                    f"({start['loss_supervised']:.3f} / {start['loss_unsupervised']:.3f})\n")
        text.append(table(["arm", "supervised", "loss", "of the kind", "others", "recovered", "recovered, others",
                           "per supervised token"], rows))
        shown = [name for name in ("full", "mixed", "only", "random", "random_mixed", "share_of_sequences")]
        series = {}
        for name in shown:
            steps = [point["step"] for point in arms[name][0]]
            values = [[points[i]["loss"] for points in arms[name]] for i in range(len(steps))]
            series[name] = (steps, [mean(v) for v in values], [pstdev(v) for v in values])
        plot.lines(os.path.join(work, f"study_{task}.svg"), f"{task}: held-out loss over all tokens", "step", "loss",
                   series)
        text.append(f"![{task}](study_{task}.svg)\n")
    rows = []
    for (moment, split, kind), result in found.get("coupling", {}).items():
        rows.append([moment, split, kind, *(f"{result[part]['mean']:.3f} (±{result[part]['deviation']:.3f})"
                                            for part in ("whole", "outside", "stacks"))])
    text.append("### Gradient coupling\n\ngamma between the gradients of supervised and other tokens, mean over "
                f"batches (± their deviation). The paper reports {PAPER['coupling']}.\n")
    text.append(table(["moment", "split", "text", "gamma, whole", "embedding and last norm", "blocks"], rows))
    rows = [[name, f"{result['repetition']:.3f}", f"{result['base_loss']:.3f}"]
            for name, result in found.get("generation", {}).items()]
    text.append("### Free generation\n\nRepetition: share of 4-character runs that came before in the same sample; "
                "loss: of the samples under the base.\n")
    text.append(table(["arm", "repetition", "loss under the base"], rows))
    return text


def plotted(work, part, title, results):
    plot.bars(os.path.join(work, f"study_{part}.svg"), title, "held-out loss; red: before further training",
              [(name, r.get("before"), r.get("after", r.get("loss"))) for name, r in results.items()])
    return f"\n![{part}](study_{part}.svg)\n"


def depth_part(found, work):
    rows = [[name, f"{r['before']:.3f}" if "before" in r else "", f"{r.get('after', r.get('loss')):.3f}",
             r.get("steps", ""), f"{r['flops'] / 1e6:.1f}" if "flops" in r else ""]
            for name, r in found["depth"].items()]
    return ["## B. Depth\n", table(["model", "loss before recovery", "loss", "steps from nothing", "MFLOP a token"],
                                   rows), plotted(work, "depth", "Depth", found["depth"])]


def fusion_part(found, work):
    rows = [[name, f"{r['before']:.3f}", f"{r['after']:.3f}", f"{r['flops'] / 1e6:.1f}" if "flops" in r else ""]
            for name, r in found["fusion"].items()]
    return ["## C. Fusion\n", table(["model", "loss before", "loss", "MFLOP a token"], rows),
            plotted(work, "fusion", "Fusion", found["fusion"])]


def heads_part(found):
    rows = [[name, f"{r['drafted']['acceptance']:.3f}", f"{r['drafted']['tokens_per_step']:.2f}", f"{r['plain']['tokens_per_second']:.0f}",
             f"{r['drafted']['tokens_per_second']:.0f}",
             f"{r['drafted']['tokens_per_second'] / r['plain']['tokens_per_second']:.2f}"]
            for name, r in found["heads"].items()]
    return ["## D. Several tokens at once\n",
            table(["model", "acceptance", "tokens a step", "tokens/s, plain", "tokens/s, drafted", "ratio"], rows)]


def write(work, found):
    text = [f"# The study, size {found['size']}\n"]
    rows = [[name, f"{r['loss']:.3f}"] for name, r in found["pretrain"].items()]
    text.append("## The base\n\n" + table(["moment", "held-out loss, reviews"], rows))
    for key, part in (("arms", lambda: selective_part(found, work)), ("depth", lambda: depth_part(found, work)),
                      ("fusion", lambda: fusion_part(found, work)), ("heads", lambda: heads_part(found))):
        if key in found:
            text += part()
    path = os.path.join(work, "study.md")
    with open(path, "w") as file:
        file.write("\n".join(text))
    print("wrote", path)
