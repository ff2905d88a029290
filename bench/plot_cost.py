#!/usr/bin/env python3
"""Cost against context, from the JSON of `attnscope bench --json`, `bench_field_way --json` and transformers_way.py.

  bench/plot_cost.py -o docs/images/cost_vs_context.svg [--title TEXT] FILE.json ...

Prints the figures as a table, and draws two panels: each way's time per token over its own engine's plain run, and the
milliseconds themselves. A file that is missing or holds no figures is named and left out. Without matplotlib the table
is printed all the same."""
import argparse, json, sys

# way: what the line says, its colour (distinct in black and white too)
WAYS = {
    "attnscope": ("attnscope: all of Q and K, to disk", "#0b6e4f"),
    "field": ("llama.cpp, callback per layer", "#c44900"),
    "transformers": ("transformers, eager, output_attentions", "#5b3e96"),
}
PLAIN = {"attnscope": "llama.cpp, plain", "field": None, "transformers": "transformers, plain (sdpa)"}


def load(paths):
    found = []
    for path in paths:
        try:
            with open(path) as f:
                data = json.load(f)
            runs = [r for r in data["runs"] if r["ratio"]["median"] > 0]
            if data["way"] in WAYS and runs:
                found.append((data["way"], data, sorted(runs, key=lambda r: r["context"])))
                continue
            print(f"{path}: no figures in it", file=sys.stderr)
        except (OSError, ValueError, KeyError, TypeError) as e:
            print(f"{path}: left out ({type(e).__name__}: {e})", file=sys.stderr)
    return found


def print_table(found):
    print(f"{'way':<13} {'context':>7} {'plain ms':>9} {'ms':>8}  ratio (quartiles; 95% sure)")
    for way, _, runs in found:
        for r in runs:
            q = r["ratio"]
            sure = f"; {q['sure_low']:.3f}-{q['sure_high']:.3f}" if "sure_low" in q else ""
            line = (f"{way:<13} {r['context']:>7} {r['plain_ms']:>9.2f} {r['capturing_ms']:>8.2f}  "
                    f"{q['median']:.3f} ({q['low']:.3f}-{q['high']:.3f}{sure})")
            if "at_most" in r:
                line += f", all told {r['at_most']:.3f}"
                line += f", memory +{r['memory_bytes'] / 1e6:.0f} MB, device +{r['device_bytes'] / 1e6:.0f} MB"
                line += f", prompt {r['prompt_ratio']['median']:.3f}"
            if "ratio_no_flash" in r:
                line += f"; flash attention off alone {r['ratio_no_flash']['median']:.3f}"
            print(line)


def label(ax, x, y, text, colour):
    """At the end of its line: no legend to look up."""
    ax.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", color=colour, va="center", fontsize=8)


def spread_labels(ys, gap):
    """Moves labels apart (in log units) until none covers another; order is kept."""
    order = sorted(range(len(ys)), key=lambda i: ys[i])
    placed = list(ys)
    for a, b in zip(order, order[1:]):
        placed[b] = max(placed[b], placed[a] + gap)
    return placed


def draw(found, path, title):
    import math
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "attnscope"  # the same figures give the same file
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullLocator

    lines = [[], []]  # panel: (xs, ys, lows, highs, text, colour, style)
    for way, _, runs in found:
        text, colour = WAYS[way]
        xs = [r["context"] for r in runs]
        q = [r["ratio"] for r in runs]
        # A plain run that is slower than the one with attention is no measure of what attention costs.
        if q[-1]["median"] >= 1: lines[0].append((xs, [r["median"] for r in q], [r["low"] for r in q], [r["high"] for r in q],
                         f"{text}\n{(q[-1]['median'] - 1) * 100:+.1f}%", colour, "-"))
        if PLAIN[way]:
            lines[1].append((xs, [r["plain_ms"] for r in runs], None, None, PLAIN[way], colour, ":"))
        lines[1].append((xs, [r["capturing_ms"] for r in runs], None, None, text.split(",")[0].split(":")[0] +
                         {"attnscope": ", capturing", "field": ", callback per layer", "transformers": ", eager"}[way],
                         colour, "-"))
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), facecolor="white")
    heads = ("Time per token over the same engine's plain run", "Milliseconds per token")
    for ax, panel, head in zip(axes, lines, heads):
        ax.set_xscale("log")
        ax.set_yscale("log")
        for xs, ys, lows, highs, _, colour, style in panel:
            ax.plot(xs, ys, style, color=colour, marker="o", markersize=3.5, linewidth=1.6)
            if lows:
                ax.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
        everything = [y for line in panel for y in line[1]]
        span = math.log10(max(everything) / min(everything)) or 0.1
        ends = spread_labels([math.log10(line[1][-1]) for line in panel], span * (0.13 if ax is axes[0] else 0.075))
        for line, y in zip(panel, ends):
            label(ax, line[0][-1], 10 ** y, line[4], line[5])
        ticks = sorted({x for line in panel for x in line[0]})
        ax.set_xticks(ticks)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        low, high = min(everything), max(everything)
        steps = [1, 1.5, 2, 3, 4, 6, 8] if ax is axes[0] else [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]
        ax.set_yticks([s for s in steps if low * 0.9 <= s <= high * 1.2])
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.set_title(head, fontsize=10, loc="left")
        ax.set_xlabel("positions of context", fontsize=9)
        ax.tick_params(labelsize=8)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        ax.grid(axis="y", color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
    axes[0].axhline(1, color="#444444", linewidth=0.8)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.tight_layout(w_pad=1)
    # labels stand right of the axes: give them room
    figure.subplots_adjust(right=0.86, wspace=0.75)
    figure.savefig(path, format="svg", metadata={"Date": None})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="+")
    p.add_argument("-o", "--output", help="the SVG to write; without it, the table only")
    p.add_argument("--title", default="")
    a = p.parse_args()
    found = load(a.files)
    if not found:
        print("error: no figures in any of the files", file=sys.stderr)
        return 2
    if a.title:
        print(f"{a.title}, {found[0][1].get('devices', '')}")
    print_table(found)
    if a.output:
        try:
            draw(found, a.output, ", ".join(t for t in (a.title, found[0][1].get("devices", "").split(",")[0]) if t))
        except ImportError as e:
            print(f"no plot: {e}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
