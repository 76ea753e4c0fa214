"""Several processes that train one network together; without torchrun or ``--processes`` there is one.

Each takes its share of every batch. Which one it is, a process learns from the environment that torchrun sets. Torch
is imported where it is needed, as the command line asks here before it speaks.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing.util
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from tinyssd.errors import ConfigError, TinySSDError, TrainingError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import torch
    from torch import Tensor, nn
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

T = TypeVar("T")

_FAILED = 2  # The exit status of a process whose reason another one gives.
_TORCHRUN = {"WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"}

# The others wait while the first one validates. One that dies is noticed at once, by its closed connection or torchrun.
_PATIENCE = timedelta(hours=6)

# While the processes look for each other.
_SECONDS_BETWEEN_LOOKS = 0.02

# Every system's pipes take so much before it is read, so that all may write first.
_MOST_PIPED = 4096


def count() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if os.environ.keys() >= _TORCHRUN else 1


def rank() -> int:
    """Which one this is, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def job() -> str | None:
    """The name of the torchrun job that this process is of, the same where torchrun starts its processes anew."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name == "none" else name  # What torchrun takes where none is given: no other job is told from it.


def restarts() -> int:
    """How often torchrun may start the same command anew."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))


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
    store = _unused_store() if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else None
    distributed.init_process_group(backend, timeout=_PATIENCE, store=store, rank=rank(), world_size=count())
    try:
        with _Pipes.open() if os.environ.get("LOCAL_WORLD_SIZE") == str(count()) else contextlib.nullcontext():
            yield
    finally:
        distributed.destroy_process_group()


def _unused_store() -> PrefixStore:
    """A part of torchrun's store that no earlier start of the processes has written to.

    torchrun keeps its store when it starts them anew, so that they would read each other's former addresses there now
    and then, and wait for ever. Machines do not agree on how many starts there were: so each process asks under a name
    of its own, and the first one answers.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # They are public all the same.

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=_PATIENCE)
    name = uuid.uuid4().hex
    if not is_first():
        store.set(f"tinyssd/{rank()}", name)
        while not store.check([f"tinyssd/{name}"]):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        shared = store.get(f"tinyssd/{name}").decode()
        store.set(f"{shared}/{rank()}", "")
        return PrefixStore(shared, store)
    for other in range(1, count()):
        while not store.check([f"{name}/{other}"]):
            if store.check([f"tinyssd/{other}"]):  # Perhaps by an earlier start, and answered in vain.
                store.set(f"tinyssd/{store.get(f'tinyssd/{other}').decode()}", name)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    return PrefixStore(name, store)


def make_room_for_sockets() -> None:
    """Lets multiprocessing keep its sockets in /tmp where TMPDIR is so long that their paths would be too long."""
    longest = 65  # The system takes 103 characters or a few more; multiprocessing adds 32.
    if os.name == "posix" and len(os.fsencode(tempfile.gettempdir())) > longest:
        before, tempfile.tempdir = tempfile.tempdir, "/tmp"
        try:
            multiprocessing.util.get_temp_dir()  # Remembers the folder that it makes, for processes that fork too.
        finally:
            tempfile.tempdir = before


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


def gathered(value: Tensor) -> Tensor:
    """What each of the P processes has, in all of them, without a gradient: [P, ...] of tensors of one shape."""
    value = value.detach()
    if count() == 1:
        return value[None]
    import torch
    from torch import distributed

    if _Pipes.current is not None and value.device.type == "cpu" and value.nbytes <= _MOST_PIPED:
        return _Pipes.current.gathered(value)
    all_of = [torch.empty_like(value) for _ in range(count())]
    distributed.all_gather(all_of, value)
    return torch.stack(all_of)


def summed(value: Tensor) -> Tensor:
    """The sum of what the processes have, in all of them, without a gradient; alone ``value`` itself."""
    return gathered(value).sum(dim=0) if count() > 1 else value


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

    # The running statistics are the same everywhere by themselves, as the normalisations share what they see. Newer
    # versions of torch have another name for it.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    no_copies: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **no_copies)


class _Pipes:
    """One from each process of this machine to each of the others, for what is small.

    Whatever its size, a message by gloo takes 0.2 ms of the processor's time and eight changes of the thread, by a pipe
    a twentieth of it; and the batch normalisations have a hundred of them in a step.
    """

    current: _Pipes | None = None

    def __init__(self) -> None:
        from multiprocessing.connection import Client, Listener

        from torch import distributed

        make_room_for_sockets()
        addresses: list[Any] = [None] * count()
        self._to: dict[int, Connection] = {}
        with Listener(backlog=count()) as listener:
            distributed.all_gather_object(addresses, listener.address)
            for other in range(rank()):
                self._to[other] = Client(addresses[other])
                self._to[other].send_bytes(rank().to_bytes(4, "big"))
            for _ in range(rank() + 1, count()):
                pipe = listener.accept()
                self._to[int.from_bytes(pipe.recv_bytes(), "big")] = pipe

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[None]:
        """Those of this process, until the end of the context."""
        cls.current = cls()
        try:
            yield
        finally:
            for pipe in cls.current._to.values():
                pipe.close()
            cls.current = None

    def gathered(self, value: Tensor) -> Tensor:
        """As :func:`gathered`.

        Raises:
            TrainingError: If another process has ended.
        """
        import torch

        rows = value.new_empty(count(), value.numel()).numpy()
        rows[rank()] = value.flatten().numpy()
        try:
            for pipe in self._to.values():
                pipe.send_bytes(rows[rank()])
            for other, pipe in self._to.items():
                pipe.recv_bytes_into(rows[other])
        except (EOFError, ConnectionError) as error:
            raise TrainingError("another process of this training has ended") from error
        return torch.from_numpy(rows).view(count(), *value.shape)
