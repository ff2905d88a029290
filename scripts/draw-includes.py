#!/usr/bin/env python3
"""Draws who includes whom, by rooms, into docs/architecture.md (between the marks "includes: drawn" and "includes: end").

  scripts/draw-includes.py           writes the drawing
  scripts/draw-includes.py --check   exit code 1 when the page shows another one (part of `make test`)

A room's row: its files, its lines, the longest file, and the rooms whose headers it includes with how many includes.
"""
import collections
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
page = root / "docs/architecture.md"
begin, end = "<!-- includes: drawn by scripts/draw-includes.py -->\n", "<!-- includes: end -->\n"
sources = (".cpp", ".h", ".inc", ".cu", ".cuh")


def rooms():
    for folder in sorted((root / "src").iterdir()):
        if folder.is_dir():
            yield folder.name, sorted(p for p in folder.rglob("*") if p.suffix in sources)


def drawing():
    lines, arrows = [], collections.Counter()
    table = ["| room | files | lines | longest file | includes |", "|---|---:|---:|---|---|"]
    for room, files in rooms():
        count, longest, used = 0, (0, ""), collections.Counter()
        for path in files:
            text = path.read_text(encoding="utf-8")
            n = text.count("\n")
            count += n
            longest = max(longest, (n, str(path.relative_to(root / "src" / room))))
            for other in re.findall(r'^\s*#\s*include\s+"(\w+)/', text, re.M):
                if other != room:
                    used[other] += 1
        for other, n in used.items():
            arrows[room, other] = n
        table.append(f"| `{room}/` | {len(files)} | {count:,} | {longest[1]} ({longest[0]}) | " +
                     (", ".join(f"{other} {n}" for other, n in used.most_common()) or "nothing") + " |")
    lines.append("```mermaid\ngraph TD")
    lines += [f"    {room} -->|{n}| {other}" for (room, other), n in sorted(arrows.items())]
    lines.append("```\n")
    return "\n".join(lines + table) + "\n"


text = page.read_text(encoding="utf-8")
head, rest = text.split(begin, 1)
old, tail = rest.split(end, 1)
new = "\n" + drawing() + "\n"
if "--check" in sys.argv:
    strip = lambda s: re.sub(r"[\d,]+|\(.*?\)", "", "\n".join(l for l in s.splitlines() if "-->" in l))
    if strip(old) != strip(new):
        sys.exit("docs/architecture.md shows other arrows than the sources have: run scripts/draw-includes.py")
    print("the drawing shows the arrows that the sources have")
else:
    page.write_text(head + begin + new + end + tail, encoding="utf-8")
