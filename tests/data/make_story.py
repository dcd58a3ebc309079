#!/usr/bin/env python3
"""Writes story.txt: plain English-looking text from a small grammar, the same on every machine. It is what
whole-run tests train on; regular enough that a model of a few thousand parameters learns from it.

    python3 tests/data/make_story.py > tests/data/story.txt
"""
PEOPLE = "the miller,the old fisherman,a young sailor,the baker,her sister,the gardener,a tired clerk,the widow".split(",")
THINGS = "a lantern,the red boat,some bread,a heavy key,the blue cup,an empty basket,a letter,the broken clock".split(",")
PLACES = "by the river,under the bridge,in the market,near the mill,on the hill,behind the church,at the harbour".split(",")
VERBS = "carried,found,lost,mended,wanted,sold,watched,remembered".split(",")
TIMES = "In the morning,At noon,Before the rain,Late in the evening,On the second day,That winter".split(",")
SAID = ["I will not wait any longer", "the water is rising", "there is nothing left to sell", "we should go home",
        "you may keep it", "nobody has seen the road", "it was here yesterday"]
SIZE = 24000

state = 12345


def pick(items):
    global state
    state = (state * 1103515245 + 12345) % 2**31
    return items[(state >> 16) % len(items)]


def sentence():
    kind = pick([0, 0, 1, 2])
    if kind == 0:
        return f"{pick(TIMES)} {pick(PEOPLE)} {pick(VERBS)} {pick(THINGS)} {pick(PLACES)}."
    if kind == 1:
        return f"\"{pick(SAID).capitalize()},\" said {pick(PEOPLE)}."
    return f"{pick(PEOPLE).capitalize()} {pick(VERBS)} {pick(THINGS)}, and {pick(PEOPLE)} {pick(VERBS)} {pick(THINGS)}."


def main():
    text = ""
    while len(text) < SIZE:
        text += " ".join(sentence() for _ in range(pick([2, 3, 4]))) + "\n\n"
    print(text.rstrip())


main()
