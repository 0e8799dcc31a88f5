"""The replay buffer against closed-form answers: every value says where it came from."""

from collections.abc import Callable
from time import process_time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.arsq import ARSQ, ARSQConfig
from envs.rlbench.protocol import ACTION_DIM, CAMERAS, FRAME_STACK, IMAGE_SIZE, TIME_LIMITS
from experiments.presets import rlbench as presets
from rlzoo.errors import UserError
from rlzoo.replay import FrameStacker, ReplayBuffer, bytes_per_row, empty_batch, map_batch
from rlzoo.types import Batch, Episode, Spaces

CPU = torch.device("cpu")
STATES = Spaces(state_dim=2, action_dim=1)


def make(
    capacity: int = 64, lanes: int = 1, *, n_step: int = 1, discount: float = 0.5, spaces: Spaces = STATES
) -> ReplayBuffer:
    return ReplayBuffer(spaces, capacity=capacity, lanes=lanes, device=CPU, discount=discount, n_step=n_step)


class Recorder:
    """Plays scripted episodes into a buffer: state = (lane's episode number, time), reward = time + 1."""

    def __init__(self, buffer: ReplayBuffer, lengths: list[list[int]], *, terminated: bool) -> None:
        self.buffer, self.terminated = buffer, terminated
        self.lengths = lengths  # [lane][episode] in steps
        self.episode = [0] * len(lengths)
        self.time = [0] * len(lengths)

    def step(self) -> None:
        lanes = range(len(self.lengths))
        state = np.array([[100 * lane + self.episode[lane], self.time[lane]] for lane in lanes], np.float32)
        length = [self.lengths[lane][self.episode[lane]] for lane in lanes]
        final = np.array([self.time[lane] == length[lane] for lane in lanes])  # this step only resets
        ends = np.array([self.time[lane] == length[lane] - 1 for lane in lanes])
        reward = np.where(final, 0.0, np.array(self.time) + 1.0).astype(np.float32)
        obs: dict[str, np.ndarray] = {"state": state}
        if self.buffer.spaces.pixels is not None:
            obs["pixels"] = state[:, 1].astype(np.uint8).reshape(-1, 1, 1, 1, 1)
        self.buffer.add(obs, state[:, 1:], reward, ends & self.terminated, ends & (not self.terminated))
        for lane in lanes:
            self.episode[lane] += int(final[lane])
            self.time[lane] = 0 if final[lane] else self.time[lane] + 1


def everything(buffer: ReplayBuffer) -> Batch:
    """Every transition that can be sampled, in time order."""
    first = buffer._starts_end - len(buffer)
    order = (torch.arange(len(buffer)) + first) % len(buffer._starts)
    return buffer._gather(buffer._starts[order])


def test_rewards_and_their_n_step_sums_are_scaled_where_they_are_sampled() -> None:
    plain, scaled = make(n_step=2), make(n_step=2)
    scaled.reward_scale = 100.0
    for buffer in (plain, scaled):
        recorder = Recorder(buffer, [[4, 9]], terminated=True)
        for _ in range(7):
            recorder.step()
    assert everything(plain).reward.tolist()[:4] == [2.0, 3.5, 5.0, 4.0]
    torch.testing.assert_close(everything(scaled).reward, 100 * everything(plain).reward)
    torch.testing.assert_close(everything(scaled).discount, everything(plain).discount)


def test_one_step_transitions_of_a_terminated_episode() -> None:
    buffer = make()
    recorder = Recorder(buffer, [[3, 9]], terminated=True)
    for _ in range(6):  # three steps, the final observation, two steps of the next episode
        recorder.step()
    batch = everything(buffer)
    # The newest step waits for its next observation.
    assert batch.obs["state"].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert batch.next_obs["state"].tolist() == [[0, 1], [0, 2], [0, 3], [1, 1]]
    assert batch.action[:, 0].tolist() == [0, 1, 2, 0]
    assert batch.reward.tolist() == [1, 2, 3, 1]
    assert batch.discount.tolist() == [0.5, 0.5, 0.0, 0.5]


