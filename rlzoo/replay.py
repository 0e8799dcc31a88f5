"""The replay buffer: every observation stored once, n-step returns and frame stacks made when sampling.

Layout: a ring of T rows by L lanes, one lane per parallel environment. Row t of a lane holds one
observation and the action, reward and flags of the step taken from it; the next observation is row t+1 of
the same lane. An episode's final observation has a row of its own, from which no transition starts (this is
Gymnasium's next-step autoreset written down). So a step costs one row, images are never stored twice, and
the observation after a time-out is the right one. Where whole episodes are added to several lanes, rows that
hold nothing fill the shorter lanes up. `is_step` tells the steps from final observations and such rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlzoo.errors import UserError
from rlzoo.types import Array, Batch, BoolArray, Episode, FloatArray, Spaces

# What a buffer may take of a GPU's free memory: the rest is for networks, activations and CUDA graphs' pools.
MAX_SHARE_OF_FREE_MEMORY = 0.8


def row_fields(spaces: Spaces) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """What a buffer stores per row: names, shapes and types. Images are single frames."""
    fields = {
        "state": ((spaces.state_dim,), torch.float32),
        "action": ((spaces.action_dim,), torch.float32),
        "reward": ((), torch.float32),
        "terminated": ((), torch.bool),
        "ended": ((), torch.bool),  # terminated or truncated
        "is_step": ((), torch.bool),  # false: an episode's final observation, or a row that holds nothing
    }
    if spaces.pixels is not None:
        views, channels, height, width = spaces.pixels
        fields["pixels"] = ((views, channels // spaces.frame_stack, height, width), torch.uint8)
        fields["age"] = ((), torch.int32)  # how far back a frame stack may reach
    return fields


def bytes_per_row(spaces: Spaces) -> int:
    """Bytes that a buffer takes per row."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in row_fields(spaces).values())


