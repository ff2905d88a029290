"""Holds what the pages name against the tree: links and their headings, files, verbs, targets of make, presets; and that the messages
of docs/errors.md are said somewhere in src/.

  python3 tests/documents_test.py [SOURCE_DIR]

Exit code 1 and a line for each that is not there.
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
assert len(pages) > 20, "these are not the pages"
text = {page: page.read_text(encoding="utf-8") for page in pages}
folders = "src|include|docs|tests|bench|scripts|examples|python|cmake|web/src"
wrong = []


def said(page, what):
    wrong.append(f"{page.relative_to(root)}: {what}")


def headings(page):
    marks = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", mark.lower()).strip().replace(" ", "-") for mark in marks}


literal = r'"(?:[^"\\\n]|\\.)*"'


def sources():
    """Each file of the program without comments, with adjacent literals joined."""
    files = [p for top in ("src", "include") for p in (root / top).rglob("*") if p.suffix in (".cpp", ".h")]
    for path in files:
        yield re.sub(r'"\s*"', "", re.sub(r"^\s*//.*", "", path.read_text(encoding="utf-8"), flags=re.M))


def statements(code):
    """The literals of each statement, a tuple a statement."""
    spoken = []
    for token in re.findall(literal + "|;", code):
        if token != ";":
            spoken.append(token[1:-1])
        elif spoken:
            yield tuple(spoken)
            spoken = []


def says(spoken, parts):
    """Are the parts there in order, each whole in a literal?"""
    text, at = "\0".join(spoken), 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


everything = "\n".join(sources())
said_in_src = {spoken for code in sources() for spoken in statements(code)}
verbs = set(re.findall(r'add_subcommand\("([\w-]+)"', everything))
targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.M)) | {"asan", "tsan", "clang"}
presets = set(re.findall(r'"name": "([\w-]+)"', (root / "CMakePresets.json").read_text()))
assert len(verbs) > 10 and len(targets) > 10 and len(presets) > 3

for page in pages:
    for link, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text[page]):
        if link.startswith(("http://", "https://")):
            continue
        to = (page.parent / link).resolve() if link else page
        if not to.exists():
            said(page, f"no file {link}")
        elif heading and to.suffix == ".md" and heading not in headings(to):
            said(page, f"no heading #{heading} in {link or 'the page'}")
    code = re.findall(r"`([^`\n]+)`", text[page]) + re.findall(r"^```[a-z]*\n(.*?)^```", text[page], re.M | re.S)
    for piece in code:
        for path in re.findall(rf"(?<![\w./{{}}$~<-])(?:{folders})/[\w./-]*\w", piece):
            if path.startswith("tests/test-"):  # the engine's own
                continue
            if not re.search(r"[A-Z]{4}", path) and not list(root.glob(path)) and not list(root.glob(path + ".*")):
                said(page, f"no file {path}")
        for verb in re.findall(r"(?:^|\n|&& |\$ |bin/)attnscope ([a-z]+)\b(?!/)", piece):  # bin/attnscope FOLDER/... is an argument
            if verb not in verbs:
                said(page, f"no verb {verb}")
        for target in re.findall(r"(?:^|\n|&& )make ([a-z-]+)\b", piece):
            if target not in targets:
                said(page, f"no target of make {target}")
        for preset in re.findall(r"cmake (?:--build )?--preset (\w+)", piece):
            if preset not in presets:
                said(page, f"no preset {preset}")

for row in re.findall(r"^\| (.*?) \|", text[root / "docs/errors.md"], re.M):
    for message in re.findall(r"`([^`]+)`", row):
        parts = [p for p in (p.strip() for p in re.split(r"…|\b[NM]\b", message)) if len(p) > 1]
        if parts and not any(says(spoken, parts) for spoken in said_in_src):
            said(root / "docs/errors.md", f"nothing says \"{message}\"")
print("\n".join(wrong) or f"{len(pages)} pages name what there is")
sys.exit(1 if wrong else 0)
