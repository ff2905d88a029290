"""Holds src/capture/ against its one table of ggml (src/capture/graph/ggml_abi.h): no other file of the room may read a field of a
tensor, name an operation by ggml's number or call a function of ggml.

  python3 tests/ggml_table_test.py [SOURCE_DIR]

Exit code 1 and a line for each place that does.
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
room = root / "src/capture"
# the table itself, and what defines two functions of ggml for our own programs
exempt = {"graph/ggml_abi.h", "graph/ggml_abi.cpp", "graph/interpose.cpp"}
forbidden = [
    (r"->\s*(ne|nb|src|op_params)\s*\[", "reads a field of a tensor"),
    (r"->\s*(view_src|view_offs|flags|op|type|buffer|data|extra|name)\b(?!\s*\()", "reads a field of a tensor"),
    (r"\bGGML_(OP|UNARY_OP|TENSOR_FLAG|BACKEND_DEVICE_TYPE|BACKEND_BUFFER_USAGE)_\w+", "has a number of ggml's"),
    (r"(?<![\w.])ggml_(?!status\b)[a-z0-9_]+\s*\((?!\*)", "calls a function of ggml"),
    (r"#\s*include\s+<(ggml-cpp|ggml-cpu|ggml-impl|ggml-backend-impl)\.h>", "includes more of ggml than names"),
]
places = {"->ne[0]": 1, "t->op;": 1, "t->data + 4": 1, "vector->data()": 0, "= GGML_OP_ROPE;": 1,
          "ggml_nbytes(t)": 1, "ggml().nbytes(t)": 0, "ggml_tensor* t": 0, "ggml()": 0, "real<ggml_status (*)(x)>": 0}
for text, n in places.items():  # the patterns find what they are for
    assert sum(bool(re.search(p, text)) for p, _ in forbidden) == n, text
wrong = []
files = [p for p in sorted(room.rglob("*")) if p.suffix in (".cpp", ".h", ".cu", ".cuh")]
assert len(files) > 40, "these are not the sources"
for path in files:
    if str(path.relative_to(room)) in exempt:
        continue
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        code = text.split("//")[0]
        wrong += [f"{path.relative_to(root)}:{line}: {why}" for pattern, why in forbidden if re.search(pattern, code)]
print("\n".join(wrong) or f"{len(files)} files read ggml through the table")
sys.exit(1 if wrong else 0)
