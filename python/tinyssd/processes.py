"""Several processes that train one network together; without torchrun or ``--processes`` there is one.

Each takes its share of every batch. Which one it is, a process learns from the environment that torchrun sets. Torch
is imported where it is needed, as the command line asks here before it speaks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from tinyssd.errors import ConfigError, TinySSDError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")

_FAILED = 2  # The exit status of a process whose reason another one gives.
_TORCHRUN = {"WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"}

# The others wait while the first one validates. One that dies is noticed at once, by its closed connection or torchrun.
_PATIENCE = timedelta(hours=6)


def count() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if os.environ.keys() >= _TORCHRUN else 1


def rank() -> int:
    """Which one this is, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that validates, writes and speaks."""
    return rank() == 0


def count_here() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(count())))


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Brings the processes together: whatever is below may be called within; alone it does nothing."""
    if count() == 1:
        yield
        return
    import torch
    from torch import distributed

    # Small things go by the CPU even where the network is on GPUs, so that no step waits for them.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process, where the processes are to use them: one each.

    Raises:
        ConfigError: If one GPU was named for several processes, or there are too few.
    """
    import torch

    if count() == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(f"--device {device}: {count()} processes need a GPU each; leave the number out")
    gpus = torch.cuda.device_count()
    if count_here() > gpus:
        raise ConfigError(f"{count_here()} processes need a GPU each, this machine has {gpus}; try --device cpu")
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", str(rank()))))
    torch.cuda.set_device(own)
    return own


def summed(value: Tensor) -> Tensor:
    """The sum of what the processes have, in all of them, without a gradient; alone ``value`` itself."""
    if count() > 1:
        from torch import distributed

        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any of the processes."""
    if count() == 1:
        return flag
    import torch

    return bool(summed(torch.tensor(int(flag))))


def from_first(make: Callable[..., T], *arguments: Any) -> T:
    """What the first process makes, in all of them. Where it fails, it says why, and the others just end."""
    if count() == 1:
        return make(*arguments)
    from torch import distributed

    made: list[tuple[T] | None] = [None]
    try:
        if is_first():
            made[0] = (make(*arguments),)
    finally:
        distributed.broadcast_object_list(made)
    if made[0] is None:
        raise SystemExit(_FAILED)
    return made[0][0]


def each(make: Callable[[], T]) -> T:
    """What every process makes for itself. Where some fail, the first of them says why, and the others just end."""
    if count() == 1:
        return make()
    import torch

    failed, made, error = torch.zeros(count(), dtype=torch.int64), None, None
    try:
        made = (make(),)
    except (TinySSDError, OSError) as caught:
        failed[rank()], error = 1, caught
    failed = summed(failed)
    if error is not None and int(failed.argmax()) == rank():
        raise error
    if made is None or failed.any():
        raise SystemExit(_FAILED)
    return made[0]


def together(model: nn.Module) -> nn.Module:
    """The network such that its gradients are means over the processes; alone the network itself."""
    if count() == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, gradient_as_bucket_view=True)