def test_a_timeout_bootstraps_from_the_final_observation() -> None:
    buffer = make()
    recorder = Recorder(buffer, [[3, 9]], terminated=False)
    for _ in range(5):
        recorder.step()
    batch = everything(buffer)
    assert batch.next_obs["state"].tolist() == [[0, 1], [0, 2], [0, 3]]
    assert batch.discount.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("terminated", [True, False])
def test_n_step_returns_stop_at_the_episode_end_and_at_the_newest_row(terminated: bool) -> None:
    buffer = make(n_step=3)
    recorder = Recorder(buffer, [[4, 9]], terminated=terminated)
    for _ in range(8):  # states 0..3, final 4, then 0, 1, 2 of the next episode
        recorder.step()
    batch = everything(buffer)
    end = 0.0 if terminated else 1.0
    assert batch.obs["state"][:, 1].tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.reward.tolist() == [
        1 + 0.5 * 2 + 0.25 * 3,
        2 + 0.5 * 3 + 0.25 * 4,
        3 + 0.5 * 4,  # the episode ends here
        4,
        1 + 0.5 * 2,  # recorded up to the third observation
        2,
    ]
    assert batch.discount.tolist() == [0.125, 0.125 * end, 0.25 * end, 0.5 * end, 0.25, 0.5]
    assert batch.next_obs["state"].tolist() == [[0, 3], [0, 4], [0, 4], [0, 4], [1, 2], [1, 2]]


