"""Several processes, one batch: which part is whose, and what they share.

`accelerate launch` and `torchrun` start the same command once a device and say in the environment who is who: RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Without them there is one process and nothing here does anything.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

log = logging.getLogger(__name__)

# The main process audits the data before it joins, and decoding takes each host another time.
_PATIENCE = datetime.timedelta(hours=2)

# What `accelerate launch` can ask for and only the recipe decides here, with the values that ask for nothing.
_NEUTRAL = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_USE_DEEPSPEED": "false",
    "ACCELERATE_USE_FSDP": "false",
}


@dataclass(frozen=True)
class Processes:
    """Place of this process among those that train together.

    Attributes:
        rank: Number of this process, from 0; the process 0 is the main one, which writes the files.
        count: Number of processes on all hosts.
        local_rank: Number of this process on its host, which is also the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """What the launcher says; one process if there is no launcher.

        Raises:
            ValueError: The variables are not numbers, or contradict each other.
        """
        names = {"rank": "RANK", "count": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
        try:
            found = cls(**{field: int(os.environ[name]) for field, name in names.items() if name in os.environ})
        except ValueError as error:
            raise ValueError(f"RANK, WORLD_SIZE and LOCAL_RANK have to be whole numbers: {error}.") from error
        if not 0 <= found.rank < found.count:
            raise ValueError(
                f"Process {found.rank} of {found.count} does not exist; set RANK and WORLD_SIZE both, or neither, as "
                "`accelerate launch` and `torchrun` do."
            )
        return found

    @property
    def main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[torch.device]:
        """Connects the processes for as long as the context lasts, and yields the device of this one.

        Args:
            device: Kind of device, without a number if there are several processes.

        Raises:
            ValueError: A numbered device for several processes, or fewer devices than processes on this host.
        """
        own = self._own_device(device)
        if self.main and (ignored := [f"{k}={v}" for k, v in os.environ.items() if v.lower() != _NEUTRAL.get(k, v.lower())]):
            log.warning("%s has no effect, because the recipe decides", ", ".join(ignored))
        if self.count == 1:
            yield own
            return
        if own.type != "cpu":
            torch.accelerator.set_device_index(own)
        backend = dist.get_default_backend_for_device(own)
        dist.init_process_group(backend, rank=self.rank, world_size=self.count, timeout=_PATIENCE)
        try:
            yield own
        finally:
            dist.destroy_process_group()

    def _own_device(self, device: torch.device) -> torch.device:
        if self.count == 1 or device.type == "cpu":
            return device
        if device.index is not None:
            raise ValueError(f"{self.count} processes cannot share {device}; pass {device.type!r}, and each takes its own.")
        if self.local_rank >= (there := torch.accelerator.device_count()):
            raise ValueError(f"Process {self.local_rank} of this host has no GPU; start at most {there} processes here.")
        return torch.device(device.type, self.local_rank)

    def replicate(self, network: nn.Module, device: torch.device) -> DistributedDataParallel | None:
        """The network with gradients averaged over the processes, or None if there is one process.

        On GPUs its batch norm layers have to be synchronised first, by `synchronise_batch_norm`.
        """
        if self.count == 1:
            return None
        if device.type == "cpu" and self.main and any(isinstance(module, _BatchNorm) for module in network.modules()):
            log.warning("on CPUs batch norm takes its statistics from each process's own part of the batch")
        return DistributedDataParallel(network, device_ids=None if device.type == "cpu" else [device])

    def synchronise_batch_norm(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network with batch norm over the whole batch, where there are several processes and PyTorch can do it."""
        if self.count == 1 or device.type == "cpu":
            return network
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return synchronised

    def part(self, turn: int, turns: int) -> slice:
        """Rows of a batch that this process takes in one of its turns.

        Every n-th row, because a batch is ordered by class, and by view: every part is then as balanced as the whole.
        """
        return slice(turn * self.count + self.rank, None, turns * self.count)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a scalar over the processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.count
        return value

    def agree(self, facts: Sequence[int], device: torch.device) -> None:
        """Waits until all processes are here, and checks that they know the same facts.

        Args:
            facts: Whole numbers, as many in every process, between -2^63 and 2^63.
            device: Device of this process.

        Raises:
            ValueError: They differ; raised in every process.
        """
        if self.count == 1:
            return
        mine = torch.tensor(list(facts), dtype=torch.int64, device=device)
        every = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(every, mine)
        if any(not torch.equal(other, mine) for other in every):
            raise ValueError(
                f"The processes differ in step, pictures or checksum of their order: {[other.tolist() for other in every]}. "
                "Every host needs the same pictures in the same order, and the run's folder, on a shared disk or as a copy."
            )
