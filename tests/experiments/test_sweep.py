"""Sweeps: with a stand-in for the training script, which takes a moment, and once with the real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from experiments import sweep
from experiments.compare import find_runs
from experiments.runner import launchers, sweeps
from experiments.runner.launchers import Job, Local, Resources, Slurm
from experiments.runner.sweeps import as_flags, filled, split_values
from rlzoo.errors import UserError
from rlzoo.run.checkpoint import load_checkpoint
from rlzoo.run.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "tests/helpers/stand_in_slurm.py"
STAND_IN = [sys.executable, str(ROOT / "tests/helpers/stand_in_run.py")]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of `STAND_IN`, whose flags nobody checks."""
    monkeypatch.setattr(sweeps, "training_script", lambda suite: STAND_IN)
    monkeypatch.setattr(sweeps, "SUITES", {})
    monkeypatch.setattr(Local, "period", 0.05)


def sessions(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "sessions.jsonl").read_text().splitlines()]


def grid(output: Path, *flags: str) -> int:
    return sweep.main(["grid", "mujoco", "--output", str(output), *flags])


def run_dirs(output: Path) -> set[str]:
    return {path.parent.name for path in output.glob("*/sessions.jsonl")}


@pytest.mark.usefixtures("stand_in")
def test_a_grid_runs_every_combination_with_its_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over = ["--over", "task=a,b-v2", "--over", "seed=1,2", "--over", "agent.lr=0.5"]
    flags = ["--dataset", "data/{task}-{seed}.hdf5", "--for", "bc", "--offline --agent.x 1"]
    assert grid(tmp_path, "--agents", "arsq", "bc", *over, "--jobs", "3", *flags) == 0
    tasks = ("a", "b-v2")
    assert run_dirs(tmp_path) == {
        f"{agent}-{task}-s{seed}-lr0.5" for agent in ("arsq", "bc") for task in tasks for seed in (1, 2)
    }
    (session,) = sessions(tmp_path / "bc-b-v2-s2-lr0.5")
    given = " ".join(session["flags"])
    assert "--dataset data/b-v2-2.hdf5" in given
    assert "--task b-v2 --seed 2 --agent.lr 0.5" in given
    assert "--offline --agent.x 1" in given
    assert "--threads 1" in given
    assert "--offline" not in " ".join(sessions(tmp_path / "arsq-a-s1-lr0.5")[0]["flags"])
    output = capsys.readouterr().out
    assert re.search(r"bc +│ b-v2 +│ 0.5 +│ 2 +│ 1.5 ± 0.0", output)


@pytest.mark.usefixtures("stand_in")
def test_runs_are_spread_over_gpus_and_share_them_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "_visible_gpus", lambda: ["0", "3"])
    for per_gpu, gpus in ((1, ["0", "3"]), (2, ["0", "0", "3", "3"])):
        launcher = Local(Resources(tmp_path, per_gpu=per_gpu))
        jobs = jobs_of(tmp_path / str(per_gpu), launcher.slots, "--fail", "slow")
        launcher.submit(jobs)
        assert wait_for_end(launcher, jobs) == [0] * len(gpus)
        assert sorted(sessions(job.run_dir)[0]["gpu"] for job in jobs) == gpus
    cores = len(os.sched_getaffinity(0))
    assert Local(Resources(tmp_path, gpu=False)).slots == cores
    assert Local(Resources(tmp_path, gpu=False, threads=cores)).slots == 1
    assert Local(Resources(tmp_path, gpu=False, threads=2 * cores)).slots == 1


@pytest.mark.usefixtures("stand_in")
def test_a_grid_begun_again_counts_what_is_done_and_may_grow(tmp_path: Path) -> None:
    assert grid(tmp_path, "--agents", "sac", "--over", "seed=1,2") == 0
    assert grid(tmp_path, "--agents", "sac", "td3", "--over", "seed=2,3") == 0
    assert run_dirs(tmp_path) == {"sac-s1", "sac-s2", "sac-s3", "td3-s2", "td3-s3"}
    assert len(sessions(tmp_path / "sac-s2")) == 1


@pytest.mark.usefixtures("stand_in")
def test_a_run_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    assert grid(tmp_path, "--agents", "sac", "--over", "seed=1", "--fail", "once") == 0
    assert [session["first"] for session in sessions(tmp_path / "sac-s1")] == [0, 5]


