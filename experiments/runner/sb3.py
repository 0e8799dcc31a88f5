"""Agents of Stable-Baselines3 and sb3-contrib: their settings, their policies, and what trains them here.

Their fields are called as there. The packages (extra ``sb3``) are imported when an agent is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from pydantic import AfterValidator
from torch import Tensor, nn

from rlzoo.agent import Agent, AgentConfig, Update
from rlzoo.errors import SimulatorFailure, UserError
from rlzoo.nn.mlp import Activation
from rlzoo.run.extras import load_extra
from rlzoo.run.progress import Progress
from rlzoo.run.signals import StopSignal
from rlzoo.settings import Count, CountOrZero, Finite, NotNegative, Positive, Rate, Widths
from rlzoo.settings import Fraction as Share
from rlzoo.train import TrainConfig, Trainer
from rlzoo.types import Spaces, VectorTask

if TYPE_CHECKING:
    from rlzoo.run.logger import Logger  # which imports TensorBoard

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "elu": nn.ELU,
}
NORMALIZED_LIMIT, EPSILON = 10.0, 1e-8  # VecNormalize's defaults
# What Stable-Baselines3 logs, under our tags; an entropy loss is minus the entropy.
TAGS = {
    "actor_loss": "loss/actor",
    "critic_loss": "loss/critic",
    "ent_coef": "policy/temperature",
    "ent_coef_loss": "loss/temperature",
    "loss": "loss/total",
    "policy_gradient_loss": "loss/actor",
    "value_loss": "loss/critic",
    "entropy_loss": "policy/entropy",
    "explained_variance": "value/explained_variance",
    "approx_kl": "policy/kl",
    "clip_fraction": "policy/clip_fraction",
    "std": "policy/std",
    "policy_objective": "policy/objective",
    "kl_divergence_loss": "policy/kl",
    "is_line_search_success": "policy/line_search_success",
}


@dataclasses.dataclass(frozen=True)
class SB3Config(AgentConfig):
    """What all have; the defaults are Stable-Baselines3's, but for the normalisation and noise of its zoo."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers of every network."""
    activation: Activation = "relu"
    """After every hidden layer."""
    learning_rate: Positive = 3e-4
    """Adam's learning rate."""
    normalize: bool = False
    """Observations and rewards by running statistics."""


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig(SB3Config):
    """Of agents that learn from their latest steps."""

    hidden: Widths = (64, 64)
    """Widths of the hidden layers of policy and value."""
    activation: Activation = "tanh"
    """After every hidden layer."""
    normalize: bool = True
    """Observations and rewards by running statistics."""
    n_steps: Count = 2048
    """Steps of each environment between updates."""
    gae_lambda: Share = 0.95
    """lambda of the generalised advantage estimate."""


@dataclasses.dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """Hyperparameters of PPO."""

    n_epochs: Count = 10
    """Passes over the steps of an update."""
    clip_range: Positive = 0.2
    """epsilon of the clipped ratio."""
    ent_coef: NotNegative = 0.0
    """Weight of the entropy bonus."""
    vf_coef: NotNegative = 0.5
    """Weight of the value's loss."""
    max_grad_norm: Positive = 0.5
    """Gradients are clipped to this norm."""


@dataclasses.dataclass(frozen=True)
class TRPOConfig(OnPolicyConfig):
    """Hyperparameters of TRPO."""

    learning_rate: Positive = 1e-3
    """Adam's learning rate for the value."""
    target_kl: Positive = 0.01
    """delta: the divergence that a step may have."""
    cg_max_steps: Count = 15
    """Steps of conjugate gradients."""
    cg_damping: NotNegative = 0.1
    """Added to the Hessian's diagonal."""
    n_critic_updates: Count = 10
    """Passes over the steps for the value."""


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig(SB3Config):
    """Of agents that learn from a replay buffer."""

    tau: Rate = 0.005
    """Rate at which the targets follow."""


