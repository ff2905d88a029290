#!/usr/bin/env python3
"""Kills captures at random moments and checks that nothing reported as recorded is lost.

  bench/kill_capture.py build/bin/attnscope [times] [seed]

Each run captures with a small synthetic model and --commits and dies by SIGKILL at a random moment. In turns:
  alone   what is left must open, be incomplete (unless the capture had ended), hold at least the last reported number of tokens,
          and verify;
  two     two captures with --force to one name: one is refused or waits for none, and the above holds of the other;
  moved   the file is moved while it is written, and another, complete recording comes to its name, where the log still lies: each
          file must be what it was, and neither must be read with the other's log."""
import collections, json, os, random, shutil, signal, subprocess, sys, tempfile, time

ENDS = ("", "-wal", "-shm", "-journal")


class Kills:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.env = dict(os.environ, OMP_WAIT_POLICY="passive")
        self.model, self.whole = self.at("m.gguf"), self.at("whole.attn")
        self.quiet([binary, "models", "make", "--arch", "llama", "--layers", "4", "-o", self.model])
        self.quiet([binary, "capture", "-m", self.model, "-p", "e f g", "-n", "40", "-t", "1", "--ignore-eos", "-o", self.whole])
        self.n_whole = self.info(self.whole)["n_frames"]
        self.before = self.lost = self.refused = 0
        self.bad = collections.Counter()  # what was not as it should be, and how often

    def at(self, name):
        return os.path.join(self.folder, name)

    def quiet(self, command):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.env)

    def start(self, path, log):
        return subprocess.Popen([self.binary, "capture", "-m", self.model, "-p", "a b c d", "-n", "3000", "-t", "1",
                                 "--ignore-eos", "--commits", "--force", "-o", path],
                                stdout=subprocess.DEVNULL, stderr=open(log, "w"), env=self.env)

    @staticmethod
    def reported(log):
        lines = [line.split() for line in open(log)]
        counts = [int(words[1]) for words in lines if len(words) == 2 and words[0] == "recorded" and words[1].isdigit()]
        return counts[-1] if counts else 0

    def info(self, path):
        out = subprocess.run([self.binary, "info", path, "--json"], capture_output=True)
        return json.loads(out.stdout) if out.returncode == 0 else None

    def verifies(self, path):
        return subprocess.run([self.binary, "verify", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def look(self, path, least, ended):
        """A file killed before its first commit may hold nothing yet; then nothing was reported either."""
        facts = self.info(path) if os.path.exists(path) else None
        if facts is None:
            self.before += 1
            self.lost += least > 0
            return
        self.lost += facts["n_frames"] < least
        self.bad["complete, though killed"] += facts["complete"] and not ended
        if facts["n_frames"]:
            self.bad["does not verify"] += not self.verifies(path)

    def alone(self, path, log):
        p = self.start(path, log)
        time.sleep(random.uniform(0.05, 1.2))
        p.send_signal(signal.SIGKILL)
        ended = p.wait() == 0
        self.look(path, self.reported(log), ended)

    def two(self, path, log):
        both = [(self.start(path, log + end), log + end) for end in "ab"]
        time.sleep(random.uniform(0.05, 1.2))
        codes = []
        for p, _ in both:
            if p.poll() is None:
                p.send_signal(signal.SIGKILL)
            codes.append(p.wait())
        for code, (_, l) in zip(codes, both):
            if code == 2:
                self.refused += 1
                said = open(l).read()
                if "another capture is writing it" not in said:
                    self.bad["a second writer said: " + said.strip()[-200:]] += 1
        # who was refused reported nothing; where both wrote, one after the other, the later one's file is there
        self.look(path, min([n for n in (self.reported(l) for _, l in both) if n] or [0]), 0 in codes)

    def moved(self, path, log):
        p = self.start(path, log)
        time.sleep(random.uniform(0.3, 1.2))
        if os.path.exists(path):
            os.rename(path, self.at("moved.attn"))
            shutil.copy(self.whole, path)
        p.send_signal(signal.SIGKILL)
        p.wait()
        if os.path.exists(self.at("moved.attn")):
            facts = self.info(path)
            self.bad["the file that came to its name changed"] += facts is None or facts["n_frames"] != self.n_whole or not self.verifies(path)
            facts = self.info(self.at("moved.attn"))
            if facts and facts["n_frames"]:
                self.bad["moved: does not verify"] += not self.verifies(self.at("moved.attn"))
            os.rename(self.at("moved.attn"), path)  # back beside its log: all of it is there again
            self.look(path, self.reported(log), False)


def main():
    binary, times = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    random.seed(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    with tempfile.TemporaryDirectory() as folder:
        k = Kills(binary, folder)
        done = 0
        try:
            for i in range(times):
                for name in ("x.attn", "moved.attn"):
                    for end in ENDS:
                        if os.path.exists(k.at(name + end)):
                            os.unlink(k.at(name + end))
                (k.alone, k.two, k.moved)[i % 3](k.at("x.attn"), k.at("log"))
                done = i + 1
        except KeyboardInterrupt:
            pass  # what was found so far is told
        print(f"{done} kills (alone, two writers, moved files in turns): {k.before} before anything was recorded, {k.refused} second "
              f"writers refused, {k.lost} lost a reported token, {k.bad.total()} not as they should be")
        for what, n in k.bad.items():
            if n:
                print(f"  {n} times: {what}")
        return 1 if k.lost or k.bad.total() else 0


if __name__ == "__main__":
    sys.exit(main())