@pytest.mark.usefixtures("stand_in")
def test_runs_that_fail_each_time_end_the_sweep_with_the_last_line(tmp_path: Path) -> None:
    flags = ["--agents", "sac", "--over", "seed=1,2,3,4,5", "--jobs", "1", "--fail", "always"]
    with pytest.raises(UserError, match=r"2 runs in a row have failed.*output\.log.*: --dataset is missing$"):
        grid(tmp_path, *flags, "--max-failures", "2")
    assert not (tmp_path / "sac-s3").exists()


@pytest.mark.usefixtures("stand_in")
def test_one_failure_among_others_is_said_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--agents", "sac", "td3", "--over", "seed=1,2", "--for", "td3", "--fail diverge"]
    assert grid(tmp_path, *flags) == 1
    assert "td3-s1: failed, error: loss/q became nan" in capsys.readouterr().out
    assert len(sessions(tmp_path / "td3-s1")) == 1  # the same mistake would be made again


def start_parent(output: Path, *flags: str) -> subprocess.Popen[str]:
    code = (
        "import sys; from experiments import sweep; from experiments.runner import sweeps\n"
        f"sweeps.training_script = lambda suite: {STAND_IN!r}; sweeps.SUITES = {{}}\n"
        "from rlzoo.run.cli import run_main; run_main(sweep.main)"
    )
    command = [sys.executable, "-c", code, "grid", "mujoco", "--output", str(output), *flags]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_values_with_a_comma_are_in_brackets() -> None:
    assert split_values("env=z=(0.7,2.0),env=z=[1,2],1") == ["env=z=(0.7,2.0)", "env=z=[1,2]", "1"]


def test_values_with_a_space_are_quoted() -> None:
    assert as_flags("data", "'my data.hdf5'") == ["--data", "my data.hdf5"]
    assert filled(["of {data}"], {"data": "'my data.hdf5'"}) == ["of my data.hdf5"]
    assert as_flags("agent.hidden", "256 128") == ["--agent.hidden", "256", "128"]
    with pytest.raises(UserError, match="data='a: No closing quotation"):
        as_flags("data", "'a")


SLOW = ["--agents", "sac", "--over", "seed=1,2", "--jobs", "2", "--fail", "slow"]


@pytest.mark.usefixtures("stand_in")
def test_ctrl_c_is_passed_on_once_and_the_same_command_goes_on(tmp_path: Path) -> None:
    process = start_parent(tmp_path, *SLOW)
    wait_for(lambda: all((tmp_path / f"sac-s{seed}" / "checkpoints/latest.pt").exists() for seed in (1, 2)))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "the same command goes on" in output
    for folder in ("sac-s1", "sac-s2"):
        assert not Path(f"/proc/{sessions(tmp_path / folder)[0]['pid']}").exists()
    assert grid(tmp_path, *SLOW) == 0
    first, second = sessions(tmp_path / "sac-s2")
    assert first["first"] == 0
    assert second["first"] > 0


@pytest.mark.usefixtures("stand_in")
def test_a_parent_begun_again_after_a_kill_finds_its_runs_at_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start_parent(tmp_path, *SLOW)
    wait_for(lambda: len(run_dirs(tmp_path)) == 2)
    process.kill()
    process.wait()
    assert grid(tmp_path, *SLOW) == 0
    assert "sac-s1 is at work already" in capsys.readouterr().out
    assert [len(sessions(tmp_path / f"sac-s{seed}")) for seed in (1, 2)] == [1, 1]


