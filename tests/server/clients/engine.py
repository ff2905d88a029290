"""Two servers of one model for the scripts beside this one: `attnscope serve`, and the llama-server that it starts, alone, with the very
arguments that it was started with. What they answer is compared but for what no two answers have in common."""
import glob
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

# Names and times of one answer, and what a process draws when it starts.
OWN = {"id", "created", "created_at", "completed_at", "timings", "media_marker"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """Of a stream of OpenAI's: what its data are."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [line if line.strip() == "[DONE]" else json.loads(line) for line in lines]

    @property
    def error(self):
        return self.json["error"]["message"]


def ask(base, method, path, body=None, headers={}):
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as e:
        return Answer(e.code, e.headers, e.read())


class Process:
    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self.process.args[0]} did not end")
        finally:
            if self.log:
                self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def get(self, path, headers={}):
        return ask(self.base, "GET", path, None, headers)

    def post(self, path, body, headers={}):
        return ask(self.base, "POST", path, body, headers)


class NoEngineServer(Exception):
    pass


class Serve(Process):
    """`attnscope serve` with a folder of recordings."""

    def __init__(self, program, model, folder, *more):
        self.program, self.folder = program, folder
        os.makedirs(folder, exist_ok=True)
        self.log = open(os.path.join(folder, "said.txt"), "w")
        argv = [program, "serve", "-m", model, "--port", "0", "-t", "1", "--record", folder, *more]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.base = next((word for line in self.process.stdout for word in line.split() if word.startswith("http://")), None)
        if self.base is None:
            self.end()
            said = open(self.log.name).read()
            raise NoEngineServer(said) if "no llama-server" in said else AssertionError(said)

    def engine_arguments(self):
        """Of the llama-server that it started."""
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(path) as stat, open(os.path.dirname(path) + "/cmdline") as line:
                    parent, words = int(stat.read().rsplit(")", 1)[1].split()[1]), line.read().split("\0")[:-1]
            except (OSError, IndexError):
                continue  # it has ended
            if parent == self.process.pid and "--port" in words:
                return words
        raise AssertionError("the engine's server is not its child")

    def recordings(self):
        return sorted(glob.glob(self.folder + "/*.attn"))

    def rows(self, name, sequence):
        """Of a line of a recording, once it is whole: {index: (layers, heads, columns)}."""
        import numpy
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([self.program, "export", os.path.join(self.folder, name), "--sequence", str(sequence), "--to", "npy",
                            "-o", out + "/rows"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return {int(file[6:-4]): numpy.load(f"{out}/rows/{file}") for file in os.listdir(out + "/rows") if file.startswith("token_")}


class Stock(Process):
    """The llama-server of `serve` without us, and with the same arguments."""

    def __init__(self, serve):
        argv = serve.engine_arguments()
        port = str(free_port())
        argv[argv.index("--port") + 1] = port
        self.base, self.log = f"http://127.0.0.1:{port}", None
        env = {name: value for name, value in os.environ.items() if name != "LLAMA_API_KEY"}
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        until = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < until:
            try:
                if self.get("/health").status == 200:
                    return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.05)
        self.end()
        raise AssertionError(f"{argv[0]} does not answer")


def plain(value, without=OWN):
    """What is left of an answer without what is its own."""
    if isinstance(value, dict):
        return {name: plain(one, without) for name, one in value.items() if name not in without}
    return [plain(one, without) for one in value] if isinstance(value, list) else value


def assert_same(ours, theirs, what="", without=OWN):
    a, b = plain(ours, without), plain(theirs, without)
    assert a == b, f"{what}: ours {json.dumps(a)[:1500]}\nstock's {json.dumps(b)[:1500]}"


# Headers that say what an answer is; the rest is of the connection.
TELLING = ["Content-Type"]


def assert_same_answer(ours, theirs, what="", without=OWN):
    assert ours.status == theirs.status, f"{what}: ours {ours.status} {ours.body[:500]}, stock's {theirs.status} {theirs.body[:500]}"
    for name in TELLING:
        assert ours.headers[name] == theirs.headers[name], f"{what}: {name} {ours.headers[name]}, stock's {theirs.headers[name]}"
    kind = ours.headers["Content-Type"] or ""
    if kind.startswith("text/event-stream"):
        assert_same(ours.events, theirs.events, what, without)
    elif kind.startswith("application/json"):
        assert_same(ours.json, theirs.json, what, without)
    else:
        assert ours.body == theirs.body, f"{what}: other bytes"