def test_lanes_do_not_mix() -> None:
    buffer = make(lanes=2, n_step=2)
    recorder = Recorder(buffer, [[2, 9], [5, 9]], terminated=True)
    for _ in range(6):
        recorder.step()
    batch = everything(buffer)
    lane, next_lane = batch.obs["state"][:, 0] // 100, batch.next_obs["state"][:, 0] // 100
    assert torch.equal(lane, next_lane)
    assert batch.obs["state"][lane == 0].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert batch.obs["state"][lane == 1].tolist() == [[100, t] for t in range(5)]


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("n_step", [1, 4])
def test_wrapping_keeps_exactly_the_newest_rows(lanes: int, n_step: int) -> None:
    rows = 12
    buffer = make(rows * lanes, lanes, n_step=n_step)
    recorder = Recorder(buffer, [[5] * 40] * lanes, terminated=False)
    for count in range(1, 100):
        recorder.step()
        batch = everything(buffer)
        # Row r of a lane is the state at time r % 6 of episode r // 6; time 5 is a final observation.
        newest = range(max(0, count - rows), count - 1)
        expected = [[100 * lane + r // 6, r % 6] for r in newest if r % 6 != 5 for lane in range(lanes)]
        assert batch.obs["state"].tolist() == expected
        steps = batch.next_obs["state"][:, 1] - batch.obs["state"][:, 1]
        assert torch.equal(batch.next_obs["state"][:, 0], batch.obs["state"][:, 0])
        assert bool((steps >= 1).all() and (steps <= n_step).all())
        time = batch.obs["state"][:, 1]
        expected_reward = sum(
            torch.where(k < steps, (time + k + 1) * 0.5**k, torch.zeros_like(time)) for k in range(n_step)
        )
        torch.testing.assert_close(batch.reward, expected_reward)
        torch.testing.assert_close(batch.discount, 0.5**steps)


def test_sampling_is_uniform_and_reproducible() -> None:
    buffers = [make() for _ in range(2)]
    for buffer in buffers:
        recorder = Recorder(buffer, [[4, 4, 9]], terminated=True)
        for _ in range(12):
            recorder.step()
    first, second = (buffer.sample(20_000) for buffer in buffers)
    assert torch.equal(first.obs["state"], second.obs["state"])
    _, counts = torch.unique(first.obs["state"], dim=0, return_counts=True)
    assert len(counts) == len(buffers[0])
    # Each is drawn 20,000 / 9 times, give or take five standard deviations.
    mean = 20_000 / len(counts)
    assert (counts - mean).abs().max() < 5 * mean**0.5


def episode(number: int, length: int, *, terminated: bool = False) -> Episode:
    time = np.arange(length + 1, dtype=np.float32)
    return Episode(
        obs={"state": np.stack((np.full(length + 1, number, np.float32), time), axis=1)},
        action=time[:length, None],
        reward=time[:length] + 1,
        terminated=terminated,
    )


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    lanes=st.integers(1, 4),
    n_step=st.integers(1, 4),
    before=st.integers(0, 2),
)
@settings(deadline=None, max_examples=60)
def test_whole_episodes_become_exactly_their_transitions(
    lengths: list[int], lanes: int, n_step: int, before: int
) -> None:
    buffer = make(200 * lanes, lanes, n_step=n_step)
    episodes = [episode(i, length, terminated=i % 2 == 0) for i, length in enumerate(lengths)]
    for _ in range(before):  # also when the ring has moved on already
        buffer.add_episodes([episode(99, 3)] * lanes)
    buffer.add_episodes(episodes)
    batch = everything(buffer)
    fresh = batch.obs["state"][:, 0] != 99
    found = sorted(map(tuple, batch.obs["state"][fresh].tolist()))
    assert found == sorted((i, t) for i, length in enumerate(lengths) for t in range(length))
    time, number = batch.obs["state"][fresh, 1], batch.obs["state"][fresh, 0].long()
    steps = torch.minimum(torch.tensor(lengths)[number] - time, torch.tensor(n_step))
    assert torch.equal(batch.next_obs["state"][fresh, 1], time + steps)
    ends = (time + steps == torch.tensor(lengths)[number]) & (number % 2 == 0)
    torch.testing.assert_close(batch.discount[fresh], 0.5**steps * ~ends)


def test_episodes_then_steps_then_wrap() -> None:
    buffer = make(20)
    buffer.add_episodes([episode(7, 6), episode(8, 6)])  # 14 rows
    recorder = Recorder(buffer, [[50]], terminated=False)
    for _ in range(10):  # 24 rows written: the first 4 are gone
        recorder.step()
    states = everything(buffer).obs["state"].tolist()
    assert states == [[7, 4], [7, 5]] + [[8, t] for t in range(6)] + [[0, t] for t in range(9)]


def test_whole_episodes_wrap_around() -> None:
    buffer = make(20)
    buffer.add_episodes([episode(1, 8), episode(2, 8)])  # 18 rows
    for number in range(3, 9):
        buffer.add_episodes([episode(number, 8)])
        states = everything(buffer).obs["state"].tolist()
        # 20 rows hold the newest two episodes, and of the one before time 7 and the final observation.
        assert states == [[number - 2, 7]] + [[n, t] for n in (number - 1, number) for t in range(8)]


def test_episodes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="do not fit"):
        make(10).add_episodes([episode(0, 10)])


PIXELS = Spaces(state_dim=2, action_dim=1, pixels=(1, 3, 1, 1), frame_stack=3)


def test_frame_stacks_repeat_the_first_frame_and_match_acting() -> None:
    buffer = make(30, spaces=PIXELS)
    recorder = Recorder(buffer, [[4, 20]], terminated=True)
    for _ in range(9):
        recorder.step()
    batch = everything(buffer)
    stacks = batch.obs["pixels"].reshape(len(buffer), 3).tolist()
    assert stacks[:4] == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert stacks[4:] == [[0, 0, 0], [0, 0, 1], [0, 1, 2]]
    next_stacks = batch.next_obs["pixels"].reshape(len(buffer), 3).tolist()
    assert next_stacks[:4] == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    stacker = FrameStacker(PIXELS)
    for time, expected in enumerate(stacks[:4]):
        frame = np.full((1, 1, 1, 1, 1), time, np.uint8)
        assert stacker({"pixels": frame}, np.array([time == 0]))["pixels"].reshape(3).tolist() == expected
    fresh = stacker({"pixels": np.zeros((1, 1, 1, 1, 1), np.uint8)}, np.array([True]))
    assert fresh["pixels"].reshape(3).tolist() == [0, 0, 0]


