"""Compiles the examples in the comments at the top of include/attnscope/*.h, each as the body of a function, and each header alone;
with -Wextra, as programs that use them have it. Nothing is linked.

  python3 tests/installed/header_examples.py CXX CC
"""
import pathlib
import re
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parents[2]
headers = sorted((root / "include/attnscope").glob("*.h"))
assert len(headers) > 15, "these are not the headers"
flags = ["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused", "-I", str(root / "include")]

# What an example may take for granted.
given = """
#include <cstdio>
#include <memory>
#include <vector>
using namespace attnscope;
extern Result<std::unique_ptr<Session>> session;
extern std::vector<int32_t> tokens;
// structs are filled by naming some fields
inline const SessionOptions session_options{.n_ctx = 1};
inline const GenerateOptions generate_options{.n_predict = 1};
inline const SamplingOptions sampling_options{.temperature = 0};
inline const VerifyOptions verify_options{.proofs = 1};
inline const WriterOptions writer_options{.overwrite = true};
inline const ViewOptions view_options{.n_prompt = 1};
inline const MapRequest map_request{.each_row = true};
"""


def examples(header):
    """Blocks of lines that are indented in the header's first comment and hold code."""
    text = header.read_text(encoding="utf-8")
    comment = re.match(r"(//.*\n)+", text) or re.match(r"/\*.*?\*/", text, re.S)
    block = []
    for line in comment[0].splitlines() + [""]:
        code = re.match(r"(?://| \*)   (.*)", line)
        if code:
            block.append(code[1])
        elif block:
            if re.search(r"\bauto \w+ = |^attnscope_\w+\* ", "\n".join(block), re.M):
                yield "\n".join(block)
            block = []


def compile(compiler, language, standard, source, what):
    done = subprocess.run([compiler, *flags, f"-std={standard}", "-x", language, "-"], input=source, text=True, capture_output=True)
    if done.returncode:
        print(f"{what} does not compile:\n{source}\n{done.stderr}")
    return done.returncode == 0


good, n = True, 0
cpp = "".join(f"#include <attnscope/{h.name}>\n" for h in headers) + given
for header in headers:
    for code in examples(header):
        n += 1
        if header.name == "attnscope.h":
            source = f"#include <attnscope/attnscope.h>\n#include <stdio.h>\nint example(void) {{\n{code}\nreturn 0;\n}}\n"
            good &= compile(sys.argv[2], "c", "c11", source, f"the example of {header.name}")
        else:
            cpp += f"namespace example_{n} {{ inline void example() {{ // {header.name}\n{code}\n}} }}\n"
good &= compile(sys.argv[1], "c++", "c++20", cpp, "some example of a header")
for header in headers:
    good &= compile(sys.argv[1], "c++", "c++20", f"#include <attnscope/{header.name}>\n", f"{header.name} alone")
assert n >= 7, f"only {n} examples were found"
if good:
    print(f"{n} examples and {len(headers)} headers compile")
sys.exit(0 if good else 1)