@dataclasses.dataclass(frozen=True)
class DDPGConfig(OffPolicyConfig):
    """Hyperparameters of DDPG."""

    hidden: Widths = (400, 300)
    """Widths of the hidden layers of every network."""
    learning_rate: Positive = 1e-3
    """Adam's learning rate."""
    exploration_noise: NotNegative = 0.1
    """Standard deviation of the Gaussian noise added when acting."""


@dataclasses.dataclass(frozen=True)
class TD3Config(DDPGConfig):
    """Hyperparameters of TD3."""

    policy_delay: Count = 2
    """Policy and targets update once in this many critic updates."""
    target_policy_noise: NotNegative = 0.2
    """Deviation of the noise that smooths the target policy's action."""
    target_noise_clip: NotNegative = 0.5
    """That noise is clipped to +- this."""


def _coefficient(text: str) -> str:
    with contextlib.suppress(ValueError):
        if text == "auto" or float(text.removeprefix("auto_")) > 0:
            return text
    raise ValueError("auto, auto_0.1 or a number above 0")


@dataclasses.dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """Hyperparameters of SAC."""

    ent_coef: Annotated[str, AfterValidator(_coefficient)] = "auto"
    """alpha: auto, auto_0.1 to start there, or a number."""
    target_entropy: Finite | None = None
    """In nats; None: minus the number of action dimensions."""


@dataclasses.dataclass(frozen=True)
class TQCConfig(SACConfig):
    """Hyperparameters of TQC."""

    n_critics: Count = 2
    """Critics."""
    n_quantiles: Count = 25
    """Quantiles of each critic."""
    top_quantiles_to_drop_per_net: CountOrZero = 2
    """The largest that the target leaves out, per critic."""


