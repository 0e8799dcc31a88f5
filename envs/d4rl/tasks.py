"""D4RL's tasks as data: what each name stands for, its reference scores, where its dataset lies.

The numbers and addresses are D4RL's own (its files `d4rl/infos.py` and the `__init__.py` of its families);
D4RL: Fu et al., arXiv 2004.07219. No simulator is imported here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from rlzoo.errors import UserError

_HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


@dataclass(frozen=True)
class Family:
    """A group of tasks that are built alike.

    Attributes:
        name: "locomotion", "adroit", "antmaze", "kitchen" or "maze2d".
        differences: what still differs from D4RL's own environments, for whoever compares with published
            scores.
    """

    name: str
    differences: str


# Random returns: `make_dataset.py random --task hopper-random-v2 --steps 5000` (228 episodes) and
# `--task ant-random-v2 --steps 60000` (383), each with `--output FILE`, on MuJoCo 3.
LOCOMOTION = Family(
    "locomotion",
    "D4RL ran Gym's -v2 tasks on MuJoCo 2.0 through mujoco-py; these are Gymnasium's -v4 tasks (the same "
    "rewards, observations and terminations) on today's MuJoCo, whose contacts and integrator differ "
    "slightly. Ant's 84 contact-force columns are all zero in D4RL's -v2 files and are appended as zeros; "
    "whether they are zero in the -v0 and -v1 files is not known. Random actions return about what D4RL says "
    "with halfcheetah and walker2d, but 19 with hopper (D4RL: -20) and -57 with ant (D4RL: -326).",
)
ADROIT = Family(
    "adroit",
    "gymnasium-robotics' -v1 tasks on today's MuJoCo. Their rewards for door, hammer and relocate add the "
    "palm's distance where D4RL subtracts it, and their pen task neither ends when the pen is dropped nor "
    "after 100 steps: all of that is put back to D4RL's. Minari's sets for door, hammer and relocate were "
    "replayed there, so that their rewards may be of its kind (not checked). `success` is the goal at that "
    "step, while D4RL's evaluation counts an episode as solved after more than 25 such steps (pen: 20).",
)
ANTMAZE = Family(
    "antmaze",
    "gymnasium-robotics' AntMaze on today's MuJoCo, with D4RL's frame (the start cell at the origin, y "
    "growing with the rows), ant (time step 0.02 s, torques of 30, contact impedance), start and goal "
    "noise, reward and termination within 0.5 of the goal put back. The goal is drawn anew in every "
    "episode, as in -v2; -v0 and -v1 drew it once per environment. Not checked against D4RL's own files. "
    "In those files every step near the goal is marked terminal, so that many of their episodes are a "
    "single step.",
)
KITCHEN = Family(
    "kitchen",
    "gymnasium-robotics' FrankaKitchen-v1 on today's MuJoCo, with a converted model of the kitchen, "
    "D4RL's observation (9 robot and 21 object positions, 30 goal entries) and D4RL's noise ratio of 0.1. "
    "D4RL judges completion by the noisy object positions, this task by the true ones. D4RL's and Minari's "
    "files reward every finished part in every step, where D4RL's task and this one pay it once: the rewards "
    "of such files are made the task's, while published methods were trained on the files as they are.",
)
MAZE2D = Family(
    "maze2d",
    "gymnasium-robotics' PointMaze-v3 on today's MuJoCo, with D4RL's frame (x along the rows, y along the "
    "columns, the centre of cell (i, j) at (i - 0.2, j - 0.2)), fixed goal, start noise and reward within "
    "0.5 of the goal put back. D4RL's files reward the state before a step, the task the state after it; "
    "their time-outs mark that the planner reached its waypoint. A random policy scores here what D4RL "
    "says, except in the open mazes: their reference returns are of another reward (open-dense: 11 to 27, "
    "while a random policy gets 37 here).",
)


@dataclass(frozen=True)
class D4RLTask:
    """One D4RL task.

    Attributes:
        name: D4RL's name, "hopper-medium-v2".
        family: how it is built.
        env_id: the Gymnasium task behind it.
        state_dim, action_dim: S and A, as in the dataset; D4RL's actions are within [-1, 1] everywhere.
        max_episode_steps: the time limit.
        min_score, max_score: D4RL's reference returns of a random policy and of an expert.
        url: the dataset's address.
        variant: what tells the tasks of one `env_id` apart: a maze's name, with "-dense" for the dense
            reward; a kitchen's task set.
        minari: a Minari dataset of the same layout that could stand in, if there is one: for Adroit and
            Kitchen made from D4RL's own data, for locomotion other data of a similar level.
    """

    name: str
    family: Family
    env_id: str
    state_dim: int
    action_dim: int
    max_episode_steps: int
    min_score: float
    max_score: float
    url: str
    variant: str = ""
    minari: str | None = None


# name: Gymnasium task, S, A, steps, random's return, expert's return
_LOCOMOTION = {
    "halfcheetah": ("HalfCheetah-v4", 17, 6, 1000, -280.178953, 12135.0),
    "hopper": ("Hopper-v4", 11, 3, 1000, -20.272305, 3234.3),
    "walker2d": ("Walker2d-v4", 17, 6, 1000, 1.629008, 4592.3),
    "ant": ("Ant-v4", 111, 8, 1000, -325.6, 3879.7),
}

_ADROIT = {
    "pen": ("AdroitHandPen-v1", 45, 24, 100, 96.262799, 3076.8331017826877),
    "door": ("AdroitHandDoor-v1", 39, 28, 200, -56.512833, 2880.5693087298737),
    "hammer": ("AdroitHandHammer-v1", 46, 26, 200, -274.856578, 12794.134825156867),
    "relocate": ("AdroitHandRelocate-v1", 39, 30, 200, -6.425911, 4233.877797728884),
}
# source: what the -v0 files' names say instead
_SOURCES = {"human": "v0_demos_clipped", "cloned": "demos-v0-bc-combined", "expert": "v0_expert_clipped"}

# maze: steps, and what the -v0 and -v2 files' names call it
_ANTMAZE = {"umaze": (700, "u-maze"), "medium": (1000, "big-maze"), "large": (1000, "hardest-maze")}

_KITCHEN = {
    "complete": "mini_kitchen_microwave_kettle_light_slider-v0",
    "partial": "kitchen_microwave_kettle_light_slider-v0",
    "mixed": "kitchen_microwave_kettle_bottomburner_light-v0",
}

# name: maze and reward, steps, file, random's return, expert's return
_MAZE2D = {
    "open-v0": ("open", 150, "maze2d-open-sparse", 0.01, 20.66),
    "umaze-v1": ("umaze", 300, "maze2d-umaze-sparse-v1", 23.85, 161.86),
    "medium-v1": ("medium", 600, "maze2d-medium-sparse-v1", 13.13, 277.39),
    "large-v1": ("large", 800, "maze2d-large-sparse-v1", 6.7, 273.99),
    "open-dense-v0": ("open-dense", 150, "maze2d-open-dense", 11.17817, 27.166538620695782),
    "umaze-dense-v1": ("umaze-dense", 300, "maze2d-umaze-dense-v1", 68.537689, 193.66285642381482),
    "medium-dense-v1": ("medium-dense", 600, "maze2d-medium-dense-v1", 44.264742, 297.4552547777125),
    "large-dense-v1": ("large-dense", 800, "maze2d-large-dense-v1", 30.569041, 303.4857382709002),
}


def _locomotion() -> Iterator[D4RLTask]:
    for robot, row in _LOCOMOTION.items():
        for level in ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay"):
            file = f"{robot}_{level.replace('-', '_')}"
            # The first files had other names: "mixed" for medium-replay, and once without the "2d".
            old_file = f"{robot.removesuffix('2d')}_mixed" if level == "medium-replay" else file
            urls = {f"v{i}": f"{_HOST}/gym_mujoco_v{i}/{file}-v{i}.hdf5" for i in (1, 2)}
            if level != "full-replay":  # D4RL has it from -v1 on
                urls = {"v0": f"{_HOST}/gym_mujoco/{old_file}.hdf5"} | urls
            has_minari = level in ("medium", "expert") and robot != "ant"
            minari = f"mujoco/{robot}/{level}-v0" if has_minari else None
            for version, url in urls.items():
                yield D4RLTask(f"{robot}-{level}-{version}", LOCOMOTION, *row, url, minari=minari)


def _adroit() -> Iterator[D4RLTask]:
    for skill, row in _ADROIT.items():
        for source, old in _SOURCES.items():
            files = {"v0": f"hand_dapg/{skill}-{old}", "v1": f"hand_dapg_v1/{skill}-{source}-v1"}
            for version, file in files.items():
                name, url = f"{skill}-{source}-{version}", f"{_HOST}/{file}.hdf5"
                yield D4RLTask(name, ADROIT, *row, url, minari=f"D4RL/{skill}/{source}-v2")


def _antmaze() -> Iterator[D4RLTask]:
    for task in ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse"):
        maze, _, _ = task.partition("-")
        steps, old_maze = _ANTMAZE[maze]
        kind = f"noisy_multistart_{task != 'umaze'}_multigoal_{'diverse' in task}_sparse"
        files = {
            "v0": f"ant_maze_new/Ant_maze_{old_maze}_{kind}",
            "v1": f"ant_maze_v1/Ant_maze_{maze}_{kind}",
            "v2": f"ant_maze_v2/Ant_maze_{old_maze}_{kind}_fixed",
        }
        for version, file in files.items():
            name, url = f"antmaze-{task}-{version}", f"{_HOST}/{file}.hdf5"
            yield D4RLTask(name, ANTMAZE, "AntMaze_UMaze-v5", 29, 8, steps, 0.0, 1.0, url, maze)


def _kitchen() -> Iterator[D4RLTask]:
    for kind, file in _KITCHEN.items():
        name, url, minari = f"kitchen-{kind}-v0", f"{_HOST}/kitchen/{file}.hdf5", f"D4RL/kitchen/{kind}-v2"
        yield D4RLTask(name, KITCHEN, "FrankaKitchen-v1", 60, 9, 280, 0.0, 4.0, url, kind, minari)


def _maze2d() -> Iterator[D4RLTask]:
    for task, (variant, steps, file, low, high) in _MAZE2D.items():
        name, url = f"maze2d-{task}", f"{_HOST}/maze2d/{file}.hdf5"
        yield D4RLTask(name, MAZE2D, "PointMaze_UMaze-v3", 4, 2, steps, low, high, url, variant)


TASKS: dict[str, D4RLTask] = {
    task.name: task for family in (_locomotion, _adroit, _antmaze, _kitchen, _maze2d) for task in family()
}


def find(name: str) -> D4RLTask:
    """The task of a D4RL name.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "expected one like hopper-medium-v2"
        raise UserError(f"{name}: no such D4RL task; {hint}")
    return TASKS[name]


def normalized_score(task: str, mean_return: float) -> float:
    """D4RL's normalised score of an undiscounted return: 0 for a random policy, 100 for an expert.

    Raises:
        UserError: there is no task of that name.
    """
    row = find(task)
    return 100.0 * (mean_return - row.min_score) / (row.max_score - row.min_score)
