"""The agents. Each module is read top to bottom like its paper; AGENTS knows them by name."""

from algos.arsq import ARSQ
from algos.bc import BC
from algos.cqn import CQN
from algos.dsac_t import DSAC, DSACT
from algos.sac import SAC
from algos.td3 import TD3
from rlzoo.agent import Agent

AGENTS: dict[str, type[Agent]] = {
    "arsq": ARSQ,
    "cqn": CQN,
    "bc": BC,
    "dsac-t": DSACT,
    "dsac": DSAC,
    "sac": SAC,
    "td3": TD3,
}