def test_frame_stacks_never_reach_overwritten_rows() -> None:
    buffer = make(10, spaces=PIXELS)
    recorder = Recorder(buffer, [[200]], terminated=True)
    for _ in range(57):
        recorder.step()
        batch = everything(buffer)
        for state, stack in zip(batch.obs["state"], batch.obs["pixels"], strict=True):
            time = int(state[1])
            assert stack.reshape(3).tolist() == [max(0, time - 2), max(0, time - 1), time]


def test_frame_stacks_of_several_views_and_lanes() -> None:
    spaces = Spaces(state_dim=2, action_dim=1, pixels=(3, 8, 2, 2), frame_stack=4)  # two colours
    buffer = make(60, 2, spaces=spaces)
    nothing = np.zeros(2, np.bool_)
    for time in range(20):
        lane, view, colour = np.meshgrid(np.arange(2), np.arange(3), np.arange(2), indexing="ij")
        value = time + 20 * (lane + 2 * view + 6 * colour)
        pixels = np.broadcast_to(value[..., None, None], (2, 3, 2, 2, 2)).astype(np.uint8)
        state = np.array([[0, time], [1, time]], np.float32)
        buffer.add({"state": state, "pixels": pixels}, state[:, :1], state[:, 1], nothing, nothing)
    batch = everything(buffer)
    for obs in (batch.obs, batch.next_obs):
        assert obs["pixels"].shape == (len(buffer), 3, 8, 2, 2)
        for (lane_, time_), stack in zip(obs["state"].long().tolist(), obs["pixels"].long(), strict=True):
            for view in range(3):
                expected = [
                    max(0, time_ - 3 + frame) + 20 * (lane_ + 2 * view + 6 * colour)
                    for frame in range(4)
                    for colour in range(2)
                ]
                assert stack[view, :, 0, 0].tolist() == expected
                assert stack[view, :, 1, 1].tolist() == expected


@pytest.mark.parametrize("spaces", [STATES, PIXELS], ids=["states", "pixels"])
@pytest.mark.parametrize("terminated", [True, False])
def test_the_newest_episode_comes_back_whole(spaces: Spaces, terminated: bool) -> None:
    buffer = make(24, 2, spaces=spaces)
    recorder = Recorder(buffer, [[3] * 99, [4] * 99], terminated=terminated)
    for count in range(1, 60):
        recorder.step()
        for lane, length in enumerate((3, 4)):
            if count % (length + 1):
                continue
            found = buffer.newest_episode(lane, length)
            number = 100 * lane + count // (length + 1) - 1
            assert found.obs["state"].tolist() == [[number, time] for time in range(length + 1)]
            assert found.reward.tolist() == list(range(1, length + 1))
            assert found.action[:, 0].tolist() == list(range(length))
            assert found.terminated == terminated
            if spaces.pixels is not None:
                assert found.obs["pixels"].reshape(-1).tolist() == list(range(length + 1))
    with pytest.raises(ValueError, match="longer"):
        buffer.newest_episode(0, 12)


def test_rlbench_s_buffers_take_less_than_5_gb() -> None:
    """30,250 steps, 100 demonstrations in the replay and beside it, and what joins them: four cameras."""
    preset = presets.preset("paper", "arsq", "reach_target", pixels=True)
    assert preset["buffer_capacity"] > preset["steps"]
    shape = (len(CAMERAS), 3 * FRAME_STACK, IMAGE_SIZE, IMAGE_SIZE)
    row = bytes_per_row(Spaces(8, ACTION_DIM, pixels=shape, frame_stack=FRAME_STACK))
    assert row < 1.01 * len(CAMERAS) * 3 * IMAGE_SIZE**2
    demos = 100 * (TIME_LIMITS["reach_target"] + 1)
    assert (preset["steps"] + demos) * row < 3.1e9  # each frame once
    rows = preset["buffer_capacity"] + demos + TIME_LIMITS["reach_target"] + demos + preset["join_capacity"]
    assert rows * row < 5e9