class SB3Agent(Agent):
    """The policy of one of their algorithms, from observations as the task has them to actions in [-1, 1]."""

    package: ClassVar[str] = "stable_baselines3"
    algorithm: ClassVar[str]  # its class there
    policy_fields: ClassVar[tuple[str, ...]] = ()  # of the config, that the policy is built with
    sees_images = False

    obs_mean: Tensor
    obs_var: Tensor

    def __init__(self, spaces: Spaces, config: Any, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.optimizers = {}
        policy_type = self.algorithm_type().policy_aliases["MlpPolicy"]
        self.observation_space = Box(-np.inf, np.inf, (spaces.state_dim,), np.float32)
        self.action_space = Box(-1.0, 1.0, (spaces.action_dim,), np.float32)
        self.policy = policy_type(
            self.observation_space, self.action_space, lambda _: config.learning_rate, **self.policy_kwargs()
        )
        # VecNormalize's statistics; they change nothing without `normalize`.
        self.register_buffer("obs_mean", torch.zeros(spaces.state_dim, dtype=torch.float64))
        self.register_buffer("obs_var", torch.ones(spaces.state_dim, dtype=torch.float64))
        self.to(device)

    @classmethod
    def algorithm_type(cls) -> Any:
        """The algorithm's class. A `UserError` if the extra is not installed."""
        load_extra("stable_baselines3", "sb3")
        return getattr(load_extra(cls.package, "sb3"), cls.algorithm)

    def policy_kwargs(self) -> dict[str, Any]:
        """What the policy is built with."""
        config = self.config
        kwargs = {"net_arch": list(config.hidden), "activation_fn": ACTIVATIONS[config.activation]}
        return kwargs | {name: getattr(config, name) for name in self.policy_fields}

    def act(self, obs: dict[str, Tensor], *, deterministic: bool) -> Tensor:
        """As the policy plays; one without noise of its own explores as it does in training."""
        state = obs["state"]
        if self.config.normalize:
            scaled = (state.double() - self.obs_mean) / (self.obs_var + EPSILON).sqrt()
            state = scaled.clamp(-NORMALIZED_LIMIT, NORMALIZED_LIMIT).float()
        with torch.no_grad():
            action: Tensor = self.policy._predict(state, deterministic=deterministic)
            if not deterministic and (noise := getattr(self.config, "exploration_noise", 0.0)):
                action = action + noise * torch.randn_like(action)
        return action.clamp(-1, 1)

    def update_cycle(self) -> tuple[Update, ...]:
        """None: Stable-Baselines3 updates it."""
        return ()


class PPO(SB3Agent):
    """Schulman et al. 2017."""

    Config = PPOConfig
    about = "Proximal Policy Optimization of Stable-Baselines3 (arXiv 1707.06347)"
    algorithm = "PPO"


class TRPO(SB3Agent):
    """Schulman et al. 2015."""

    Config = TRPOConfig
    about = "Trust Region Policy Optimization of sb3-contrib (arXiv 1502.05477)"
    package, algorithm = "sb3_contrib", "TRPO"


class DDPG(SB3Agent):
    """Lillicrap et al. 2015."""

    Config = DDPGConfig
    about = "Deep Deterministic Policy Gradient of Stable-Baselines3 (arXiv 1509.02971)"
    algorithm = "DDPG"

    def policy_kwargs(self) -> dict[str, Any]:
        """Of TD3's policy, with one critic."""
        return super().policy_kwargs() | {"n_critics": 1}


class TD3(SB3Agent):
    """Fujimoto et al. 2018."""

    Config = TD3Config
    about = "TD3 of Stable-Baselines3 (arXiv 1802.09477)"
    algorithm = "TD3"


class SAC(SB3Agent):
    """Haarnoja et al. 2018."""

    Config = SACConfig
    about = "Soft Actor-Critic of Stable-Baselines3 (arXiv 1812.05905)"
    algorithm = "SAC"


class TQC(SB3Agent):
    """Kuznetsov et al. 2020."""

    Config = TQCConfig
    about = "Truncated Quantile Critics of sb3-contrib (arXiv 2005.04269)"
    package, algorithm = "sb3_contrib", "TQC"
    policy_fields = ("n_critics", "n_quantiles")


SB3_AGENTS: dict[str, type[SB3Agent]] = {
    "sb3-ppo": PPO,
    "sb3-trpo": TRPO,
    "sb3-ddpg": DDPG,
    "sb3-td3": TD3,
    "sb3-sac": SAC,
    "sb3-tqc": TQC,
}


def make_model(agent: SB3Agent, env: Any, train: TrainConfig, *, seed: int, device: torch.device) -> Any:
    """The algorithm that trains `agent` on a `VecEnv`, whose policy becomes the agent's."""
    config = agent.config
    own = {"hidden", "activation", "normalize", "exploration_noise", *agent.policy_fields}
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    settings = {name: value for name, value in settings.items() if name not in own}
    settings |= {"batch_size": train.batch_size, "gamma": train.discount}
    if isinstance(config, SACConfig) and config.target_entropy is None:
        settings["target_entropy"] = "auto"
    if isinstance(config, OffPolicyConfig):
        # `utd` updates per step of an environment, as updates after every so many steps of all of them.
        rate = Fraction(train.utd * train.num_envs).limit_denominator(1000)
        settings |= {"train_freq": rate.denominator, "gradient_steps": rate.numerator}
        settings |= {"buffer_size": train.buffer_capacity, "learning_starts": train.warmup_steps}
        settings |= {"n_steps": train.n_step}
    if noise := getattr(config, "exploration_noise", 0.0):
        from stable_baselines3.common.noise import NormalActionNoise

        size = agent.action_space.shape
        settings["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, noise))
    kwargs = agent.policy_kwargs()
    try:
        model = agent.algorithm_type()(
            "MlpPolicy", env, policy_kwargs=kwargs, seed=seed, device=device, **settings
        )
    except AssertionError as error:  # its way to refuse settings
        raise UserError(f"Stable-Baselines3 refuses these settings: {error}") from error
    from stable_baselines3.common.logger import Logger as TheirLogger

    model.set_logger(TheirLogger(None, []))  # its own choice leaves a folder in the temporary one
    agent.policy = model.policy
    return model


class SB3Trainer(Trainer):
    """Runs an algorithm of Stable-Baselines3, and logs, evaluates and saves as `Trainer` does.

    Its checkpoints hold the policy and what it came to, not what the run would need to go on exactly.

    Args:
        model: the algorithm, of `make_model`.
        others: as for `Trainer`.
    """

    agent: SB3Agent

    def __init__(
        self, model: Any, agent: SB3Agent, eval_task: VectorTask, config: TrainConfig, **others: Any
    ) -> None:
        # It steps environments of its own, and has a buffer of its own.
        super().__init__(agent, eval_task, eval_task, config, replay=None, **others)  # type: ignore[arg-type]
        self.model = model

    def describe(self) -> str:
        """The library and its version."""
        return f"Stable-Baselines3 {load_extra('stable_baselines3', 'sb3').__version__}"

    def run(self, logger: Logger, progress: Progress, stop: StopSignal, run_dir: Path) -> None:
        """Train to the end, or to the first step after a signal; a checkpoint is written either way."""
        self.logger, self.progress, self.run_dir, self.stop = logger, progress, run_dir, stop
        self.best_saved = -math.inf  # also of a run that starts anew
        self.start_clock()
        try:
            self.model.learn(
                self.config.steps, callback=lambda found, _: self._count_step(found), log_interval=None
            )
        except SimulatorFailure:  # its environments cannot begin anew: what was learnt is kept
            self._checkpoint()
            raise
        except ValueError as error:
            if "constraint" not in str(error):  # of a PyTorch distribution on its parameters
                raise
            self._check_weights()
            self._fail_not_finite("the policy's distribution", "not finite")
        self.counters.online_updates = self.model._n_updates
        self._after_step()
        if not stop.requested:
            self._announce_goal()
            if not self.evaluated:
                self._evaluate()
        self._checkpoint()

    def _count_step(self, found: dict[str, Any]) -> bool:
        """After a step of all environments; `found` are the loop's variables. Returns whether to go on."""
        counters = self.counters
        if counters.env_steps >= self.config.steps:
            return False  # in the midst of steps that no update will be made of
        counters.env_steps, counters.online_updates = self.model.num_timesteps, self.model._n_updates
        ended = (info["episode"] for info in found["infos"] if "episode" in info)
        self.finished += [(episode["r"], episode["l"]) for episode in ended]
        if counters.env_steps < self.config.steps:  # the last step has its update yet to come
            self._after_step()
        return self._goes_on(self.stop)

    def _log(self) -> None:
        metrics = {}
        for key, value in self.model.logger.name_to_value.items():
            tag = TAGS.get(key.removeprefix("train/"), "")
            number = -float(value) if tag == "policy/entropy" else float(value)
            # The explained variance of rewards that are all the same is not defined.
            if tag and (math.isfinite(number) or tag.startswith("loss/")):
                metrics[tag] = torch.tensor(number, device=self.device)
        self.metrics |= metrics
        self._watch(metrics)
        super()._log()

    def _evaluate(self) -> Any:
        self._copy_statistics()
        return super()._evaluate()  # type: ignore[func-returns-value]

    def _checkpoint(self) -> None:
        self._copy_statistics()
        super()._checkpoint()

    def _copy_statistics(self) -> None:
        """Those of the environments' normalisation, to the agent."""
        if (normalize := self.model.get_vec_normalize_env()) is not None:
            self.agent.obs_mean.copy_(torch.from_numpy(normalize.obs_rms.mean))
            self.agent.obs_var.copy_(torch.from_numpy(normalize.obs_rms.var))

    def state_dict(self) -> dict[str, Any]:
        """The agent, and what came of it."""
        return {
            "agent": self.agent.state_dict(),
            "counters": vars(self.counters).copy(),
            "evaluations": [dict(row) for row in self.evaluations],
        }
