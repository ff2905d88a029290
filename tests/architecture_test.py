"""Holds every include of src/, those of public headers among them, against the arrows that docs/architecture.md draws.

  python3 tests/architecture_test.py [SOURCE_DIR]

The table under "## Arrows" of that page has a row a room: what it is, and the rooms that it may include. Exit code 1 and a
line for each include without an arrow, each arrow that no include uses, each room without a row, and each cycle.
"""
import importlib.util
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
page = (root / "docs/architecture.md").read_text(encoding="utf-8").split("## Arrows", 1)[1]
page = re.split(r"\n## |<!-- includes: drawn", page)[0]
spec = importlib.util.spec_from_file_location("draw_includes", root / "scripts/draw-includes.py")
draw_includes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw_includes)
allowed = {}
for room, may in re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|", page, re.M):
    allowed[room] = set(re.findall(r"`(\w+)/`", may))
used = {room: set() for room in allowed}
wrong = []
files = [p for p in (root / "src").rglob("*") if p.suffix in (".cpp", ".h", ".inc", ".cu", ".cuh")]
assert len(files) > 100, "these are not the sources"
for path in files:
    room = path.relative_to(root / "src").parts[0]
    if room not in allowed:
        wrong.append(f"src/{room}/ has no row in docs/architecture.md")
        continue
    for line, other in draw_includes.included_rooms(path.read_text(encoding="utf-8"), room):
        used[room].add(other)
        if other not in allowed[room]:
            wrong.append(f"{path.relative_to(root)}:{line}: {room}/ may not include {other}/")
for room, may in allowed.items():
    for unused in sorted(may - used[room]):
        wrong.append(f"docs/architecture.md: no file of {room}/ includes {unused}/; take the arrow away")
done, path = set(), []


def visit(room):
    if room in path:
        wrong.append("a circle: " + " -> ".join(path[path.index(room):] + [room]))
    elif room not in done:
        path.append(room)
        for other in sorted(allowed.get(room, ())):
            visit(other)
        path.pop()
        done.add(room)


for room in sorted(allowed):
    visit(room)
print("\n".join(sorted(set(wrong))) or f"{len(files)} files of {len(allowed)} rooms keep to the arrows")
sys.exit(1 if wrong else 0)
