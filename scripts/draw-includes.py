#!/usr/bin/env python3
"""Draws who includes whom, by rooms, into docs/architecture.md (between the marks "includes: drawn" and "includes: end").

  scripts/draw-includes.py           writes the drawing
  scripts/draw-includes.py --check   exit code 1 when the page shows another one (part of `make test`)

A room's row: its files, its lines, the longest file, and the rooms whose headers it includes with how many includes.
"""
import collections
import functools
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
page = root / "docs/architecture.md"
begin, end = "<!-- includes: drawn by scripts/draw-includes.py -->\n", "<!-- includes: end -->\n"
sources = (".cpp", ".h", ".inc", ".cu", ".cuh")


@functools.cache
def public_headers():
    """The room that implements each header of include/attnscope/; none for those that all rooms share. As the page says it."""
    table = page.read_text(encoding="utf-8").split("| header | room |", 1)[1].split("\n\n", 1)[0]
    lead = {}
    for headers, room in re.findall(r"^\| (`\w+\.h`[^|]*) \| ([^|]*) \|", table, re.M):
        for header in re.findall(r"`(\w+\.h)`", headers):
            lead[header] = room.strip("`/") if room.startswith("`") else None
    there = {p.name for p in (root / "include/attnscope").glob("*.h")}
    if set(lead) != there:
        sys.exit(f"docs/architecture.md does not say, or says for nothing, to which room these lead: {sorted(set(lead) ^ there)}")
    return lead


def included_rooms(text, room):
    """The other rooms that a file of `room` includes headers of, once an include, and the line of each."""
    lead = public_headers()
    for line, include in enumerate(text.splitlines(), 1):
        own = re.match(r'\s*#\s*include\s+"(\w+)/', include)
        public = re.match(r"\s*#\s*include\s+<attnscope/(\w+\.h)>", include)
        other = own[1] if own else lead.get(public[1]) if public else None
        if other and other != room:
            yield line, other


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
            for _, other in included_rooms(text, room):
                used[other] += 1
        for other, n in used.items():
            arrows[room, other] = n
        table.append(f"| `{room}/` | {len(files)} | {count:,} | {longest[1]} ({longest[0]}) | " +
                     (", ".join(f"{other} {n}" for other, n in used.most_common()) or "nothing") + " |")
    lines.append("```mermaid\ngraph TD")
    lines += [f"    {room} -->|{n}| {other}" for (room, other), n in sorted(arrows.items())]
    lines.append("```\n")
    return "\n".join(lines + table) + "\n"


def main():
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


if __name__ == "__main__":
    main()
