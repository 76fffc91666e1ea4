"""Where the network runs and in which precision: the device plan, and the lock that serialises the device."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

import psutil
import torch
from torch import nn

from sdwebui_api.engine.packed import can_pack
from sdwebui_api.engine.visits import BlockwiseVisit, Visit
from sdwebui_api.errors import OutOfMemory

if TYPE_CHECKING:
    from sdwebui_api.config.flags import Flags

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class DevicePlan:
    """What the command line and the machine decide together, once, at start."""

    device: torch.device
    unet_dtype: torch.dtype = torch.float32
    text_dtype: torch.dtype = torch.float32
    vae_dtype: torch.dtype = torch.float32
    attention: str = "sdpa"
    """`sdpa` (torch's scaled dot product), `xformers` or `products` (see `attention.py`)."""
    channels_last: bool = False
    compiled: bool = False
    """See `compiled.py`; of networks that stay on the device."""
    offload: bool = False
    """Parts rest in RAM and visit the device while they are used (`--medvram`, `--lowvram`)."""
    offload_sdxl: bool = False
    """The same of SDXL checkpoints only (`--medvram-sdxl`)."""
    blockwise: bool = False
    """Parts that visit do so block by block (`--lowvram`)."""
    spares_ram: bool = False
    """Large text encoders are in memory only while texts are encoded: on a CPU, unless models are to fill the RAM."""
    nan_check: bool = True
    """Whether results are looked through for not-a-number."""

    @classmethod
    def from_flags(cls, flags: Flags) -> DevicePlan:
        device = _choose_device(flags)
        dtype = torch.float32 if flags.no_half or flags.precision == "full" else default_dtype(device)
        return cls(
            device=device,
            unet_dtype=dtype,
            text_dtype=dtype,
            vae_dtype=torch.float32 if flags.no_half_vae else dtype,
            attention=_choose_attention(flags, device, dtype),
            channels_last=flags.opt_channelslast or _prefers_channels_last(device, dtype),
            compiled=flags.blade,
            offload=device.type != "cpu" and (flags.medvram or flags.lowvram),
            offload_sdxl=device.type != "cpu" and flags.medvram_sdxl,
            blockwise=device.type != "cpu" and flags.lowvram,
            spares_ram=device.type == "cpu" and not flags.sd_dynamic_cache and flags.min_ram_reserved is None,
            nan_check=not flags.disable_nan_check,
        )

    @property
    def vae_channels_last(self) -> bool:
        """Twice as fast for a bf16 VAE on a CPU (measured with SD1's), and no loss in float32."""
        return self.channels_last or self.device.type == "cpu"

    @property
    def packs_unet(self) -> bool:
        """Whether UNets and ControlNets keep packed weights; torch.compile packs its own."""
        return can_pack(self.device, self.unet_dtype) and not self.compiled

    @property
    def storage(self) -> torch.device:
        """Where freshly loaded parts are put."""
        return torch.device("cpu") if self.offload else self.device

    def rests_in_ram(self, family: str) -> bool:
        """Whether the parts of a checkpoint of this family do."""
        return self.offload or (self.offload_sdxl and family.startswith("sdxl"))

    def total_memory(self) -> int:
        """Bytes of memory that weights and activations share."""
        if self.storage.type == "cuda":
            return torch.cuda.get_device_properties(self.storage).total_memory
        return psutil.virtual_memory().total


def default_dtype(device: torch.device) -> torch.dtype:
    """fp16 on CUDA, bf16 on CPUs that multiply it in hardware (AMX or AVX512-BF16), else fp32."""
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def cpu_multiplies_bf16() -> bool:
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    return bool(_cpu_features() & {"amx_bf16", "avx512_bf16"})


def _cpu_features() -> frozenset[str]:
    """What /proc/cpuinfo says this CPU can do; empty where there is none."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            return frozenset(next((line for line in cpuinfo if line.startswith("flags")), "").split())
    except OSError:
        return frozenset()


def _choose_device(flags: Flags) -> torch.device:
    on_cpu = {part.lower() for part in flags.use_cpu or ()}
    if on_cpu & {"all", "sd"} or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(flags.device_id or 0))


def _prefers_channels_last(device: torch.device, dtype: torch.dtype) -> bool:
    """What oneDNN computes in bf16 comes with the channels last, and is reordered wherever a plain layer wants them
    first: a step of SD1.5 at 512x512 took 5.17 s, and 4.96 s with the channels last throughout (two Zen 4 cores)."""
    return device.type == "cpu" and dtype == torch.bfloat16


def _choose_attention(flags: Flags, device: torch.device, dtype: torch.dtype) -> str:
    if flags.xformers or flags.force_enable_xformers:
        if device.type == "cuda" and find_spec("xformers") is not None:
            return "xformers"
        log.warning("--xformers: not available here, using torch's own attention")
    asked = flags.opt_sdp_attention or flags.opt_sdp_no_mem_attention
    return "products" if device.type == "cpu" and dtype == torch.bfloat16 and not asked else "sdpa"


class FairLock:
    """A mutex that serves its waiters in the order they came.

    `threading.Lock` lets a thread that releases and asks again overtake those who wait, so a busy sampling loop
    could keep another job's decode out for long.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiters: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._mutex:
            if not self._held:
                self._held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiters.append(turn)
        try:
            turn.acquire()
        except BaseException:
            self._give_up(turn)
            raise

    def __exit__(self, *exc: object) -> None:
        with self._mutex:
            if self._waiters:
                self._waiters.popleft().release()
            else:
                self._held = False

    def _give_up(self, turn: threading.Lock) -> None:
        """The wait was broken off (KeyboardInterrupt): leave the line, or pass on a turn that came meanwhile."""
        with self._mutex:
            if turn in self._waiters:
                self._waiters.remove(turn)
                return
        self.__exit__()


_ALLOCATION_FAILED = (
    "DefaultCPUAllocator", "can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip
"""What errors say that torch's own allocator for GPUs did not raise: RAM's, the driver's and the libraries'."""


def as_out_of_memory(error: BaseException) -> OutOfMemory | None:
    """Our error when `error` says that memory ran out, on whatever device; gives cached device memory back."""
    if isinstance(error, OutOfMemory):
        return error
    text = str(error)
    allocator_failed = isinstance(error, RuntimeError) and any(word in text for word in _ALLOCATION_FAILED)
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not allocator_failed:
        return None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return OutOfMemory(f"not enough memory for this request: {(text.splitlines() or ['out of memory'])[0][:200]}")


class Device:
    """The one device of this process: whoever runs a module on it holds it, one at a time.

    A module that rests in RAM visits the device while it runs, and stays until another one needs to.
    """

    def __init__(self, plan: DevicePlan) -> None:
        self.plan = plan
        self.make_room: Callable[[], bool] = lambda: False
        """Has weights that nobody uses leave the device; whether any did. Not to be called while holding it."""
        self._lock = FairLock()
        self._visitor: nn.Module | None = None
        self._visit: Visit | BlockwiseVisit | None = None

    def with_room_made(self, work: Callable[[], T]) -> T:
        """What `work` returns, which holds the device by itself. It gets a second attempt when it ran out of memory
        and idle weights could make room. Raises what `work` raises."""
        try:
            return work()
        except OutOfMemory as error:
            # Its frames, and those of torch's error behind it, hold the tensors of the attempt.
            failure = error.with_traceback(None)
            failure.__context__ = None
        if not self.make_room():
            raise failure
        return work()

    @contextmanager
    def running(self, module: nn.Module) -> Iterator[None]:
        """Hold the device with `module` on it, without autograd. Raises OutOfMemory for torch's own error."""
        with self._lock, torch.no_grad():
            try:
                with torch.inference_mode(False):
                    self._bring(module)
                yield
            except Exception as error:
                out_of_memory = as_out_of_memory(error)
                if out_of_memory is None:
                    raise
                raise out_of_memory from None

    def _bring(self, module: nn.Module) -> None:
        if self._visitor is module or not self._rests(module):
            return
        self._send_home()
        self._visit = (BlockwiseVisit if self.plan.blockwise else Visit)(module, self.plan.device)
        self._visitor = module

    def _rests(self, module: nn.Module) -> bool:
        if self.plan.offload:
            return True
        first = next(module.parameters(), None)
        return first is not None and first.device.type != self.plan.device.type

    def _send_home(self) -> None:
        if self._visit is not None:
            self._visit.end()
        self._visitor = self._visit = None

    @contextmanager
    def beside(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """`modules` on the device too, beside the one that runs; call while running. Those from RAM leave again."""
        with ExitStack() as visits:
            for module in dict.fromkeys(modules):
                if self._rests(module):
                    visits.callback(self._end, self._begin(module))
            yield

    def _begin(self, module: nn.Module) -> Visit:
        with torch.inference_mode(False):
            return Visit(module, self.plan.device)

    @staticmethod
    def _end(visit: Visit) -> None:
        with torch.inference_mode(False):
            visit.end()

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """Hold the device with every module where it rests, to be copied."""
        with self._lock, torch.inference_mode(False):
            self._send_home()
            yield

    def home_of(self, module: nn.Module) -> torch.device:
        """Where its weights are while it does not run."""
        with self.at_home():
            return next(module.parameters()).device

    def forget(self) -> None:
        """Send the visiting module home and give cached device memory back."""
        with self._lock, torch.inference_mode(False):
            self._send_home()
            if self.plan.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.accelerator.empty_host_cache()  # pinned RAM, which torch would keep too
