"""A stand-in for Slurm on one machine, as the programs of its name: sbatch, srun, squeue, scontrol, scancel.

Its state is in the folder $STAND_IN_SLURM: for job 100 the script `100.sh`, for each of its tasks the process
in `100_0.pid`, and every call in `calls`; in `held` the ids that stay in the queue though nothing runs.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
state = Path(os.environ["STAND_IN_SLURM"])
with (state / "calls").open("a") as calls:
    calls.write(shlex.join([program, *arguments]) + "\n")


def start(name: str, before: str = "") -> None:
    """Run a job's script, as the task of an array where its name says so."""
    job, _, task = name.partition("_")
    own = {"SLURM_JOB_ID": job, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    if task:
        own |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": task}
    command = ["bash", "-c", f"{before} exec bash {state / job}.sh"]
    with (state / f"{name}.out").open("ab") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **own}, stdout=output, stderr=output, start_new_session=True
        )
    (state / f"{name}.pid").write_text(str(process.pid))


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if program == "sbatch":
    job = 100 + len(list(state.glob("*.sh")))
    script = shutil.copy(arguments[0], state / f"{job}.sh")
    array = re.search(r"--array=0-(\d+)", Path(script).read_text())
    for name in [f"{job}_{task}" for task in range(int(array[1]) + 1)] if array else [str(job)]:
        start(name)
    print(f"Submitted batch job {job}")
elif program == "srun":
    while arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option in ("--output", "--error"):
            arguments.pop(0)
    os.execvp(arguments[0], arguments)
elif program == "squeue":
    held = state / "held"
    running = [path.stem for path in state.glob("*.pid") if is_alive(path.read_text())]
    print(*running, *(held.read_text().split() if held.exists() else []), sep="\n")
elif program == "scontrol":
    start(arguments[1], before="sleep 0.3;")
elif program == "scancel":
    os.killpg(int((state / f"{arguments[0]}.pid").read_text()), signal.SIGTERM)