def test_sampling_images_takes_less_than_an_update() -> None:
    """A fifth of the batch and an eighth of the channels, where the update has the least work to do."""
    spaces = Spaces(8, 8, pixels=(2, 24, 84, 84), frame_stack=8)
    buffer = make(300, spaces=spaces)
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(260, 2, 3, 84, 84), dtype=np.uint8)
    zeros = np.zeros((260, 8), np.float32)
    buffer.add_episodes(
        [Episode({"state": zeros, "pixels": pixels}, zeros[1:], zeros[1:, 0], terminated=True)]
    )
    agent = ARSQ(spaces, ARSQConfig(levels=3, bins=5, hidden=(64,), encoder_channels=(4, 8, 16, 32)), CPU)

    def seconds(call: Callable[[], object]) -> float:
        times = []
        for _ in range(4):
            started = process_time()
            call()
            times.append(process_time() - started)
        return min(times)

    batch = buffer.sample(32)
    assert seconds(lambda: buffer.sample(32)) < seconds(lambda: agent.update(batch))


def test_images_are_stored_once() -> None:
    spaces = Spaces(state_dim=8, action_dim=8, pixels=(4, 24, 84, 84), frame_stack=8)
    buffer = make(200, spaces=spaces)
    images = 200 * 4 * 3 * 84 * 84
    assert images < buffer.nbytes < 1.01 * images


@pytest.mark.parametrize("spaces", [STATES, PIXELS], ids=["states", "pixels"])
def test_state_dict_continues_exactly(spaces: Spaces) -> None:
    def play(buffer: ReplayBuffer, steps: int, recorder: Recorder | None = None) -> Recorder:
        recorder = recorder or Recorder(buffer, [[4] * 99, [6] * 99], terminated=True)
        recorder.buffer = buffer
        for _ in range(steps):
            recorder.step()
        return recorder

    straight, original, resumed = (make(40, 2, n_step=2, spaces=spaces) for _ in range(3))
    play(straight, 80)
    straight.sample(5)
    recorder = play(original, 33)
    original.sample(5)
    resumed.load_state_dict(original.state_dict())
    play(resumed, 47, recorder)
    one, other = straight.sample(64), resumed.sample(64)
    assert torch.equal(one.obs["state"], other.obs["state"])
    assert torch.equal(one.reward, other.reward)
    assert torch.equal(one.next_obs["state"], other.next_obs["state"])
    if spaces.pixels is not None:
        assert torch.equal(one.obs["pixels"], other.obs["pixels"])


def test_state_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        make(40).load_state_dict(make(50).state_dict())


def test_too_small_and_too_large_buffers_are_refused() -> None:
    with pytest.raises(UserError, match="too small"):
        make(3, 2)
    with pytest.raises(UserError, match="buffer-capacity"):
        make(2**45)


