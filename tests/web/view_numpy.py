"""Every number that the page is given, against NumPy in float64 and against `attnscope show`, on a real recording.

  python3 view_numpy.py ATTNSCOPE [RECORDING]
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

import numpy as np

binary = sys.argv[1]
work = pathlib.Path(tempfile.mkdtemp())
recording = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else work / "r.attn"
if len(sys.argv) <= 2:
    prompt = ("Anna keeps bees in Oslo. Boris bakes bread in Lisbon. Chen repairs clocks in Kyoto. Anna keeps bees in Oslo. "
              "Boris bakes bread in Lisbon. Who repairs clocks, and in which city?")
    subprocess.run([binary, "capture", "-m", "smollm2", "--chat", "--temp", "0", "-n", "24", "-p", prompt, "-o", recording],
                   check=True, capture_output=True)
subprocess.run([binary, "export", recording, "--to", "npy", "--padded", "-o", work / "rows.npy"], check=True, capture_output=True)
rows = np.load(work / "rows.npy").astype(np.float64)  # (tokens, layers, heads, columns)
n, n_layer, n_head, _ = rows.shape

server = subprocess.Popen([binary, "view", str(recording), "--no-browser"], stdout=subprocess.PIPE, text=True)
try:
    base = server.stdout.readline().strip() + "api/"

    def ask(path):
        with urllib.request.urlopen(base + path) as answer:
            return answer.status, answer.read()

    def waited(path):  # 202: what is asked for is a pass that goes on
        while True:
            status, body = ask(path)
            if status != 202:
                return body
            time.sleep(0.1)

    def floats(path):
        return np.frombuffer(waited(path), dtype="<f4").astype(np.float64)

    def of_json(path):
        while True:
            status, body = ask(path)
            if status != 202:
                return json.loads(body)

    ids = np.array(of_json("tokens?r=0")["ids"])
    heads = of_json("heads?r=0")
    i = np.arange(1, n)
    a = rows[1:]  # rows of tokens 1 .. n - 1
    columns = np.arange(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(a > 0, a * np.log(a), 0).sum(-1)
    gap = i[:, None] - columns[None, :]
    distance = (a * gap[:, None, None, :]).sum(-1)
    seen = columns[None, :] <= i[:, None]
    earlier = np.zeros((n - 1, n), bool)  # j with t[j - 1] = t[i], j - 1 < i
    earlier[:, 1:] = ids[None, :-1] == ids[1:, None]
    earlier &= columns[None, :] - 1 < i[:, None]
    following = np.append(ids[2:], -2)
    copies = (ids[None, :] == following[:, None]) & seen

    def mean_where(mask):
        use = mask.any(1)
        return (a * mask[:, None, None, :]).sum(-1)[use].mean(0)

    expected = {
        "self": a[i - 1, :, :, i].mean(0), "previous": a[i - 1, :, :, i - 1].mean(0), "first": a[..., 0].mean(0),
        "local": (a * ((gap < 8) & seen)[:, None, None, :]).sum(-1).mean(0), "entropy": entropy.mean(0), "distance": distance.mean(0),
        "distance_variance": ((a * (gap ** 2)[:, None, None, :]).sum(-1) - distance ** 2).mean(0),
        "induction": mean_where(earlier), "retrieval": mean_where(copies),
    }
    for name, want in expected.items():
        got = np.array(heads["values"][name], dtype=np.float64).reshape(n_layer, n_head)
        worst = np.abs(got - want).max() / max(1.0, np.abs(want).max())
        print(f"{name:18} worst difference {worst:.1e}")
        assert worst < 2e-6, name

    # A head's row is show's to the last digit. show's means are free in their order of additions: within 1e-7, which prints as the same.
    for token, extra, query in ((n - 1, [], ""), (n // 2, ["--layer", "3"], "&layer=3"), (n - 2, ["--layer", "7", "--head", "2"], "&layer=7&head=2")):
        shown = json.loads(subprocess.run([binary, "show", recording, "--token", str(token), "--values", "--json", *extra], check=True,
                                          capture_output=True, text=True).stdout)["values"]
        for _ in range(2):  # from the file, then from memory
            got = floats(f"row?r=0&t={token}{query}")
            worst = np.abs(got - np.array(shown)).max()
            assert worst <= (0 if "--head" in extra else 1e-7), (token, extra, worst)
            floats("column?r=0&t=0")
    mean = rows.mean((1, 2))
    # A column's weight differs from the row's by what the scores of both differ, times itself: the products of a score are added up in
    # float32 in the engine's order for the row, in another for the denominator, and in float64 for the column. At worst that is a part of
    # 3 (64 + 2) 2^-24 A, A the largest scale * sum |q k| (derived in tests/view/recorded_test.cpp, column_bound): 1.2e-5 A. Roundings
    # nearly cancel, and no weight is above 1: 1.6e-6 was seen.
    def near(got, want, what):
        worst = np.abs(got - want).max()
        print(f"{what:24} worst difference {worst:.1e}")
        assert worst < 4e-6, what

    for token in (0, 5, n - 3):
        near(floats(f"column?r=0&t={token}"), mean[token:, token], f"column {token}")
        near(floats(f"column?r=0&t={token}&layer=2&head=1"), rows[token:, 2, 1, token], f"column {token} of a head")
        near(floats(f"column?r=0&t={token}&reduce=max"), rows[token:, :, :, token].max((1, 2)), f"column {token}, maximum")
    begin, end = n - 6, n - 2
    assert np.abs(floats(f"flow?r=0&begin={begin}&end={end}") - mean[begin - 1:end - 1, :end].mean(0)).max() < 1e-6
    v = np.zeros(n)
    v[begin - 1:end - 1] = 1 / (end - begin)
    for layer in reversed(range(n_layer)):
        v = 0.5 * v + 0.5 * v @ rows[:, layer].mean(1)
    assert np.abs(floats(f"rollout?r=0&begin={begin}&end={end}") - v[:end]).max() < 1e-6
    tile = np.frombuffer(waited("tile?r=0&level=0&x=0&y=0&layer=4&head=3"), dtype="<f2").astype(np.float64).reshape(256, 256, 2)
    m = min(n, 256)
    for k in (0, 1):
        assert np.abs(tile[:m, :m, k] - rows[:m, 4, 3, :m]).max() < 5e-4
    for token in (-1, n, 10 ** 9):
        try:
            ask(f"row?r=0&t={token}")
            raise AssertionError("a token that is not there was answered")
        except urllib.error.HTTPError as error:
            assert error.code in (400, 404), error.code
    print(f"{n} tokens x {n_layer} x {n_head} heads: rows equal show's, everything else equals NumPy's")
finally:
    server.terminate()
    assert server.wait(10) == 0

# An encoder and its decoder: metrics of each layer over its own text, those of places NaN in cross attention.
model, recording = work / "t5.gguf", work / "t5.attn"
subprocess.run([binary, "models", "make", "--arch", "t5", "--layers", "2", "-o", model], check=True, capture_output=True)
subprocess.run([binary, "capture", "-m", model, "-n", "30", "--ignore-eos", "--temp", "0", "-p", "one two three one two three " * 3, "-o", recording],
               check=True, capture_output=True)
subprocess.run([binary, "export", recording, "--to", "npy", "--padded", "-o", work / "t5.npy"], check=True, capture_output=True)
rows = np.load(work / "t5.npy").astype(np.float64)
n, n_layer, n_head, _ = rows.shape
server = subprocess.Popen([binary, "view", str(recording), "--no-browser"], stdout=subprocess.PIPE, text=True)
try:
    base = server.stdout.readline().strip() + "api/"
    told = of_json("tokens?r=0")
    ids, heads = np.array(told["ids"]), of_json("heads?r=0")
    roles = [layer["role"] for layer in of_json("info?r=0")["layers"]]
    assert sorted(set(roles)) == ["cross", "decoder", "encoder"], roles
    begin = int(np.flatnonzero(np.array(told["positions"]) == 0)[1])  # positions begin anew with the decoder
    for layer, role in enumerate(roles):
        own = range(begin) if role == "encoder" else range(begin, n)
        first = begin if role == "decoder" else 0
        looked_at = (np.arange(n) >= first) & (np.arange(n) < (n if role == "decoder" else begin))
        sums = {name: [] for name in heads["values"]}
        for i in own:
            if role != "cross" and i == own[0]:
                continue
            a, gap = rows[i, layer], i - np.arange(n)
            seen = looked_at & (gap >= 0)
            sums["first"].append(a[:, first])
            sums["entropy"].append(-np.where(a > 0, a * np.log(np.where(a > 0, a, 1)), 0).sum(-1))
            copies = seen & (ids == ids[i + 1]) if i + 1 < own[-1] + 1 else np.zeros(n, bool)
            if copies.any():
                sums["retrieval"].append(a[:, copies].sum(-1))
            if role == "cross":
                continue
            sums["self"].append(a[:, i])
            sums["previous"].append(a[:, i - 1])
            sums["local"].append(a[:, seen & (gap < 8)].sum(-1))
            distance = (a * gap).sum(-1)
            sums["distance"].append(distance)
            sums["distance_variance"].append((a * gap ** 2).sum(-1) - distance ** 2)
            earlier = np.append(False, looked_at[:-1] & (ids[:-1] == ids[i])) & seen
            if earlier.any():
                sums["induction"].append(a[:, earlier].sum(-1))
        for name, list_ in sums.items():
            got = heads["values"][name][layer * n_head:(layer + 1) * n_head]
            if list_:
                worst = np.abs(np.array(got, dtype=np.float64) - np.mean(list_, 0)).max() / max(1.0, np.abs(np.mean(list_, 0)).max())
                assert worst < 2e-6, (layer, role, name, worst)
            else:
                assert got == [None] * n_head, (layer, role, name, got)
        of_places = [name for name, list_ in sums.items() if not list_]
        assert role != "cross" or set(of_places) >= {"self", "previous", "local", "distance", "distance_variance", "induction"}
    for layer, role in enumerate(roles):
        detail = of_json(f"head?r=0&layer={layer}&head=0")
        assert (detail["distance"] == []) == (role == "cross"), (layer, role, detail["distance"])
    v = np.zeros(n)
    v[n - 6:n - 2] = 1 / 4
    for layer in reversed(range(n_layer)):  # tokens without rows in a layer pass by
        a = np.nan_to_num(rows[:, layer].mean(1))
        there = ~np.isnan(rows[:, layer]).any((1, 2))
        assert there[:begin].all() == (roles[layer] == "encoder") and there[begin:].any() != there[:begin].any()
        v = np.where(there, 0.5 * v, v) + 0.5 * np.where(there, v, 0) @ a
    assert np.abs(floats(f"rollout?r=0&begin={n - 5}&end={n - 1}") - v[:n - 1]).max() < 1e-6
    v, width = np.zeros(n), begin  # of the text, whose tokens look both ways: their own rows, and what lies behind them
    v[3:7] = 1 / 4
    for layer in reversed(range(n_layer)):
        if roles[layer] == "encoder":
            v = 0.5 * v + 0.5 * v[:width] @ rows[:width, layer].mean(1)
    got = floats("rollout?r=0&begin=3&end=7")
    assert len(got) == width and np.abs(got - v[:width]).max() < 1e-6 and abs(got.sum() - 1) < 1e-5
    own = rows[3:7][:, [role == "encoder" for role in roles]].mean((0, 1, 2))
    assert np.abs(floats("flow?r=0&begin=3&end=7") - own[:width]).max() < 1e-6
    column = floats("column?r=0&t=3&layer=0")
    assert np.isnan(column[width - 3:]).all() and np.abs(column[:width - 3] - rows[3:width, 0, :, 3].mean(-1)).max() < 4e-6
    print(f"T5, {n} tokens x {n_layer} x {n_head} heads: metrics of each text are NumPy's, none of places in cross attention")
finally:
    server.terminate()
    assert server.wait(10) == 0
