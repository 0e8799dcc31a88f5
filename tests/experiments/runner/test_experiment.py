"""From flags to a complete experiment: presets, earlier runs' settings, listings."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from algos import AGENTS
from experiments import cli
from experiments.runner.experiment import complete, default_experiment, differing, load_experiment, parse
from experiments.runner.launch import main, usage
from experiments.suites import SUITES
from experiments.train_d4rl import D4RLSuite
from experiments.train_mujoco import MujocoSuite
from experiments.train_rlbench import RLBenchSuite
from rlzoo.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
SHORT = [
    "--task",
    "Reacher-v5",
    "--steps",
    "60",
    "--num-envs",
    "2",
    "--warmup-steps",
    "20",
    "--batch-size",
    "8",
]
SHORT += ["--eval-every", "60", "--eval-episodes", "1", "--agent.hidden", "8", "--threads", "1"]
SHORT += ["--device", "cpu", "--buffer-capacity", "500"]


def asked(suite: type, *arguments: str):  # type: ignore[no-untyped-def]
    return parse(suite, arguments, "rlzoo train").asked


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(MujocoSuite, ["sac", *SHORT, "--runs-dir", str(runs)]) == 0
    (info,) = runs.rglob("run.json")
    return info.parent


def test_flags_go_over_the_preset_that_is_named() -> None:
    paper, small = asked(D4RLSuite, "arsq"), asked(D4RLSuite, "arsq", "--preset", "small")
    assert (paper.agent.hidden, paper.train.batch_size, paper.preset) == ((512, 512, 512), 512, "paper")
    assert (small.agent.state_layers, small.train.steps, small.preset) == (2, 60_000, "small")
    assert (small.agent.hidden, small.train.batch_size) == (paper.agent.hidden, paper.train.batch_size)
    # What a preset leaves open stays the task's.
    assert small.agent.levels == paper.agent.levels == 2
    both = asked(D4RLSuite, "arsq", "--preset", "small", "--batch-size", "64")
    assert (both.agent.state_layers, both.train.batch_size) == (2, 64)


def test_a_preset_reaches_the_benchmarks_own_flags() -> None:
    small = asked(RLBenchSuite, "arsq", "--preset", "small")
    assert (small.options.image_size, small.options.cameras) == (40, ("front", "wrist"))
    assert asked(RLBenchSuite, "arsq", "--preset", "small", "--observations", "state").options.demos == 20


@pytest.mark.parametrize("agent", ["sac", "td3", "dsac", "dsac-t"])
def test_the_baselines_are_as_dsac_ts_paper_ran_them(agent: str) -> None:
    """3 x 256 GELU, 1e-4, 20 environments and one update an iteration, for each of them."""
    made = asked(MujocoSuite, agent, "--task", "Ant-v5", "--preset", "dsac-t-paper")
    networks, loop = made.agent, made.train
    assert (networks.hidden, networks.activation) == ((256, 256, 256), "gelu")
    assert (networks.critic_lr, networks.actor_lr, networks.tau) == (1e-4, 1e-4, 0.005)
    assert (loop.num_envs, loop.utd * loop.num_envs, loop.batch_size) == (20, 1, 256)
    assert (loop.warmup_steps, loop.steps, loop.eval_every) == (10_000, 30_000_000, 50_000)
    assert made.preset == "dsac-t-paper"


def test_a_preset_of_other_agents_is_refused() -> None:
    with pytest.raises(UserError, match="--preset dsac-t-paper is for dsac-t, dsac, sac, td3, not for arsq"):
        asked(MujocoSuite, "arsq", "--preset", "dsac-t-paper")
    with pytest.raises(UserError, match=r"there are paper, small$"):
        asked(D4RLSuite, "sac", "--preset", "dsac-t-paper")


def test_flags_go_over_an_earlier_runs_settings(earlier: Path) -> None:
    new = asked(MujocoSuite, "--config", str(earlier), "--seed", "5")
    old = asked(MujocoSuite, "sac", *SHORT)
    assert differing(old, new).keys() == {"config", "seed", "runs_dir"}
    assert new.config == earlier
    assert asked(MujocoSuite, "sac", "--config", str(earlier), "--steps", "70").train.steps == 70
    same = asked(MujocoSuite, "--config", str(earlier), "--preset", "paper", "--seed", "5")
    assert not differing(new, same)


def test_a_new_run_from_an_earlier_ones_settings_trains_and_equals_it(earlier: Path, tmp_path: Path) -> None:
    assert main(MujocoSuite, ["--config", str(earlier), "--runs-dir", str(tmp_path)]) == 0
    (metrics,) = tmp_path.rglob("metrics.csv")
    rows = [
        [line for line in path.read_text().splitlines() if ",time/" not in line]
        for path in (metrics, earlier / "metrics.csv")
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "Hopper-v5"], "its settings are not for Hopper-v5"),
        (["--preset", "small"], "has settings of its own: --preset small would change none"),
        (["td3"], "is a run of sac, not of td3"),
    ],
)
def test_an_earlier_run_of_something_else_is_refused(flags: list[str], message: str, earlier: Path) -> None:
    with pytest.raises(UserError, match=message):
        asked(MujocoSuite, *flags, "--config", str(earlier))
    with pytest.raises(UserError, match="is a run of mujoco, not of d4rl"):
        asked(D4RLSuite, "--config", str(earlier))


def test_every_automatic_choice_is_made_once_and_written_down(earlier: Path) -> None:
    suite = D4RLSuite()
    given = default_experiment(suite, "bc", "hopper-medium-v2")
    given = dataclasses.replace(given, data=dataclasses.replace(given.data, offline=True))
    made = complete(suite, given)
    assert (made.train.steps, made.train.offline_steps) == (0, given.train.steps)
    assert made.device in ("cpu", "cuda:0")
    assert isinstance(made.threads, int)
    config = yaml.safe_load((earlier / "config.yaml").read_text())
    assert (config["suite"], config["agent_name"], config["train"]["steps"]) == ("mujoco", "sac", 60)
    assert config["resolved"] == {}  # everything that is chosen had been named
    offline = dataclasses.replace(given, train=dataclasses.replace(given.train, offline_steps=3))
    with pytest.raises(UserError, match="--offline-steps has to be 0"):
        complete(suite, offline)


def test_what_the_benchmark_chose_stays_chosen(earlier: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((earlier / "config.yaml").read_text())
    chosen = {"simulator": "auto", "observations": "state", "demos": 20}
    chosen |= {"cameras": ["front"], "image_size": 84, "frame_stack": 8}
    config |= {"suite": "rlbench", "options": chosen, "resolved": {"options.simulator": "mujoco"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert load_experiment(RLBenchSuite(), tmp_path)[1].options.simulator == "mujoco"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "agent_name": "ppo"}))
    with pytest.raises(UserError, match="no agent called 'ppo' here"):
        load_experiment(RLBenchSuite(), tmp_path)


def test_the_small_preset_trains_offline_too() -> None:
    small = ["arsq", "--preset", "small", "--observations", "state", "--offline"]
    assert asked(RLBenchSuite, *small).train.offline_steps == 0
    assert complete(RLBenchSuite(), asked(RLBenchSuite, *small)).train.offline_steps == 4_000


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_tasks_are_listed(suite: type, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(suite, ["sac", "--task", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert main(suite, ["sac", "--task=list"]) == 0
    assert capsys.readouterr().out.splitlines() == listed
    assert any(line.split()[0] == suite.default_task for line in listed)
    assert len(listed) > 8


def test_a_script_without_an_agent_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    shown = usage(MujocoSuite, "rlzoo train mujoco")
    for arguments in ([], ["--help"], ["--task", "Hopper-v5", "-h"]):
        assert main(MujocoSuite, arguments, "rlzoo train mujoco") == 0
        assert capsys.readouterr().out == f"{shown}\n"
    assert all(name in shown for name in AGENTS)
    with pytest.raises(UserError, match=r"which agent\? rlzoo train AGENT \[flags\]"):
        asked(MujocoSuite, "--steps", "3")


@pytest.mark.parametrize(("suite", "agent"), [(s, agent) for s in SUITES.values() for agent in s.agents])
def test_help_is_short_and_begins_with_the_agents_own_settings(
    suite: type, agent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(suite, [agent, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert text.index("--agent.") < text.index("--batch-size")


class TestCommand:
    """`rlzoo`, as it comes with the installation."""

    @staticmethod
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "rlzoo"), *arguments]
        return subprocess.run(command, text=True, capture_output=True, check=False, cwd=ROOT)

    def test_alone_it_lists_what_there_is(self) -> None:
        shown = self.run()
        assert shown.returncode == 0, shown.stderr
        names = [*cli.COMMANDS, *AGENTS, *SUITES, "presets: paper, small"]
        assert all(name in shown.stdout for name in names)

    @pytest.mark.parametrize("command", cli.COMMANDS)
    def test_every_command_has_help(self, command: str) -> None:
        shown = self.run(command, "--help")
        assert shown.returncode == 0, shown.stderr
        assert len(shown.stdout.splitlines()) > 5
        assert not shown.stderr

    def test_it_trains_as_the_script_does(self, tmp_path: Path) -> None:
        flags = ["sac", *SHORT, "--runs-dir", str(tmp_path)]
        trained = self.run("train", "mujoco", *flags)
        assert trained.returncode == 0, trained.stderr
        (info,) = tmp_path.rglob("run.json")
        assert '"command": "rlzoo train mujoco sac' in info.read_text()
        played = self.run("evaluate", str(info.parent), "--episodes", "2")
        assert "sac on Reacher-v5" in played.stdout, played.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["trian"], "error: no command called 'trian'; there are train, evaluate"),
            (["train", "gym"], "error: rlzoo train SUITE AGENT [flags], where SUITE is one of mujoco, d4rl"),
            (["train", "mujoco", "sac", "--task"], "error: --task: expected one argument"),
            (["train", "rlbench", "bc", "--observations", "sate"], "error: --observations: invalid choice"),
            (["tasks", "gym"], "error: no suite called gym; there are mujoco, d4rl, rlbench"),
        ],
    )
    def test_mistakes_are_one_line(self, arguments: list[str], message: str) -> None:
        result = self.run(*arguments)
        assert result.returncode == 2
        *before, line = result.stderr.splitlines()
        assert line.startswith(message)
        assert before in ([], ["loading PyTorch"])

    def test_tasks_are_listed_by_suite(self) -> None:
        listed = self.run("tasks", "d4rl").stdout.splitlines()
        assert "d4rl  hopper-medium-v2" in listed
