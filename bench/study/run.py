#!/usr/bin/env python3
"""The study of docs/study.md in one command:

    python3 bench/study/run.py --cherry build/cherry --data DATA --work WORK [--size small|gpu|tiny] [--parts A,B,C,D]

DATA holds ko_reviews_{train,valid}.txt, ko_news_{train,valid}.tsv, ko_chat_{train,valid}.tsv. Every result is kept in
WORK/results; a run that was stopped goes on where it was. The last step writes WORK/study.md and its plots."""
import argparse

import depth
import report
import selective
import study

GENERATED = ["base", "full", "only", "mixed", "random", "random_mixed", "rare", "top_loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cherry", default="build/cherry")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--size", default="small", choices=study.SIZES)
    parser.add_argument("--parts", default="A,B,C,D")
    options = parser.parse_args()
    runs = study.Study(options.cherry, options.data, options.work, options.size)
    parts = options.parts.split(",")
    found = {"size": options.size, "pretrain": selective.pretrain(runs)}
    if "A" in parts:
        found["shares"] = {task: selective.share_of(runs, task) for task in selective.TASKS}
        found["arms"] = {task: selective.arms(runs, task) for task in selective.TASKS}
        found["coupling"] = selective.coupling(runs)
        found["generation"] = selective.generation(runs, GENERATED)
    if "B" in parts:
        found["depth"] = depth.depth(runs)
    if "C" in parts:
        found["fusion"] = depth.fusion(runs)
    if "D" in parts:
        found["heads"] = depth.heads(runs)
    report.write(options.work, found)


if __name__ == "__main__":
    main()
