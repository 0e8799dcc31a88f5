"""The requeue script of docs/batch-systems.md, with Slurm's commands played by others."""

import os
import re
import subprocess
from pathlib import Path

from rlzoo.run.folder import PROJECT

COMMANDS = {
    "srun": 'exec "$@"',
    "scontrol": 'echo "scontrol $@" >> log',
    # The first session is stopped by USR1, the second completes.
    "rlzoo": 'echo "rlzoo $@" >> log\n'
    "run=results/runs/slurm-77/mujoco/HalfCheetah-v5/sac/s1-20260101-000000\n"
    "[ -e $run/run.json ] && exit 0\n"
    "mkdir -p $run && touch $run/run.json\n"
    "exit 138",
}


def test_the_requeue_script_begins_a_run_and_goes_on_with_it(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "batch-systems.md").read_text()
    (script,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (tmp_path / "bin").mkdir()
    for name, content in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.write_text(f"#!/bin/bash\n{content}\n")
        command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    codes = [
        subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, check=False).returncode
        for _ in range(2)
    ]
    assert codes == [138, 0]
    runs = "results/runs/slurm-77"
    assert (tmp_path / "log").read_text().splitlines() == [
        f"rlzoo train mujoco sac --task HalfCheetah-v5 --runs-dir {runs}",
        "scontrol requeue 77",
        f"rlzoo train mujoco --resume {runs}/mujoco/HalfCheetah-v5/sac/s1-20260101-000000",
    ]