def test_demonstrations_keep_their_share_of_a_batch() -> None:
    replay, demos = make(), ReplayBuffer(STATES, capacity=20, lanes=1, device=CPU, discount=0.5, is_demo=True)
    replay.add_episodes([episode(1, 8)])
    demos.add_episodes([episode(2, 8)])
    batch = empty_batch(STATES, 8, CPU)
    demos.sample(3, map_batch(lambda tensor: tensor[:3], batch))
    replay.sample(5, map_batch(lambda tensor: tensor[3:], batch))
    assert batch.is_demo.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert batch.obs["state"][:, 0].tolist() == [2, 2, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("rows", [40, 12])
def test_episodes_come_back_whole_also_after_the_ring_has_wrapped(rows: int) -> None:
    """Two lanes of episodes of 4 steps; the newest two are still without their final observation."""
    buffer = ReplayBuffer(Spaces(1, 1), capacity=2 * rows, lanes=2, device=torch.device("cpu"), discount=0.9)
    clock, length = np.array([0, 2]), 4  # lane 1 is two steps ahead
    for row in range(22):
        obs = np.array([[row], [100 + row]], np.float32)
        at_end = clock == length  # the final observation's row
        ended = clock == length - 1
        buffer.add({"state": obs}, obs, obs[:, 0], ended, np.zeros(2, np.bool_))
        clock = np.where(at_end, 0, clock + 1)
    episodes = buffer.episodes()
    begins = [int(episode.obs["state"][0, 0]) for episode in episodes]
    if rows == 40:
        assert begins == [0, 100, 103, 5, 108, 10, 113, 15, 118, 20]
    else:  # row 10 is the oldest: lane 0 begins an episode there, but nothing left in the buffer says so
        assert begins == [113, 15, 118, 20]
    for episode in episodes:
        begin, steps = episode.obs["state"][0, 0], len(episode)
        np.testing.assert_array_equal(episode.obs["state"][:, 0], begin + np.arange(steps + 1))
        np.testing.assert_array_equal(episode.reward, begin + np.arange(steps))
        is_whole = steps == length or begin == 100
        assert episode.terminated == is_whole
        assert episode.action.shape == (steps, 1)


def contents(episodes: list[Episode]) -> list[tuple[int, int]]:
    """(number, length) of episodes made by `episode`, which must be whole."""
    for found in episodes:
        assert found.obs["state"][:, 1].tolist() == list(range(len(found) + 1))
        assert len(set(found.obs["state"][:, 0].tolist())) == 1
        assert found.reward.tolist() == list(range(1, len(found) + 1))
    return [(int(found.obs["state"][0, 0]), len(found)) for found in episodes]


def add_steps(buffer: ReplayBuffer, number: int, length: int, steps: int) -> None:
    """The first `steps` steps of an episode in every lane."""
    lanes = np.ones(buffer.lanes, np.float32)
    for time in range(steps):
        state = np.stack((number * lanes, time * lanes), axis=1)
        ended = np.full(buffer.lanes, time == length - 1)
        buffer.add({"state": state}, lanes[:, None], lanes * (time + 1), ended, ended & False)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_padding_of_the_shorter_lanes_is_no_part_of_an_episode(before: int) -> None:
    buffer = make(3 * 30, lanes=3)
    for _ in range(before):  # so that the padding lies where steps lay before: 20 rows each
        buffer.add_episodes([episode(9, 4)] * 12)
    buffer.add_episodes([episode(1, 7), episode(2, 3)])  # nothing for the third lane
    assert sorted(contents(buffer.episodes())[-2:]) == [(1, 7), (2, 3)]
    assert len(buffer.episodes()) == [2, 14, 14][before]
    add_steps(buffer, 5, length=99, steps=4)
    found = contents(buffer.episodes())
    assert [item for item in found if item[0] != 9] == [(1, 7), (2, 3), (5, 3), (5, 3), (5, 3)]
    states = everything(buffer).obs["state"][:, 0].tolist()
    assert [states.count(number) for number in (1, 2, 5)] == [7, 3, 9]
    assert set(states) <= {1, 2, 5, 9}


@pytest.mark.parametrize("steps", [12, 13, 60])
def test_a_lane_without_any_start_left_gives_no_episode(steps: int) -> None:
    buffer = make(12)
    add_steps(buffer, 3, length=99, steps=steps)
    assert contents(buffer.episodes()) == ([(3, 11)] if steps == 12 else [])


def test_a_new_episode_in_a_wrapped_lane_is_given_from_its_start() -> None:
    buffer = make(12)
    add_steps(buffer, 3, length=9, steps=9)
    add_steps(buffer, 99, length=99, steps=1)  # the final observation
    add_steps(buffer, 4, length=99, steps=5)
    assert contents(buffer.episodes()) == [(4, 4)]


class Ledger:
    """What was written into each row of each lane, kept beside a buffer to judge what it samples."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer
        self.lanes: list[list[tuple[int, int, int] | None]] = [[] for _ in range(buffer.lanes)]
        self.count = 0  # episodes so far

    def episode(self, length: int) -> Episode:
        """The next episode: state (number, time), pixels that tell both apart."""
        self.count += 1
        made = episode(self.count, length, terminated=self.count % 2 == 0)
        pixels = self.pixels(self.count, np.arange(length + 1)).reshape(-1, 1, 1, 1, 1)
        return Episode({**made.obs, "pixels": pixels}, made.action, made.reward, made.terminated)

    @staticmethod
    def pixels(number: int, time: np.ndarray) -> np.ndarray:
        return (37 * number + time).astype(np.uint8)

    def add_whole(self, lengths: list[int]) -> None:
        first = self.count + 1
        self.buffer.add_episodes([self.episode(length) for length in lengths])
        # Where each went is the buffer's affair: read back from the rows that it says are its own.
        rows = self.buffer._written - len(self.lanes[0])
        at = (len(self.lanes[0]) + np.arange(rows)) % self.buffer.rows
        states = self.buffer._fields["state"].view(self.buffer.rows, self.buffer.lanes, 2)[at].numpy()
        for lane, written in enumerate(self.lanes):
            known = {number: lengths[number - first] for number in range(first, self.count + 1)}
            new = [(int(n), int(t), known.get(int(n), -1)) for n, t in states[:, lane]]
            written.extend(row if row[2] >= row[1] else None for row in new)

    def add_stepwise(self, length: int) -> None:
        """An episode in every lane, and its final observation."""
        made = [self.episode(length) for _ in self.lanes]
        for time in range(length + 1):
            obs = {name: np.stack([one.obs[name][time] for one in made]) for name in ("state", "pixels")}
            last = min(time, length - 1)  # ignored with the final observation
            action = np.stack([one.action[last] for one in made])
            reward = np.array([one.reward[last] for one in made])
            ended = np.full(len(made), time == length - 1)
            terminated = ended & [one.terminated for one in made]
            self.buffer.add(obs, action, reward, terminated, ended & ~terminated)
            for lane, one in enumerate(made):
                self.lanes[lane].append((int(one.obs["state"][0, 0]), time, length))
            self.check()

    def check(self) -> None:
        """Every transition that can be sampled was recorded and is stored whole, and each is there once.

        Every episode that the buffer gives is whole from its start on.
        """
        buffer = self.buffer
        contents(buffer.episodes())
        stored: dict[tuple[int, int], int] = {}  # (number, time) -> row number, of the rows still there
        lengths: dict[int, int] = {}
        for rows in self.lanes:
            for row in range(max(0, len(rows) - buffer.rows), len(rows)):
                entry = rows[row]
                if entry is not None:
                    stored[entry[:2]] = row
                    lengths[entry[0]] = entry[2]
        if not len(buffer):
            return
        batch = everything(buffer)
        found = [(int(n), int(t)) for n, t in batch.obs["state"].tolist()]
        assert len(set(found)) == len(found)
        stack = buffer.spaces.frame_stack
        for index, (number, time) in enumerate(found):
            steps = int(batch.next_obs["state"][index, 1]) - time
            assert (number, time) in stored
            assert (number, time + steps) in stored
            assert time + steps <= lengths[number]
            assert 1 <= steps <= buffer.n_step
            assert batch.reward[index] == sum((time + k + 1) * 0.5**k for k in range(steps))
            for obs, now in ((batch.obs, time), (batch.next_obs, time + steps)):
                times = np.maximum(now - np.arange(stack - 1, -1, -1), 0)
                expected = self.pixels(number, times).tolist()
                assert obs["pixels"][index].flatten().tolist() == expected
        # No more is given up than the frames of a stack: all other steps with a next observation are there.
        oldest = len(self.lanes[0]) - buffer.rows + stack - 1
        for (number, time), row in stored.items():
            if row >= oldest and time < lengths[number] and (number, time + 1) in stored:
                assert (number, time) in found


@given(
    rows=st.integers(16, 40),
    lanes=st.integers(1, 3),
    n_step=st.integers(1, 4),
    frame_stack=st.integers(1, 8),
    plan=st.lists(st.tuples(st.booleans(), st.lists(st.integers(1, 39), min_size=1, max_size=4)), max_size=8),
)
@settings(deadline=None, max_examples=50)
def test_all_that_is_sampled_was_recorded_and_is_still_stored(
    rows: int, lanes: int, n_step: int, frame_stack: int, plan: list[tuple[bool, list[int]]]
) -> None:
    spaces = Spaces(state_dim=2, action_dim=1, pixels=(1, frame_stack, 1, 1), frame_stack=frame_stack)
    ledger = Ledger(make(rows * lanes, lanes, n_step=n_step, spaces=spaces))
    for is_whole, lengths in plan:
        if is_whole:
            kept = [length for length in lengths if length < rows]
            kept = kept if lanes > len(kept) or sum(kept) + len(kept) <= rows else kept[:1]
            if kept:
                ledger.add_whole(kept)
        else:
            ledger.add_stepwise(lengths[0])
        ledger.check()


def test_episodes_nearly_as_long_as_the_ring_replace_each_other() -> None:
    spaces = Spaces(state_dim=2, action_dim=1, pixels=(1, 8, 1, 1), frame_stack=8)
    ledger = Ledger(make(50, spaces=spaces))
    for _ in range(6):
        ledger.add_whole([47])
        ledger.check()
        assert len(ledger.buffer) == 47


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("spaces", [STATES, Spaces(2, 1, pixels=(1, 2, 1, 1), frame_stack=2)])
def test_cut_episodes_end_where_they_were_and_nothing_later_is_their_next_observation(
    n_step: int, spaces: Spaces
) -> None:
    buffer = make(lanes=3, n_step=n_step, spaces=spaces)
    # Of the lanes one is in the middle, one has just ended, and one has just begun its second episode.
    recorder = Recorder(buffer, [[9, 9], [2, 9], [1, 9, 9]], terminated=True)
    for _ in range(2):
        recorder.step()
    led_to: dict[str, np.ndarray] = {"state": np.array([[0, 2], [100, 2], [201, 0]], np.float32)}
    if spaces.pixels is not None:
        led_to["pixels"] = led_to["state"][:, 1].astype(np.uint8).reshape(-1, 1, 1, 1, 1)
    for _ in range(2):  # a second cut has nothing to end
        buffer.cut(led_to)
    recorder.episode, recorder.time = [1, 1, 2], [0, 0, 0]
    for _ in range(3):
        recorder.step()
    batch = everything(buffer)
    at = {
        (int(episode), int(time)): index for index, (episode, time) in enumerate(batch.obs["state"].tolist())
    }
    assert sorted(at) == [
        *((0, 0), (0, 1), (1, 0), (1, 1), (100, 0), (100, 1), (101, 0), (101, 1)),
        *((200, 0), (202, 0), (202, 1)),
    ]
    first, second, solved = at[0, 0], at[0, 1], at[100, 1]
    one = n_step == 1
    assert batch.next_obs["state"][[first, second]].tolist() == [[0, 1 if one else 2], [0, 2]]
    assert batch.reward[[first, second]].tolist() == [1 if one else 1 + 0.5 * 2, 2]
    assert batch.discount[[first, second, solved]].tolist() == [0.5 if one else 0.25, 0.5, 0]
    assert bool((batch.obs["state"][:, 0] == batch.next_obs["state"][:, 0]).all())
    if spaces.pixels is not None:
        assert batch.next_obs["pixels"][second].flatten().tolist() == [1, 2]
        assert batch.obs["pixels"][at[1, 0]].flatten().tolist() == [0, 0]
    assert [len(episode) for episode in buffer.episodes()] == [2, 2, 1, 2, 2, 2]
