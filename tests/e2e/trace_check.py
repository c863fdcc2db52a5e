#!/usr/bin/env python3
"""Checks a timeline that `lockstep train --trace` wrote (docs/formats/trace.md).

usage: trace_check.py FILE --ranks N [--steps N] [--category NAME…] [--most-mb N]
"""

import argparse
import collections
import json
import os
import sys

# Rounding of microseconds to three decimals, at both ends of a span.
ROUNDING = 0.002


def spans(events):
    """By (rank, thread): (begin, end, event) of complete events, the outermost first."""
    found = collections.defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            found[event["pid"], event["tid"]].append(
                (event["ts"], event["ts"] + event["dur"], event))
    for each in found.values():
        each.sort(key=lambda span: (span[0], -span[1]))
    return found


def check_nesting(events):
    for (rank, thread), each in spans(events).items():
        around = []
        for begin, end, event in each:
            while around and begin >= around[-1][1] - ROUNDING:
                around.pop()
            assert not around or end <= around[-1][1] + ROUNDING, (
                f"rank {rank}, thread {thread}: {event} ends after {around[-1][2]}")
            around.append((begin, end, event))


def check_collectives(events, ranks):
    """Each collective is on all ranks, and ends nowhere before it has begun on all of them."""
    calls = collections.defaultdict(dict)
    for event in events:
        if event.get("cat") == "comm" and event["args"]["ranks"] == ranks:
            if event["name"] in ("send", "recv"):
                continue
            key = event["args"]["group"], event["args"]["sequence"], event["name"]
            calls[key].setdefault(event["pid"], event)
    assert calls, "no collective"
    # Ranks begin and end to record at slightly different calls.
    whole = {key: by_rank for key, by_rank in calls.items() if len(by_rank) == ranks}
    partial = [key[1] for key in calls if key not in whole]
    assert whole, f"no collective is on all {ranks} ranks"
    numbers = [key[1] for key in whole]
    inside = [n for n in partial if min(numbers) < n < max(numbers)]
    assert not inside, f"collectives {inside} are not on all ranks"
    for key, by_rank in whole.items():
        begun = max(event["ts"] for event in by_rank.values())
        for event in by_rank.values():
            assert event["ts"] + event["dur"] >= begun - ROUNDING, (
                f"{key} ended on rank {event['pid']} before it began everywhere: {by_rank}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("file")
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--category", nargs="*", default=[])
    parser.add_argument("--most-mb", type=float)
    args = parser.parse_args()
    with open(args.file, encoding="utf-8") as text:
        events = json.load(text)["traceEvents"]
    ranks = {event["pid"] for event in events if event["ph"] != "M"}
    assert len(ranks) == args.ranks, f"expected {args.ranks} ranks, got {sorted(ranks)}"
    check_nesting(events)
    if args.ranks > 1:
        check_collectives(events, args.ranks)
    for rank in ranks:
        steps = {event["args"]["step"] for event in events
                 if event.get("cat") == "step" and event["pid"] == rank}
        assert args.steps is None or len(steps) == args.steps, f"rank {rank}: steps {sorted(steps)}"
        seen = {event.get("cat") for event in events if event["pid"] == rank}
        for category in args.category:
            assert category in seen, f"rank {rank} has no event of category {category}"
    if args.most_mb is not None:
        size = os.path.getsize(args.file)
        assert size <= args.most_mb * 1e6, f"{size} bytes"


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