@pytest.mark.usefixtures("stand_in")
def test_bad_input_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    output = ["--output", str(tmp_path)]
    assert grid(tmp_path, "--agents", "sac", "--over", "seed=1", "--steps", "5") == 0
    kept = sessions(tmp_path / "sac-s1")
    cases = {
        (
            "grid",
            "mujoco",
            "--agents",
            "sac",
            "--over",
            "seed=1",
            "--steps",
            "6",
            *output,
        ): r"another sweep.*6",
        ("grid", "mujoco", "--agents", "sac", "--over", "agent.lr=1", *output): "another sweep",
        ("search", "mujoco", "sac", "--param", "agent.lr=1:2", *output): "another sweep",
        ("grid", "mujoco", "--over", "seed=1", *output): "which agents",
        ("grid", "mujoco", "--agents", "sac", "--over", "seed", *output): "not NAME=VALUES",
        ("grid", "mujoco", "--agents", "sac", "--for", "bc", "--x 1", *output): "not among --agents",
        ("grid", "mojuco", "--agents", "sac", *output): "no suite called 'mojuco'",
        ("gird",): "rlzoo sweep grid or",
        ("grid",): "SUITE is one of",
        ("search", "mujoco", "sac", *output): "which parameters",
        ("search", "mujoco", "sac", "--param", "agent.lr=log:0:1", *output): "no range",
        ("search", "mujoco", "sac", "--param", "agent.lr=2:1", *output): "no range",
        ("search", "mujoco", "--param", "agent.lr=1:2", *output): "AGENT",
        ("search", "mujoco", "sac", "--param", "agent.lr=1:2", "--seed", "1", *output): "--seeds",
        (
            "search",
            "mujoco",
            "sac",
            "--param",
            "x=1:2",
            "--final-seeds",
            "101",
            *output,
        ): "seed 101 has a part",
        ("grid", "mujoco", "--agents", "sac", "--launcher", "lsf", *output): "--launcher",
    }
    for arguments, expected in cases.items():
        with pytest.raises(UserError, match=expected) as raised:
            sweep.main(list(arguments))
        assert len(str(raised.value).splitlines()) == 1, arguments
    assert sessions(tmp_path / "sac-s1") == kept


def test_flags_that_no_run_would_take_are_refused_before_the_first(tmp_path: Path) -> None:
    output = ["--output", str(tmp_path / "new")]
    flags = ["--task", "InvertedPendulum-v5", *output]
    cases = {
        (
            "grid",
            "mujoco",
            "--agents",
            "sac",
            "--over",
            "agent.hiden=16",
            *flags,
        ): "did you mean --agent.hidden",
        ("grid", "mujoco", "--agents", "sac", "asrq", *flags): "did you mean arsq",
        ("grid", "d4rl", "--agents", "sac", "--over", "task=hoper-medium-v2", *output): "hopper-medium-v2",
        ("grid", "mujoco", "--agents", "sac", "--run-dir", "one", *flags): "runs are in its own folder",
        ("grid", "mujoco", "--agents", "sac", "--runs-dir", "one", *flags): "runs are in its own folder",
        ("search", "mujoco", "sac", "--param", "agent.tau=0.1:2", *flags): "--agent.tau is 2",
        ("search", "mujoco", "sac", "--param", "agent.levels=1,2", *flags): "--agent.levels",
    }
    for arguments, expected in cases.items():
        with pytest.raises(UserError, match=expected):
            sweep.main(list(arguments))
    assert not (tmp_path / "new").exists()


def find(output: Path, *flags: str) -> int:
    """A search for the highest learning rate, which is the stand-in's return."""
    given = ["search", "mujoco", "sac", "--param", "agent.lr=0.0:10.0", "--output", str(output), *flags]
    return sweep.main(given)


