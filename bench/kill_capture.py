#!/usr/bin/env python3
"""Kills captures at random moments and checks that nothing reported as recorded is lost.

  bench/kill_capture.py build/bin/attnscope [times] [seed]

Each run captures with a small synthetic model and --commits, dies by SIGKILL at a random moment, and must leave a file that
opens, is incomplete (unless the capture had ended), holds at least the last reported number of tokens, and verifies."""
import json, os, random, signal, subprocess, sys, tempfile, time


def main():
    binary, times = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    random.seed(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    env = dict(os.environ, OMP_WAIT_POLICY="passive")
    killed = ended = before = lost = bad = 0
    with tempfile.TemporaryDirectory() as folder:
        model, path = os.path.join(folder, "m.gguf"), os.path.join(folder, "x.attn")
        subprocess.run([binary, "models", "make", "--arch", "llama", "--layers", "4", "-o", model], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for i in range(times):
            for end in ("", "-wal", "-shm"):
                if os.path.exists(path + end):
                    os.unlink(path + end)
            log = open(os.path.join(folder, "log"), "w+")
            p = subprocess.Popen([binary, "capture", "-m", model, "-p", "a b c d", "-n", "3000", "-t", "1", "--ignore-eos",
                                  "--commits", "-o", path], stdout=subprocess.DEVNULL, stderr=log, env=env)
            time.sleep(random.uniform(0.05, 1.2))
            p.send_signal(signal.SIGKILL)
            ended += p.wait() == 0
            killed += 1
            log.seek(0)
            reported = [int(l.split()[1]) for l in log if l.startswith("recorded ") and l.split()[1].isdigit() and len(l.split()) == 2]
            if not os.path.exists(path):
                before += 1
                lost += bool(reported)
                continue
            info = subprocess.run([binary, "info", path, "--json"], capture_output=True)
            if info.returncode != 0:
                # a file killed before its first commit may hold nothing yet; then nothing was reported either
                before += 1
                lost += bool(reported)
                continue
            facts = json.loads(info.stdout)
            lost += bool(reported) and facts["n_frames"] < reported[-1]
            bad += facts["complete"]
            if facts["n_frames"]:
                bad += subprocess.run([binary, "verify", path], stdout=subprocess.DEVNULL).returncode != 0
    print(f"{killed} kills: {before} before anything was recorded, {lost} lost a reported token, {bad} not incomplete or not good")
    return 1 if lost or bad else 0


if __name__ == "__main__":
    sys.exit(main())