class ReplayBuffer:
    """Transitions of L parallel environments, sampled uniformly with n-step returns.

    Args:
        spaces: sizes of observations and actions.
        capacity: rows over all lanes (T = capacity // lanes); a final observation takes a row too.
        lanes: L, the number of environments that `add` receives at a time.
        device: where batches are wanted.
        discount: gamma.
        n_step: n; a return stops earlier at an episode's end or where the recorded steps end.
        reward_scale: the factor by which sampled rewards are multiplied.
        is_demo: the value of `Batch.is_demo` for every row sampled from here.
        seed: of the sampling generator, which belongs to this buffer alone.

    Raises:
        UserError: if `capacity` is too small to hold n + frame_stack + 1 rows per lane.
    """

    def __init__(
        self,
        spaces: Spaces,
        *,
        capacity: int,
        lanes: int,
        device: torch.device,
        discount: float,
        n_step: int = 1,
        reward_scale: float = 1.0,
        is_demo: bool = False,
        seed: int = 0,
    ) -> None:
        self.spaces, self.lanes, self.device = spaces, lanes, device
        self.discount, self.n_step, self.is_demo = discount, n_step, is_demo
        self.reward_scale = reward_scale
        self.rows = capacity // lanes
        if self.rows < n_step + spaces.frame_stack + 1:
            raise UserError(
                f"a replay buffer of {capacity} rows over {lanes} environments is too small: "
                f"at least {(n_step + spaces.frame_stack + 1) * lanes} are needed"
            )
        self.storage_device = self._choose_storage()
        self.generator = torch.Generator(self.storage_device).manual_seed(seed)
        self._allocate()
        self._starts = torch.zeros(self.rows * lanes, dtype=torch.int64, device=self.storage_device)
        self._starts_end = 0  # starts ever appended; the ring position is this modulo its length
        self._count = 0  # starts that can be sampled now
        self._starts_in_row = np.zeros(self.rows, dtype=np.int64)
        self._written = 0  # rows ever written; row number r lies at r % rows
        self._oldest = 0  # first row number whose starts have not expired
        self._pending: BoolArray = np.zeros(
            lanes, dtype=np.bool_
        )  # newest row: lanes with a step to complete
        self._ended: BoolArray = np.zeros(lanes, dtype=np.bool_)  # newest row: lanes whose episode it ended
        self._age = np.zeros(lanes, dtype=np.int32)  # steps since the episode's start, of the next row

    # ---------------------------------------------------------------------------------------- storage

    @property
    def nbytes(self) -> int:
        """Bytes of the allocated storage."""
        return bytes_per_row(self.spaces) * self.rows * self.lanes

    def _choose_storage(self) -> torch.device:
        if self.device.type != "cuda":
            return self.device
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.device if self.nbytes < MAX_SHARE_OF_FREE_MEMORY * free else torch.device("cpu")

    def _allocate(self) -> None:
        pinned = self.storage_device.type == "cpu" and self.device.type == "cuda"
        self._fields: dict[str, Tensor] = {}
        for name, (shape, dtype) in row_fields(self.spaces).items():
            size = (self.rows * self.lanes, *shape)
            try:
                self._fields[name] = torch.zeros(
                    size, dtype=dtype, device=self.storage_device, pin_memory=pinned
                )
            except (RuntimeError, MemoryError) as error:
                raise UserError(
                    f"the replay buffer needs {self.nbytes / 2**30:.1f} GiB, more than there is; "
                    f"lower --buffer-capacity (now {self.rows * self.lanes} rows)"
                ) from error

    def describe(self) -> str:
        """One line for the log: size and place."""
        place = str(self.storage_device)
        if self.storage_device != self.device:
            place = f"pinned host memory, as {self.device} has too little free"
        return f"{self.rows * self.lanes:,} rows, {self.nbytes / 2**20:,.0f} MiB on {place}"

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self._count

    # ---------------------------------------------------------------------------------------- writing

    def add(
        self,
        obs: Mapping[str, Array],
        action: FloatArray,
        reward: FloatArray,
        terminated: BoolArray,
        truncated: BoolArray,
    ) -> None:
        """Record one step of all lanes: the observations [L, ...] acted on, and what came of it [L].

        In a lane whose last step ended its episode, `obs` is that episode's final observation and the
        other values are ignored. A transition can be sampled once its next observation has been added.
        """
        begins = ~self._ended  # lanes in which a transition starts from this row
        row = {
            **obs,
            "action": action,
            "reward": reward,
            "terminated": terminated & begins,
            "ended": (terminated | truncated) & begins,
            "is_step": begins,
        }
        if self.spaces.pixels is not None:
            row["age"] = self._age
        self._expire(self._written + 1)
        position = self._written % self.rows
        for name, storage in self._fields.items():
            value = torch.from_numpy(np.ascontiguousarray(row[name]))
            storage[position * self.lanes : (position + 1) * self.lanes].copy_(value, non_blocking=True)
        self._written += 1
        self._append_starts(self._pending[None], first_row=self._written - 2)
        self._pending = begins
        self._age = np.where(begins, self._age + 1, 0).astype(np.int32)
        self._ended = (terminated | truncated) & begins

    def cut(self, obs: Mapping[str, Array]) -> None:
        """End the episodes under way as truncated, at `obs` [L, ...]: what the newest steps led to."""
        if not self._pending.any():
            return
        newest = (self._written - 1) % self.rows * self.lanes
        ended = self._fields["ended"][newest : newest + self.lanes]
        ended |= torch.from_numpy(self._pending).to(self.storage_device)
        self._ended[:] = True  # so that no transition starts from the row added now
        nothing = np.zeros(self.lanes, np.bool_)
        action = np.zeros((self.lanes, self.spaces.action_dim), np.float32)
        self.add(obs, action, nothing.astype(np.float32), nothing, nothing)

    def add_episodes(self, episodes: Sequence[Episode]) -> None:
        """Record whole episodes, spread over the lanes so that all lanes grow by the same number of rows.

        Raises:
            UserError: if they do not fit.
        """
        if self._pending.any():
            raise ValueError("whole episodes cannot be added while an episode is being recorded step by step")
        lanes: list[list[Episode]] = [[] for _ in range(self.lanes)]
        lengths = np.zeros(self.lanes, dtype=np.int64)
        # Longest first into the shortest lane keeps the lanes nearly even; one lane keeps the given order.
        for episode in episodes if self.lanes == 1 else sorted(episodes, key=len, reverse=True):
            shortest = int(lengths.argmin())
            lanes[shortest].append(episode)
            lengths[shortest] += len(episode) + 1
        total = int(lengths.max())
        if total > self.rows:
            raise UserError(f"{total * self.lanes} rows of episodes do not fit in {self.rows * self.lanes}")
        self._expire(self._written + total)
        self._clear(total)
        begins = np.zeros((total, self.lanes), dtype=np.bool_)
        for lane, lane_episodes in enumerate(lanes):
            offset = 0
            for episode in lane_episodes:
                self._write_episode(episode, self._written + offset, lane)
                begins[offset : offset + len(episode), lane] = True
                offset += len(episode) + 1
        first_row = self._written
        self._written += total
        self._append_starts(begins, first_row=first_row)
        self._ended[:], self._age[:] = False, 0

    def _clear(self, rows: int) -> None:
        """Mark the next `rows` rows as no steps, so that lanes which stay shorter do not keep old ones."""
        at = (torch.arange(rows, device=self.storage_device) + self._written) % self.rows
        self._fields["is_step"].view(self.rows, self.lanes)[at] = False

    def _write_episode(self, episode: Episode, first_row: int, lane: int) -> None:
        length = len(episode)
        ended = np.zeros(length, dtype=np.bool_)
        ended[-1] = True
        values: dict[str, Array] = {
            **episode.obs,
            "action": episode.action,
            "reward": episode.reward,
            "terminated": ended & episode.terminated,
            "ended": ended,
            "is_step": np.ones(length, dtype=np.bool_),
            "age": np.arange(length + 1, dtype=np.int32),
        }
        slots = ((first_row + np.arange(length + 1)) % self.rows) * self.lanes + lane
        index = torch.from_numpy(slots).to(self.storage_device)
        for name, storage in self._fields.items():
            value = torch.from_numpy(np.ascontiguousarray(values[name])).to(self.storage_device)
            storage[index[: len(value)]] = value

    def _append_starts(self, begins: BoolArray, *, first_row: int) -> None:
        """Make the transitions that start in `begins` [R, L], rows first_row onward, ready to be sampled."""
        row, lane = np.nonzero(begins)  # in time order
        slots = ((first_row + row) % self.rows) * self.lanes + lane
        position = self._starts_end % len(self._starts)
        head = len(self._starts) - position
        values = torch.from_numpy(slots).to(self.storage_device)
        self._starts[position : position + len(slots)] = values[:head]
        self._starts[: max(0, len(slots) - head)] = values[head:]
        self._starts_end += len(slots)
        self._count += len(slots)
        if len(begins) == 1:
            self._starts_in_row[first_row % self.rows] = len(slots)
        else:
            self._starts_in_row[(first_row + np.arange(len(begins))) % self.rows] = begins.sum(axis=1)

    def _expire(self, written: int) -> None:
        """Forget transitions whose rows or stacked frames are overwritten once `written` rows are written.

        Never those of the rows being written: they are not counted yet. Nor need they be: all new rows fit,
        and a stack ends where its episode begins.
        """
        limit = min(written - self.rows + self.spaces.frame_stack - 1, self._written)
        while self._oldest < limit:
            self._count -= int(self._starts_in_row[self._oldest % self.rows])
            self._starts_in_row[self._oldest % self.rows] = 0
            self._oldest += 1

    # --------------------------------------------------------------------------------------- sampling

    def sample(self, batch_size: int, into: Batch | None = None) -> Batch:
        """`batch_size` transitions, uniformly and with replacement, on `device`.

        With `into`, they are written into its tensors, `batch_size` rows on `device`, and it is returned.

        Raises:
            ValueError: if the buffer holds no complete transition.
        """
        if self._count == 0:
            raise ValueError("the replay buffer holds no complete transition")
        drawn = torch.randint(
            self._count, (batch_size,), generator=self.generator, device=self.storage_device
        )
        first = self._starts_end - self._count
        slot = self._starts[(drawn + first) % len(self._starts)]
        return self._gather(slot, into)

    def _gather(self, slot: Tensor, into: Batch | None = None) -> Batch:
        """The transitions that start at flat slots [B]."""
        batch, fields = into or empty_batch(self.spaces, len(slot), self.device), self._fields
        reward = fields["reward"][slot]
        terminated, ended = fields["terminated"][slot], fields["ended"][slot]
        steps = torch.ones_like(slot)
        # Steps recorded from a start on: a return cannot reach past the newest row.
        available = (self._written - 1 - slot // self.lanes) % self.rows
        for step in range(1, self.n_step):
            going = ~ended & (available > step)
            at = (slot + step * self.lanes) % len(self._starts)
            reward = reward + self.discount**step * fields["reward"][at] * going
            terminated = terminated | (fields["terminated"][at] & going)
            ended = ended | (fields["ended"][at] & going)
            steps = steps + going
        next_slot = (slot + steps * self.lanes) % len(self._starts)
        discount = torch.pow(self.discount, steps.to(torch.float32)) * ~terminated
        self._observe(slot, batch.obs)
        self._observe(next_slot, batch.next_obs)
        self._take(fields["action"], slot, batch.action)
        batch.reward.copy_(self.reward_scale * reward, non_blocking=True)
        batch.discount.copy_(discount, non_blocking=True)
        batch.is_demo.fill_(float(self.is_demo))
        return batch

    def _observe(self, slot: Tensor, obs: dict[str, Tensor]) -> None:
        self._take(self._fields["state"], slot, obs["state"])
        if self.spaces.pixels is not None:
            stack = self.spaces.frame_stack
            back = torch.arange(stack - 1, -1, -1, device=slot.device, dtype=torch.int64)
            # Before the episode's start its first frame is repeated.
            back = torch.minimum(back, self._fields["age"][slot, None].to(torch.int64))  # [B, F]
            frame = (slot[:, None] - back * self.lanes) % len(self._starts)  # [B, F], oldest first
            images = self._fields["pixels"].flatten(0, 1)  # [slots * V, C, H, W]
            views = torch.arange(self.spaces.pixels[0], device=slot.device)
            # One gather, in the order in which the stack lies: [B, V, F]
            index = frame[:, None] * len(views) + views[:, None]
            self._take(images, index.flatten(), obs["pixels"].view(-1, *images.shape[1:]))

    def _take(self, stored: Tensor, index: Tensor, target: Tensor) -> None:
        """Rows of the storage, gathered right where they are wanted; from host memory over to the device."""
        if self.storage_device == self.device:
            torch.index_select(stored, 0, index, out=target)
        else:
            target.copy_(stored.index_select(0, index), non_blocking=True)

    # --------------------------------------------------------------------------------------- episodes

    def episodes(self) -> list[Episode]:
        """Everything recorded, in the order in which the episodes began.

        An episode still going on ends, not terminated, at its newest observation. Where old rows have been
        overwritten, each lane begins with its first episode whose start is certain to be there: a lane whose
        rows are all of one episode gives nothing.
        """
        first = max(0, self._written - self.rows)
        rows = torch.arange(first, self._written, device=self.storage_device) % self.rows
        found: list[tuple[int, Episode]] = []
        for lane in range(self.lanes):
            fields = {name: values[rows * self.lanes + lane].cpu().numpy()
                      for name, values in self._fields.items()}  # fmt: skip
            # Each episode is an unbroken run of steps, and the row after it.
            changes = np.diff(fields["is_step"], prepend=False, append=False)
            for begin, end in np.flatnonzero(changes).reshape(-1, 2).tolist():
                final = min(end, len(rows) - 1)  # the newest step's next observation is not here yet
                is_cut = first > 0 and begin == 0  # as far as the rows that are left can tell
                if begin < final and not is_cut:
                    found.append((begin, _episode(fields, begin, final)))
        return [episode for _, episode in sorted(found, key=lambda pair: pair[0])]

    def newest_episode(self, lane: int, length: int) -> Episode:
        """The episode of `length` steps whose final observation is the newest row of `lane`.

        Raises:
            ValueError: if its first rows are overwritten already.
        """
        if length + 1 > min(self._written, self.rows):
            raise ValueError(f"an episode of {length} steps is longer than the {self.rows} rows of a lane")
        rows = np.arange(self._written - 1 - length, self._written) % self.rows
        index = torch.from_numpy(rows * self.lanes + lane).to(self.storage_device)
        values: dict[str, Array] = {
            name: storage[index].cpu().numpy() for name, storage in self._fields.items()
        }
        return _episode(values, 0, length)

    # ------------------------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The filled rows, the counters and the sampling generator."""
        filled = min(self._written, self.rows) * self.lanes
        first = self._starts_end - self._count
        order = (torch.arange(self._count, device=self.storage_device) + first) % len(self._starts)
        return {
            # Cloned where not full, as saving a slice writes the whole storage; copied to the host from a
            # GPU, which may have no room for a second copy.
            "fields": {name: _for_saving(storage, filled) for name, storage in self._fields.items()},
            "starts": self._starts[order],
            "starts_in_row": torch.from_numpy(self._starts_in_row.copy()),
            "written": self._written,
            "oldest": self._oldest,
            "pending": torch.from_numpy(self._pending.copy()),
            "ended": torch.from_numpy(self._ended.copy()),
            "age": torch.from_numpy(self._age.copy()),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned.

        Raises:
            ValueError: if it came from a buffer of another shape, or its counters contradict its rows.
        """
        rows = len(state["starts_in_row"])
        shapes = {name: tuple(value.shape[1:]) for name, value in state["fields"].items()}
        expected = {name: shape for name, (shape, _) in row_fields(self.spaces).items()}
        if rows != self.rows or len(state["pending"]) != self.lanes or shapes != expected:
            raise ValueError(
                f"replay buffer of {rows} rows x {len(state['pending'])} lanes with {shapes} found, "
                f"{self.rows} x {self.lanes} with {expected} expected"
            )
        starts, written, oldest = state["starts"], state["written"], state["oldest"]
        filled = {len(value) for value in state["fields"].values()}
        if not (isinstance(written, int) and isinstance(oldest, int) and 0 <= oldest <= written):
            raise ValueError(f"replay buffer with row {oldest} as the oldest of {written}")
        if filled != {min(written, rows) * self.lanes} or int(state["starts_in_row"].sum()) != len(starts):
            raise ValueError("replay buffer whose counters contradict its rows")
        if len(starts) and not 0 <= int(starts.min()) <= int(starts.max()) < rows * self.lanes:
            raise ValueError("replay buffer with transitions that begin outside of it")
        for name, storage in self._fields.items():
            storage[: len(state["fields"][name])] = state["fields"][name].to(self.storage_device)
        self._starts[: len(starts)] = starts.to(self.storage_device)
        self._starts_end = self._count = len(starts)
        self._starts_in_row[:] = state["starts_in_row"].numpy()
        self._written, self._oldest = written, oldest
        self._pending = state["pending"].numpy().copy()
        self._ended = state["ended"].numpy().copy()
        self._age = state["age"].numpy().copy()
        # A generator's state fits its own kind of device only: elsewhere sampling goes on with a new one.
        if len(state["generator"]) == len(self.generator.get_state()):
            self.generator.set_state(state["generator"])


def _episode(fields: Mapping[str, Array], begin: int, final: int) -> Episode:
    """The episode whose first observation is row `begin` and whose last is row `final`."""
    return Episode(
        obs={name: fields[name][begin : final + 1] for name in ("state", "pixels") if name in fields},
        action=fields["action"][begin:final],
        reward=fields["reward"][begin:final],
        terminated=bool(fields["terminated"][final - 1]),
    )


def _for_saving(storage: Tensor, filled: int) -> Tensor:
    if storage.is_cuda:
        return storage[:filled].cpu()
    return storage if filled == len(storage) else storage[:filled].clone()


def map_batch(function: Callable[..., Tensor], *batches: Batch) -> Batch:
    """A batch of what `function` makes of the tensors that the batches have in the same place."""

    def merge(column: tuple[Any, ...]) -> Any:
        if isinstance(column[0], dict):
            return {name: function(*(obs[name] for obs in column)) for name in column[0]}
        return function(*column)

    return Batch(*map(merge, zip(*batches, strict=True)))


def empty_batch(spaces: Spaces, rows: int, device: torch.device) -> Batch:
    """A batch to be filled by `ReplayBuffer.sample`."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(rows, *shape, dtype=dtype, device=device)

    def observations() -> dict[str, Tensor]:
        pixels = {} if spaces.pixels is None else {"pixels": empty(*spaces.pixels, dtype=torch.uint8)}
        return {"state": empty(spaces.state_dim), **pixels}

    return Batch(observations(), empty(spaces.action_dim), empty(), empty(), observations(), empty())


class FrameStacker:
    """Stacks the last F frames of each lane for acting, as `ReplayBuffer` does when it samples.

    For spaces without images it hands observations through.
    """

    def __init__(self, spaces: Spaces) -> None:
        self.spaces = spaces
        self.frames: Array | None = None  # [N, F, V, C, H, W]

    def __call__(self, obs: Mapping[str, Array], begins: BoolArray) -> dict[str, Array]:
        """Single frames [N, V, C, H, W] -> stacks [N, V, F*C, H, W]; `begins` [N] marks first frames."""
        if self.spaces.pixels is None:
            return dict(obs)
        frame = obs["pixels"]
        if self.frames is None:
            self.frames = np.repeat(frame[:, None], self.spaces.frame_stack, axis=1)
        self.frames = np.concatenate((self.frames[:, 1:], frame[:, None]), axis=1)
        self.frames[begins] = frame[begins, None]
        lanes, stack, views, channels, height, width = self.frames.shape
        stacked = self.frames.transpose(0, 2, 1, 3, 4, 5).reshape(
            lanes, views, stack * channels, height, width
        )
        return {**obs, "pixels": stacked}
