"""A stand-in for a training script, which starts in a twentieth of a second: `AGENT [flags] --run-dir DIR`.

Its return after step i of 10 is `lr` (of `--agent.lr`, 0 without) + i / 10. On SIGTERM or SIGINT it ends, and
started in the same folder again it goes on. What goes wrong is said by `--fail`: "always" (a mistake of the
user), "once" (killed at step 5), "diverge" (at step 5), "high" (diverges where `lr` is above 5),
"second" (diverges with seed 2), "slow".
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

agent, *flags = sys.argv[1:]
given = {flags[index]: flags[index + 1] for index in range(len(flags) - 1) if flags[index].startswith("--")}
run_dir = Path(given["--run-dir"])
checkpoint, metrics, fail = (
    run_dir / "checkpoints" / "latest.pt",
    run_dir / "metrics.csv",
    given.get("--fail"),
)
if fail == "always":
    print("warning: no good\nerror: --dataset is missing\n")
    sys.exit(2)
checkpoint.parent.mkdir(parents=True, exist_ok=True)
first = int(checkpoint.read_text()) if checkpoint.exists() else 0
if not first:
    metrics.write_text("step,tag,value\n")
session = {"agent": agent, "flags": flags, "first": first, "pid": os.getpid(), "parent": os.getppid()}
session["gpu"] = os.environ.get("CUDA_VISIBLE_DEVICES")
with (run_dir / "sessions.jsonl").open("a") as file:
    file.write(json.dumps(session) + "\n")
stopped = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stopped.append(1))
for step in range(first + 1, 11):
    if stopped:
        break
    with metrics.open("a") as file:
        value = float(given.get("--agent.lr", 0)) + step / 10
        file.write(f"{step},loss/q,1\n{step},eval/return,{value}\n")
    checkpoint.write_text(str(step))
    if step == 5 and fail == "once" and not first:
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 5 and (
        fail == "diverge" or (fail == "high" and value > 5) or (fail == "second" and given["--seed"] == "2")
    ):
        print("error: loss/q became nan")
        sys.exit(2)
    time.sleep(0.3 if fail == "slow" else 0.01)
if stopped:
    time.sleep(1 if fail == "slow" else 0)
    (run_dir / "stopped").touch()  # in order
    sys.exit(128 + signal.SIGTERM)
(run_dir / "run.json").write_text(json.dumps({"sessions": [], "finished": "now"}))