def study_of(output: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(output / "study.journal")))
    return optuna.load_study(study_name="rlzoo", storage=storage)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_a_search_ends_with_the_best_trials_command_and_plots(
    sampler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find(tmp_path, "--seeds", "101", "102", "--trials", "4", "--sampler", sampler, "--steps", "9") == 0
    study = study_of(tmp_path)
    assert [trial.state for trial in study.trials] == 4 * [TrialState.COMPLETE]
    assert study.best_value == pytest.approx(study.best_params["agent.lr"] + 1)
    assert study.trials[0].intermediate_values == pytest.approx(
        {step: study.trials[0].params["agent.lr"] + (step + 1) / 10 for step in range(10)}
    )
    assert run_dirs(tmp_path) == {f"t{number:03d}-s{seed}" for number in range(4) for seed in (101, 102)}
    output = capsys.readouterr().out
    lr = study.best_params["agent.lr"]
    assert f"rlzoo train mujoco sac --steps 9 --agent.lr {lr} --seed 1\n" in output
    final = tmp_path / f"final-t{study.best_trial.number:03d}"
    assert f"--over seed=1,2,3,4,5 --output {final} --steps 9 --agent.lr {lr}\n" in output
    for name in ("history", "slices", "importance"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("stand_in")
def test_the_best_settings_are_run_on_fresh_seeds(tmp_path: Path) -> None:
    assert find(tmp_path, "--seeds", "7", "--trials", "2", "--final-seeds", "1", "2") == 0
    (session,) = sessions(next(tmp_path.glob("final-t*")) / "sac-s2")
    assert (
        float(session["flags"][session["flags"].index("--agent.lr") + 1])
        == study_of(tmp_path).best_params["agent.lr"]
    )


@pytest.mark.usefixtures("stand_in")
def test_a_trial_below_the_median_is_pruned_with_all_its_runs(tmp_path: Path) -> None:
    """The first five trials have the higher returns, by the order in which choices are proposed."""
    assert find(tmp_path, "--seeds", "1", "--trials", "1", "--fail", "slow") == 0
    study = study_of(tmp_path)
    for value in (6.0, 7.0, 8.0, 9.0):
        trial = study.ask({"agent.lr": optuna.distributions.FloatDistribution(0, 10)})
        for step in range(10):
            trial.report(value + step / 10, step)
        study.tell(trial, value + 1)
    study.enqueue_trial({"agent.lr": 0.5})
    assert find(tmp_path, "--seeds", "1", "--trials", "6", "--fail", "slow") == 0
    last = study_of(tmp_path).trials[-1]
    assert last.state == TrialState.PRUNED
    assert len(last.intermediate_values) < 10
    assert not (tmp_path / "t005-s1" / "run.json").exists()


@pytest.mark.usefixtures("stand_in")
def test_five_seeds_come_one_by_one_until_the_test_says_worse(tmp_path: Path) -> None:
    seeds = ["--seeds", "1", "2", "3", "4", "5"]
    assert find(tmp_path, *seeds, "--trials", "1", "--jobs", "1") == 0
    study = study_of(tmp_path)
    best = study.trials[0].params["agent.lr"]
    assert study.trials[0].intermediate_values == pytest.approx(dict.fromkeys(range(5), best + 1))
    study.enqueue_trial({"agent.lr": best / 2})
    assert find(tmp_path, *seeds, "--trials", "2", "--jobs", "1") == 0
    worse = study_of(tmp_path).trials[1]
    # Four pairs are the first with which p can be below 0.1: 1/16.
    assert len(worse.intermediate_values) == 4
    assert worse.user_attrs == {"pruned": True}
    assert worse.value == pytest.approx(best / 2 + 1)
    assert not (tmp_path / "t001-s5").exists()


@pytest.mark.usefixtures("stand_in")
def test_a_search_begun_again_goes_on_with_its_open_trials(tmp_path: Path) -> None:
    """One that was under way is resumed, one that was never asked for to the end is queued again."""
    assert find(tmp_path, "--seeds", "1", "2", "--trials", "1") == 0
    study = study_of(tmp_path)
    study.ask({"agent.lr": optuna.distributions.FloatDistribution(0, 10)}).report(1.0, 0)
    for seed in (1, 2):
        folder = tmp_path / f"t001-s{seed}"
        atomic_write(folder / "checkpoints" / "latest.pt", "4")
        atomic_write(
            folder / "metrics.csv",
            "step,tag,value\n" + "".join(f"{i},eval/return,{i}\n" for i in range(1, 5)),
        )
    study.ask()
    with (tmp_path / "study.journal").open("a") as file:
        file.write('{"op_code":5,"worker')
    os.symlink("study.journal", tmp_path / "study.journal.lock")
    assert find(tmp_path, "--seeds", "1", "2", "--trials", "3") == 0
    states = [trial.state for trial in study_of(tmp_path).trials]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert [session["first"] for session in sessions(tmp_path / "t001-s2")] == [4]


@pytest.mark.usefixtures("stand_in")
def test_trials_that_fail_each_time_end_the_search(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 trials in a row have failed.*loss/q became nan"):
        find(tmp_path, "--seeds", "1", "--trials", "9", "--jobs", "1", "--fail", "diverge")
    trials = study_of(tmp_path).trials
    assert [trial.state for trial in trials] == 3 * [TrialState.FAIL]
    assert trials[0].user_attrs == {"error": "error: loss/q became nan"}
    # Begun again, they are tried once more, and only once.
    again = ["--trials", "3", "--fail", "diverge", "--max-failures", "9"]
    for _ in range(2):
        with pytest.raises(UserError, match="no trial has come to its end"):
            find(tmp_path, "--seeds", "1", *again)
    trials = study_of(tmp_path).trials
    assert [trial.params for trial in trials[3:]] == [trial.params for trial in trials[:3]]


@pytest.mark.usefixtures("stand_in")
def test_settings_that_diverge_with_every_seed_are_one_failure(tmp_path: Path) -> None:
    flags = ["--seeds", "1", "2", "3", "--jobs", "3", "--sampler", "random"]
    assert find(tmp_path, *flags, "--trials", "6", "--fail", "high") == 0
    found = {(trial.params["agent.lr"] > 4.5, trial.state) for trial in study_of(tmp_path).trials}
    assert found == {(True, TrialState.FAIL), (False, TrialState.COMPLETE)}


@pytest.mark.usefixtures("stand_in")
def test_a_trial_has_failed_whose_first_seed_has_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 trials in a row have failed.*loss/q became nan"):
        find(tmp_path, "--seeds", "1", "2", "--trials", "9", "--jobs", "1", "--fail", "second")
    assert [trial.state for trial in study_of(tmp_path).trials] == 3 * [TrialState.FAIL]


@pytest.mark.usefixtures("stand_in")
def test_a_better_trial_of_a_longer_search_is_run_on_fresh_seeds_too(tmp_path: Path) -> None:
    best = {}
    for trials in ("1", "8"):
        assert find(tmp_path, "--seeds", "7", "--trials", trials, "--final-seeds", "1") == 0
        best[trials] = study_of(tmp_path).best_trial.number
    assert best["8"] > best["1"]
    assert {path.name for path in tmp_path.glob("final*")} == {f"final-t{one:03d}" for one in best.values()}


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("line", ['{"op_code":99,"worker_id":"1"}', '{"op_code":4}', "garbage"])
def test_the_study_of_a_newer_optuna_is_refused_in_one_line(line: str, tmp_path: Path) -> None:
    assert find(tmp_path, "--seeds", "1", "--trials", "1") == 0
    with (tmp_path / "study.journal").open("a") as file:
        file.write(f"{line}\n{line}\n")
    before = (tmp_path / "study.journal").read_text()
    with pytest.raises(UserError, match=r"study\.journal cannot be read by Optuna 5") as raised:
        find(tmp_path, "--seeds", "1", "--trials", "2")
    assert len(str(raised.value).splitlines()) == 1
    assert (tmp_path / "study.journal").read_text() == before


@pytest.mark.usefixtures("stand_in")
def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(tmp_path, "--seeds", "1", "--trials", "2") == 0

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", full)
        with pytest.raises(UserError, match=r"cannot write .*study\.journal: No space left on device"):
            find(tmp_path, "--seeds", "1", "--trials", "3")
    assert find(tmp_path, "--seeds", "1", "--trials", "3") == 0
    assert len(study_of(tmp_path).trials) == 3


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Slurm, on the path; its folder."""
    programs, state = tmp_path / "bin", tmp_path / "slurm-state"
    for folder in (programs, state):
        folder.mkdir()
    for name in ("sbatch", "srun", "squeue", "scontrol", "scancel"):
        (programs / name).write_text(f"#!{sys.executable}\n{SLURM.read_text()}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_SLURM", str(state))
    monkeypatch.setattr(Slurm, "period", 0.1)
    return state


def jobs_of(output: Path, count: int, *flags: str) -> list[Job]:
    """Runs of the stand-in for a training script."""
    folders = [output / f"sac-s{seed}" for seed in range(1, count + 1)]
    for folder in folders:
        folder.mkdir(parents=True)
    return [Job(one.name, one, [*STAND_IN, "sac", *flags, "--run-dir", str(one)]) for one in folders]


def wait_for_end(launcher: Any, jobs: list[Job]) -> list[int]:
    codes: list[int] = []
    for job in jobs:
        while (code := launcher.poll(job)) is None:
            time.sleep(0.05)
        codes.append(code)
    return codes


def test_slurm_gets_an_array_and_a_job_about_to_time_out_is_queued_again(slurm: Path, tmp_path: Path) -> None:
    resources = Resources(tmp_path, jobs=2, threads=3, slurm={"partition": "gpu", "timeout_min": "90"})
    launcher = Slurm(resources)
    jobs = jobs_of(tmp_path, 3, "--fail", "slow")
    launcher.submit(jobs)
    script = (slurm / "100.sh").read_text()
    for line in ("array=0-2%2", "signal=USR2@90", "cpus-per-task=3", "partition=gpu", "time=90"):
        assert f"#SBATCH --{line}\n" in script
    assert "srun" in script
    wait_for(lambda: all((job.run_dir / "sessions.jsonl").exists() for job in jobs))
    (session,) = sessions(jobs[1].run_dir)
    # Slurm signals every process of the job; the training is to get one, from the task.
    for process in (session["pid"], session["pid"], session["parent"]):
        os.kill(process, signal.SIGUSR2)
    assert wait_for_end(launcher, jobs) == [0, 0, 0]
    assert "scontrol requeue 100_1\n" in (slurm / "calls").read_text()
    assert (slurm / "calls").read_text().count("sbatch") == 1
    first, second = sessions(jobs[1].run_dir)
    assert first["first"] == 0
    assert second["first"] > 0
    assert [len(sessions(job.run_dir)) for job in jobs] == [1, 2, 1]


def test_a_parent_begun_again_finds_its_jobs_in_slurms_queue(slurm: Path, tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 2, "--fail", "slow")
    Slurm(Resources(tmp_path)).submit(jobs)
    wait_for(lambda: all((job.run_dir / "sessions.jsonl").exists() for job in jobs))
    again = Slurm(Resources(tmp_path))
    assert [again.attach(job) for job in jobs] == [True, True]
    assert wait_for_end(again, jobs) == [0, 0]
    assert [again.attach(job) for job in jobs] == [False, False]
    assert not again.attach(jobs_of(tmp_path / "other", 1)[0])
    assert (slurm / "calls").read_text().count("sbatch") == 1
    assert [len(sessions(job.run_dir)) for job in jobs] == [1, 1]


@pytest.mark.usefixtures("stand_in", "slurm")
def test_a_grid_in_slurms_queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--agents", "sac", "--over", "seed=1,2", "--launcher", "slurm", "--slurm", "partition=cpu"]
    assert grid(tmp_path / "new", *flags) == 0
    assert run_dirs(tmp_path / "new") == {"sac-s1", "sac-s2"}
    assert "sac-s2: done, return 1.0" in capsys.readouterr().out


def test_a_pruned_job_of_slurm_is_cancelled(slurm: Path, tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, 1, "--fail", "slow")
    launcher = Slurm(Resources(tmp_path))
    launcher.submit([job])
    wait_for(lambda: (job.run_dir / "sessions.jsonl").exists())
    launcher.stop(job)
    assert wait_for_end(launcher, [job]) != [0]
    assert "scancel 100\n" in (slurm / "calls").read_text()
    assert not (job.run_dir / "run.json").exists()


def test_a_job_that_leaves_slurms_queue_without_a_result_has_ended(slurm: Path, tmp_path: Path) -> None:
    killed, suspended = jobs = jobs_of(tmp_path, 2, "--fail", "slow")
    launcher = Slurm(Resources(tmp_path))
    launcher.submit(jobs)
    wait_for(lambda: all((job.run_dir / "sessions.jsonl").exists() for job in jobs))
    (slurm / "held").write_text("100_1")  # suspended, or to be started again on another node
    for job, name in ((killed, "100_0"), (suspended, "100_1")):
        os.killpg(int((slurm / f"{name}.pid").read_text()), signal.SIGKILL)
        os.killpg(sessions(job.run_dir)[0]["pid"], signal.SIGKILL)
    began = time.monotonic()
    assert wait_for_end(launcher, [killed]) == [1]
    assert time.monotonic() - began < 5  # submitit waits 15 s for each result
    time.sleep(0.5)
    assert launcher.poll(suspended) is None
    (slurm.parent / "bin" / "squeue").write_text("#!/bin/sh\nexit 1")  # nobody knows
    (slurm / "held").unlink()
    again = Slurm(Resources(tmp_path))
    assert again.attach(suspended)
    for _ in range(5):
        time.sleep(0.1)
        assert launcher.poll(suspended) is again.poll(suspended) is None
    (slurm.parent / "bin" / "squeue").unlink()
    time.sleep(0.1)
    assert again.poll(suspended) is None


def test_why_a_job_of_slurm_did_not_begin_is_told(slurm: Path, tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, 1)
    launcher = Slurm(Resources(tmp_path))
    (slurm.parent / "bin" / "srun").write_text("#!/bin/sh\necho no such partition >&2; exit 1")
    launcher.submit([job])
    assert wait_for_end(launcher, [job]) == [1]
    assert job.cause.parent == tmp_path / "slurm"
    job.log.write_text("error: no such task")
    assert job.cause == job.log


def test_what_slurm_is_given(slurm: Path, tmp_path: Path) -> None:
    (job,) = jobs_of(tmp_path, 1)
    Slurm(Resources(tmp_path, slurm={"account": "0042", "time": "90"})).submit([job])
    script = (slurm / "100.sh").read_text()
    assert "#SBATCH --account=0042\n" in script
    assert "#SBATCH --time=90\n" in script
    for name in ("time", "timeout_min"):
        with pytest.raises(UserError, match=f"--slurm {name} takes minutes"):
            Slurm(Resources(tmp_path, slurm={name: "04:00:00"}))
    (slurm.parent / "bin" / "sbatch").write_text("#!/bin/sh\nexit 1")
    with pytest.raises(UserError, match=r"^Slurm does not take the jobs: .+"):
        Slurm(Resources(tmp_path)).submit([job])


@pytest.mark.parametrize(("suite", "again"), [("mujoco", 10), ("sb3", 2)])
def test_a_run_that_begins_anew_has_three_tries_whatever_it_has_saved(
    suite: str, again: int, tmp_path: Path
) -> None:
    one = sweeps.Sweep(suite, tmp_path, sweeps.SweepFlags())
    job = one.job("a", "sac", [], 10)
    checkpoint = job.run_dir / "checkpoints" / "latest.pt"
    checkpoint.parent.mkdir(parents=True)
    queued = 0
    for time_written in range(1, 11):
        checkpoint.touch()
        os.utime(checkpoint, (time_written, time_written))
        one._settle(job, 143)
        queued += job.state == "queued"
        job.checkpoint = time_written
    assert queued == again
    assert job.state == ("queued" if again == 10 else "failed")


def test_a_run_that_cannot_go_on_is_not_queued_again_for_ever(tmp_path: Path) -> None:
    launcher = Slurm(Resources(tmp_path, resumable=False), cluster="local")
    (job,) = jobs_of(tmp_path, 1, "--fail", "slow")
    launcher.submit([job])
    wait_for(lambda: (job.run_dir / "sessions.jsonl").exists())
    os.kill(sessions(job.run_dir)[0]["parent"], signal.SIGUSR2)
    assert wait_for_end(launcher, [job]) == [1]
    assert len(sessions(job.run_dir)) == 1


def test_submitit_itself_runs_interrupts_and_runs_again(tmp_path: Path) -> None:
    """Its own executor for one machine."""
    launcher = Slurm(Resources(tmp_path), cluster="local")
    jobs = jobs_of(tmp_path, 2, "--fail", "slow")
    launcher.submit(jobs)
    wait_for(lambda: all((job.run_dir / "sessions.jsonl").exists() for job in jobs))
    os.kill(sessions(jobs[0].run_dir)[0]["parent"], signal.SIGUSR2)
    assert wait_for_end(launcher, jobs) == [0, 0]
    first, second = sessions(jobs[0].run_dir)
    assert second["first"] > first["first"] == 0
    assert len(sessions(jobs[1].run_dir)) == 1


@pytest.mark.usefixtures("stand_in")
def test_a_launcher_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--agents", "sac", "--output", str(tmp_path), "--launcher"]
    monkeypatch.setenv("PATH", str(tmp_path))  # no srun
    with pytest.raises(UserError, match="--launcher slurm: Could not detect"):
        sweep.main(["grid", "mujoco", *flags, "slurm"])
    with pytest.raises(UserError, match=r"no Ray cluster can be reached at 127\.0\.0\.1:1 ") as raised:
        sweep.main(["grid", "mujoco", *flags, "ray", "--ray-address", "127.0.0.1:1"])
    assert len(str(raised.value).splitlines()) == 1
    for extra, package in (("slurm", "submitit"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"^{package} is not installed: pip install 'rlzoo\[{extra}\]'"):
            sweep.main(["grid", "mujoco", *flags, extra])
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "experiments.runner.search", raising=False)
    with pytest.raises(UserError, match=r"^optuna is not installed: pip install 'rlzoo\[sweep\]'"):
        find(tmp_path)


def test_a_grid_of_real_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Folders with names that packages of ours have, where somebody works.
    for package in ("algos", "envs", "experiments"):
        (tmp_path / "work" / package).mkdir(parents=True)
        (tmp_path / "work" / package / "__init__.py").touch()
    monkeypatch.chdir(tmp_path / "work")
    tmp_path /= "sweep"
    data = str(ROOT / "results/datasets/hopper-demos.hdf5")
    flags = [
        "--task",
        "hopper-medium-v2",
        "--dataset",
        data,
        "--offline",
        "--steps",
        "20",
        "--eval-every",
        "10",
    ]
    flags += ["--eval-episodes", "1", "--agent.hidden", "16", "--device", "cpu", "--output", str(tmp_path)]
    command = ["grid", "d4rl", "--agents", "bc", "cqn", "--over", "agent.lr=1e-3", *flags]
    assert sweep.main([*command, "--for", "cqn", "--agent.levels 2"]) == 0
    runs = {run.agent: run for run in find_runs([tmp_path])}
    assert runs.keys() == {"bc", "cqn"}
    assert runs["cqn"].settings["agent.levels"] == 2
    assert runs["bc"].settings["agent.lr"] == 1e-3
    assert f"{runs['bc'].final('eval/return'):,.1f}" in capsys.readouterr().out
    # Begun again, everything is done.
    written = (tmp_path / "bc-lr1e-3" / "metrics.csv").stat().st_mtime_ns
    assert sweep.main([*command, "--for", "cqn", "--agent.levels 2"]) == 0
    assert (tmp_path / "bc-lr1e-3" / "metrics.csv").stat().st_mtime_ns == written


@pytest.mark.learning
def test_ctrl_c_lets_runs_on_ray_write_their_checkpoints(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        process = start_parent(tmp_path, *SLOW, "--launcher", "ray", "--ray-address", cluster.address)
        wait_for(lambda: len(list(tmp_path.glob("*/checkpoints/latest.pt"))) == 2, 120)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        cluster.shutdown()
    assert process.returncode == 130, output
    assert len(list(tmp_path.glob("*/stopped"))) == 2, output


@pytest.mark.learning
def test_a_run_on_a_lost_node_of_ray_is_gone_on_with_on_another_to_the_same_weights(tmp_path: Path) -> None:
    """A cluster of which each node has room for one run."""
    from ray.cluster_utils import Cluster

    flags = ["--task", "InvertedPendulum-v5", "--warmup-steps", "100", "--agent.hidden", "16", "16"]
    flags += ["--batch-size", "8", "--buffer-capacity", "5000", "--eval-every", "700", "--steps", "1400"]
    flags += ["--eval-episodes", "1", "--checkpoint-every", "200", "--log-every", "500", "--device", "cpu"]
    command = [sys.executable, "-m", "experiments.sweep", "grid", "mujoco", "--agents", "sac", *flags]
    command += ["--over", "seed=1", "--output"]
    run_dir = tmp_path / "ray" / "sac-s1"
    checkpoint = run_dir / "checkpoints" / "latest.pt"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        lost = cluster.add_node(num_cpus=1)
        on_ray = ["--launcher", "ray", "--ray-address", cluster.address]
        process = subprocess.Popen([*command, str(tmp_path / "ray"), *on_ray], cwd=ROOT)
        wait_for(checkpoint.exists, 120)
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        assert process.wait(timeout=240) == 0
    finally:
        cluster.shutdown()
    assert len(json.loads((run_dir / "run.json").read_text())["sessions"]) == 2
    subprocess.run([*command, str(tmp_path / "undisturbed")], cwd=ROOT, check=True)
    one, other = (
        load_checkpoint(tmp_path / folder / "sac-s1" / "checkpoints" / "latest.pt")["trainer"]["agent"]
        for folder in ("undisturbed", "ray")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one if isinstance(one[key], torch.Tensor))


def test_a_run_on_ray_has_our_variables_of_where_the_sweep_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("LD_PRELOAD_OF_MINE", "here")
    variables = launchers.own_environment()
    assert variables["MUJOCO_GL"] == "egl"
    assert "LD_PRELOAD_OF_MINE" not in variables
    monkeypatch.setenv("MUJOCO_GL", "osmesa")  # where Ray was started
    command = [sys.executable, "-c", "import os; print(os.environ['MUJOCO_GL'])"]
    assert launchers.ray_task(command, "output.log", str(tmp_path), variables) == 0
    assert (tmp_path / "output.log").read_text() == "egl\n"
