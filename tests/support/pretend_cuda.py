"""A CUDA device that is not there: the engine believes in it, the CPU computes, and what CUDA would refuse is refused.

This is no GPU run. It shows which device and precision every tensor has, not what a GPU's kernels compute.

A tensor is on a GPU when its storage is in a list kept here; all storages are in RAM. (Tensor subclasses that claim
a device would lose it with every `parameter.data = other`, which is how weights come and go in this engine.) A
dispatch mode sees every operation of every thread: it refuses those that mix devices as CUDA's kernels do, puts
results where CUDA would, counts memory, and notes where the CPU would have to wait for the GPU. What asks for a
tensor's place in Python (`device`, `to`, `cpu`, `numpy` …) is replaced while the pretence lasts, and so is
`torch.cuda`. CUDA graphs are recorded and replayed operation by operation, into the memory they were captured with.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from sdwebui_api.sampling.philox import PhiloxGenerator

CPU = torch.device("cpu")
PACKAGE = str(Path(__file__).parents[2] / "sdwebui_api")

aten = torch.ops.aten

_WAITS = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "allclose", "unique", "_unique2",
    "unique_consecutive", "bincount", "linalg_lstsq",
}  # fmt: skip
"""Operations after which the CPU has to know what the GPU found."""
_NORMS = {
    "layer_norm": 2, "native_layer_norm": 2, "rms_norm": 2, "group_norm": 2, "native_group_norm": 1,
}  # fmt: skip
"""Normalisations, and which argument their weight is: CPUs take a float32 weight for half precision, CUDA does not."""
_MIXES_SCALARS = {
    "lerp",
    "lerp_",
    "where",
    "masked_fill",
    "masked_fill_",
    "divide",
    "multiply",
    "subtract",
    "rsub",
    "fill_",
}
"""Take a 0-dimensional tensor of the CPU beside those that are marked as elementwise."""


class PretendCudaError(RuntimeError):
    """What a real GPU would have refused, or got wrong."""


@dataclass(frozen=True)
class Wait:
    """The CPU waited for the GPU."""

    what: str
    where: str
    """The line of ours that asked for it: file:number."""


@dataclass(eq=False)
class _Copy:
    """From pinned RAM to a GPU, perhaps still on its way."""

    source: Tensor
    content: Tensor


@dataclass(eq=False)
class PretendCuda:
    """What is on the pretended GPUs, and what happened there."""

    total: int = 8 * 2**30
    """Bytes per GPU; more raise torch.OutOfMemoryError."""
    count: int = 1
    waits: list[Wait] = field(default_factory=list)
    mixes: list[str] = field(default_factory=list)
    """Everything refused, also where somebody caught the error."""
    fails_at: Callable[[str, int], bool] = lambda name, size: False
    """(operation, bytes) -> whether this allocation runs out of memory."""
    failures: int = 0
    cache_emptied: int = 0
    captured: int = 0
    replayed: int = 0

    def __post_init__(self) -> None:
        self._homes: dict[int, tuple[torch.device, StorageWeakRef]] = {}
        self._pinned: dict[int, tuple[torch.device, StorageWeakRef]] = {}
        self._sums: dict[torch.device, int] = {}
        """At least what is allocated: what was given back counts until somebody asks."""
        self._on_their_way: dict[int, list[_Copy]] = {}
        self._local = threading.local()
        self._lock = threading.RLock()

    # -- where tensors are -----------------------------------------------------------------------------------------

    def home(self, tensor: Tensor) -> torch.device:
        """The device a tensor claims to be on."""
        if tensor.is_meta:
            return torch.device("meta")
        found = self._homes.get(_identity(tensor))
        return CPU if found is None else found[0]

    def on_gpu(self, tensor: Tensor) -> bool:
        return _identity(tensor) in self._homes

    def pinned(self, tensor: Tensor) -> bool:
        return _identity(tensor) in self._pinned

    def put(self, tensor: Tensor, device: torch.device, name: str = "") -> Tensor:
        """Have the tensor's memory be the GPU's. Raises torch.OutOfMemoryError."""
        key = _identity(tensor)
        if key and key not in self._homes:
            storage = tensor.untyped_storage()
            size = storage.nbytes()
            with self._lock:
                full = self._sums.get(device, 0) + size > self.total and self._held(device) + size > self.total
                if full or self.fails_at(name, size):
                    self.failures += 1
                    raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB.")
                self._homes[key] = device, StorageWeakRef(storage)
                self._sums[device] = self._sums.get(device, 0) + size
        return tensor

    def pin(self, tensor: Tensor) -> Tensor:
        self._pinned[_identity(tensor)] = CPU, StorageWeakRef(tensor.untyped_storage())
        return tensor

    def allocated(self, device: torch.device | None = None) -> int:
        """Bytes of all tensors on the GPU."""
        return self._held(device or torch.device("cuda", 0))

    def _held(self, device: torch.device) -> int:
        with self._lock:
            for kept in (self._homes, self._pinned):
                for key in [key for key, (_, reference) in kept.items() if reference.expired()]:
                    del kept[key]
            self._sums[device] = sum(_size(reference) for home, reference in self._homes.values() if home == device)
            return self._sums[device]

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait(self, what: str) -> None:
        if self.capture is not None:
            raise PretendCudaError(f"{what}: operation not permitted when stream is capturing")
        self.waits.append(Wait(what, _line_of_ours()))
        for device in list(self._on_their_way):
            self.arrived(device)

    def copies(self, source: Tensor, target: Tensor, non_blocking: bool) -> None:
        """Something goes from one device to another: CPU to GPU, or back."""
        device = self.home(target)
        if device.type != "cuda":
            self.wait("GPU to CPU")
        elif not (non_blocking and self.pinned(source)):
            self.wait("CPU to GPU")
        else:
            if self.capture is not None:
                raise PretendCudaError("a graph would go on reading from this place in RAM")
            way = self._on_their_way.setdefault(device.index, [])
            self._check_untouched([one for one in way if _overlap(one.source, source)])
            with _disable_current_modes():
                way.append(_Copy(source, source.clone()))

    @staticmethod
    def _check_untouched(way: list[_Copy]) -> None:
        with _disable_current_modes():
            changed = [copy for copy in way if not torch.equal(_bytes(copy.source), _bytes(copy.content))]
        if changed:
            raise PretendCudaError("pinned memory was overwritten while a copy from it was on its way")

    def arrived(self, device: int, way: list[_Copy] | None = None) -> None:
        """All copies to a GPU, or those that were on their `way` at some moment."""
        mine = self._on_their_way.get(device, [])
        self._check_untouched(mine)
        self._on_their_way[device] = [] if way is None else [copy for copy in mine if copy not in way]

    def on_the_way(self, device: int) -> list[_Copy]:
        return list(self._on_their_way.get(device, []))

    def refuse(self, message: str) -> PretendCudaError:
        self.mixes.append(f"{message} ({_line_of_ours()})")
        return PretendCudaError(message)

    # -- per thread ------------------------------------------------------------------------------------------------

    @property
    def capture(self) -> list[Any] | None:
        """What the graph that this thread records holds so far."""
        found: list[Any] | None = getattr(self._local, "capture", None)
        return found

    @capture.setter
    def capture(self, value: list[Any] | None) -> None:
        self._local.capture = value

    @property
    def current(self) -> int:
        return int(getattr(self._local, "device", 0))

    @current.setter
    def current(self, index: int) -> None:
        self._local.device = index

    def full(self, device: Any) -> torch.device:
        """With its number; the thread's current device where none is named."""
        if device is None:
            return torch.device("cuda", self.current)
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if found.type == "cuda" and found.index is None:
            found = torch.device("cuda", self.current)
        if found.type == "cuda" and found.index >= self.count:
            raise PretendCudaError("CUDA error: invalid device ordinal")
        return found


def _identity(tensor: Tensor) -> int:
    try:
        found: int = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return 0
    return found


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _overlap(first: Tensor, second: Tensor) -> bool:
    (a, b), (c, d) = ((one.data_ptr(), one.data_ptr() + one.nbytes) for one in (first, second))
    return a < d and c < b


def _size(reference: StorageWeakRef) -> int:
    storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
    return 0 if storage is None else storage.nbytes()


def _line_of_ours() -> str:
    frame: Any = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "outside"
    return f"{Path(frame.f_code.co_filename).relative_to(PACKAGE)}:{frame.f_lineno}"


# -- operations ------------------------------------------------------------------------------------------------------


class _Operations(TorchDispatchMode):
    def __init__(self, gpu: PretendCuda) -> None:
        super().__init__()
        self._gpu = gpu

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: torch.compile is not asked to keep out of the way, which would import it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self._gpu, dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        inputs = [*_tensors(args), *_tensors(kwargs.values())]
        asked = kwargs.get("device")
        pins = kwargs.pop("pin_memory", None) if "pin_memory" in kwargs else None
        if asked is not None and asked.type == "cuda":
            kwargs["device"] = CPU
            home = gpu.full(asked)
        elif asked is not None and not inputs:
            home = CPU
        else:
            home = self._common(func, name, inputs, args)
            if asked is not None and asked.type == "cpu" and name not in ("_to_copy", "_pin_memory"):
                home = CPU
        if name == "copy_":
            self._copied(args[0], args[1], bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2])))
        elif name == "_to_copy" and inputs and home != gpu.home(inputs[0]):
            gpu.wait("CPU to GPU")
        elif home.type == "cuda":
            self._check_precisions(name, args)
            if name in _WAITS or (name.startswith("index") and _waits_for_indices(gpu, args)):
                gpu.wait(name)
        before = {_identity(tensor) for tensor in inputs} if gpu.capture is not None else set()
        found = func(*args, **kwargs)
        if home.type == "cuda":
            for tensor in _tensors((found,)):
                gpu.put(tensor, home, name)
        elif pins:
            gpu.pin(found)
        if gpu.capture is not None:
            gpu.capture.append((func, args, kwargs, found, before))
        return found

    def _common(self, func: Any, name: str, inputs: list[Tensor], args: Any) -> torch.device:
        """Where the operation runs. Raises PretendCudaError when its tensors are on different devices."""
        gpu = self._gpu
        homes = [gpu.home(tensor) for tensor in inputs if not tensor.is_meta]
        places = set(homes)
        if len(places) < 2:
            return homes[0] if homes else CPU
        if name == "copy_":
            return homes[0]
        if name.startswith(("index", "_unsafe_index", "_index_put_impl")) and gpu.on_gpu(args[0]):
            values = _tensors(args[2:3])
            if (all(gpu.on_gpu(value) or value.ndim == 0 for value in values) and "put" in name) or name == "index":
                return homes[0]
        elementwise = torch.Tag.pointwise in func.tags or name in _MIXES_SCALARS or name.startswith("_foreach")
        others = {gpu.home(tensor) for tensor in inputs if tensor.ndim > 0 or gpu.on_gpu(tensor)}
        if elementwise and len(others) == 1:
            return others.pop()
        words = ", ".join(f"{gpu.home(tensor)} {list(tensor.shape)}" for tensor in inputs)
        raise gpu.refuse(f"{name}: expected all tensors to be on the same device, but found {words}")

    def _copied(self, target: Tensor, source: Any, non_blocking: bool) -> None:
        if isinstance(source, Tensor) and self._gpu.home(source) != self._gpu.home(target):
            self._gpu.copies(source, target, non_blocking)

    def _check_precisions(self, name: str, args: Any) -> None:
        place = _NORMS.get(name)
        weight = args[place] if place is not None and len(args) > place else None
        if isinstance(weight, Tensor) and weight.dtype != args[0].dtype:
            raise self._gpu.refuse(f"{name}: expected scalar type {args[0].dtype} but found {weight.dtype}")


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _waits_for_indices(gpu: PretendCuda, args: Any) -> bool:
    """Masks are counted out, indices of the CPU are sent over."""
    indices = _tensors(args[1:2])
    return any(one.dtype in (torch.bool, torch.uint8) or not gpu.on_gpu(one) for one in indices)


# -- torch.cuda ------------------------------------------------------------------------------------------------------


class PretendGenerator(torch.Generator):
    """On CUDA: draws the normal numbers that a GPU would."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, "cpu")

    def __init__(self, device: Any = "cpu") -> None:
        self._home = torch.device(device)
        if self._home.type == "cuda" and self._home.index is None:
            self._home = torch.device("cuda", 0)
        self._philox = PhiloxGenerator(0)

    @property
    def device(self) -> torch.device:
        return self._home

    def manual_seed(self, seed: int) -> Any:
        self._philox = PhiloxGenerator(seed % 2**64)
        super().manual_seed(seed)
        return self

    def normal(self, shape: Any) -> Tensor:
        return torch.from_numpy(self._philox.randn(tuple(shape)))


def _cuda(gpu: PretendCuda) -> dict[str, Any]:
    """What stands in for the members of `torch.cuda`."""

    class Stream:
        def __init__(self, device: Any = None, priority: int = 0) -> None:
            self.device = gpu.full(device)

        def wait_stream(self, other: Stream) -> None: ...

        def wait_event(self, event: Event) -> None: ...

        def synchronize(self) -> None:
            synchronize(self.device)

        def record_event(self, event: Event | None = None) -> Event:
            event = event or Event()
            event.record(self)
            return event

        def query(self) -> bool:
            return True

    class Event:
        def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
            self._device: int | None = None
            self._timed = enable_timing

        def record(self, stream: Stream | None = None) -> None:
            self._device = (stream or current_stream()).device.index
            self._way = gpu.on_the_way(self._device)
            self._moment = _now()

        def synchronize(self) -> None:
            if self._device is not None:
                gpu.arrived(self._device, self._way)

        def query(self) -> bool:
            return True

        def wait(self, stream: Stream | None = None) -> None: ...

        def elapsed_time(self, other: Event) -> float:
            if not self._timed or not other._timed or self._device is None or other._device is None:
                raise RuntimeError("both events must be created with enable_timing and recorded")
            return (other._moment - self._moment) * 1000

    class CUDAGraph:
        def __init__(self) -> None:
            self.operations: list[Any] = []

        def replay(self) -> None:
            gpu.replayed += 1
            for func, args, kwargs, found, before in self.operations:
                with _disable_current_modes():
                    anew = func(*args, **kwargs)
                    for old, new in zip(_tensors((found,)), _tensors((anew,)), strict=True):
                        if _identity(old) not in before:
                            old.copy_(new)

    class graph:
        def __init__(self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, **more: Any) -> None:
            self._graph = cuda_graph

        def __enter__(self) -> None:
            synchronize()
            gpu.capture = []

        def __exit__(self, *exc: object) -> None:
            self._graph.operations, gpu.capture = gpu.capture or [], None
            gpu.captured += 1

    class device:
        def __init__(self, device: Any) -> None:
            self._index = gpu.full(device).index

        def __enter__(self) -> None:
            self._before, gpu.current = gpu.current, self._index

        def __exit__(self, *exc: object) -> None:
            gpu.current = self._before

    def current_stream(device: Any = None) -> Stream:
        return Stream(device)

    def synchronize(device: Any = None) -> None:
        gpu.wait("synchronize")

    @contextmanager
    def stream(one: Stream) -> Iterator[None]:
        yield

    def empty_cache() -> None:
        gpu.cache_emptied += 1

    def set_device(index: Any) -> None:
        gpu.current = gpu.full(index).index

    def memory_stats(device: Any = None) -> dict[str, int]:
        held = gpu.allocated(gpu.full(device))
        kinds = ("active_bytes", "allocated_bytes", "reserved_bytes")
        return {f"{kind}.all.{when}": held for kind in kinds for when in ("current", "peak")}

    properties = SimpleNamespace(
        name="Pretended GPU", major=8, minor=6, total_memory=gpu.total, multi_processor_count=1
    )
    return {
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": CUDAGraph,
        "graph": graph,
        "device": device,
        "stream": stream,
        "current_stream": current_stream,
        "default_stream": current_stream,
        "synchronize": synchronize,
        "empty_cache": empty_cache,
        "set_device": set_device,
        "current_device": lambda: gpu.current,
        "device_count": lambda: gpu.count,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "is_bf16_supported": lambda *more: True,
        "is_current_stream_capturing": lambda: gpu.capture is not None,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (8, 6),
        "get_device_name": lambda device=None: "Pretended GPU",
        "mem_get_info": lambda device=None: (gpu.total - gpu.allocated(gpu.full(device)), gpu.total),
        "memory_stats": memory_stats,
        "memory_allocated": lambda device=None: gpu.allocated(gpu.full(device)),
        "memory_reserved": lambda device=None: gpu.allocated(gpu.full(device)),
        "manual_seed_all": lambda seed: None,
    }


def _now() -> float:
    import time

    return time.perf_counter()


# -- tensors in Python -----------------------------------------------------------------------------------------------


def _members(gpu: PretendCuda) -> dict[str, Any]:
    """What stands in for the members of `Tensor` that know the device."""
    own = {name: getattr(Tensor, name) for name in _REPLACED}

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, dtype, non_blocking, copy, layout = _wanted(gpu, self, args, kwargs)
        home = gpu.home(self)
        if device is None or device == home or home.type == "meta" or device.type == "meta":
            if device is not None and "meta" not in (device.type, home.type):
                device = None
            if device is not None:
                return own["to"](self, *args, **kwargs)
            arguments = {"dtype": dtype or self.dtype, "copy": copy} | layout
            return own["to"](self, **arguments)
        # The precision changes before the way, as torch does it.
        moved = own["to"](self, dtype=dtype or self.dtype, **layout)
        target = torch.empty_like(moved, device=device)
        return target.copy_(moved, non_blocking=non_blocking)

    def cpu(self: Tensor, memory_format: Any = torch.preserve_format) -> Tensor:
        return to(self, CPU)

    def cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
        return to(self, gpu.full(device), non_blocking=non_blocking)

    def numpy(self: Tensor, *, force: bool = False) -> Any:
        if gpu.on_gpu(self) and not force:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first"
            )
        return own["numpy"](to(self, CPU), force=force)

    def array(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if gpu.on_gpu(self):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first"
            )
        return own["__array__"](self, *args, **kwargs)

    def tolist(self: Tensor) -> Any:
        if gpu.on_gpu(self):
            gpu.wait("tolist")
        return own["tolist"](self)

    def deepcopy(self: Tensor, memo: Any) -> Tensor:
        copied = own["__deepcopy__"](self, memo)
        return gpu.put(copied, gpu.home(self)) if gpu.on_gpu(self) else copied

    def pin_memory(self: Tensor, device: Any = None) -> Tensor:
        if gpu.on_gpu(self):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        return self if gpu.pinned(self) else gpu.pin(own["clone"](self))

    def new(name: str) -> Any:
        def made(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if kwargs.get("device") is None:
                kwargs["device"] = gpu.home(self)
            found: Tensor = own[name](self, *args, **kwargs)
            return found

        return made

    return {
        "to": to,
        "cpu": cpu,
        "cuda": cuda,
        "numpy": numpy,
        "__array__": array,
        "tolist": tolist,
        "__deepcopy__": deepcopy,
        "pin_memory": pin_memory,
        "is_pinned": lambda self, device=None: gpu.pinned(self),
        "get_device": lambda self: gpu.home(self).index if gpu.on_gpu(self) else -1,
        "record_stream": lambda self, stream: None,
        "device": property(gpu.home),
        "is_cuda": property(gpu.on_gpu),
        "is_cpu": property(lambda self: not gpu.on_gpu(self) and not self.is_meta),
        **{name: new(name) for name in _REPLACED if name.startswith("new_")},
    }


_REPLACED = (
    "to", "cpu", "cuda", "numpy", "__array__", "tolist", "__deepcopy__", "pin_memory", "is_pinned", "get_device",
    "record_stream", "clone", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor",
)  # fmt: skip
_LIKE = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like")


def _wanted(
    gpu: PretendCuda, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.device | None, torch.dtype | None, bool, bool, dict[str, Any]]:
    """(device, precision, non_blocking, copy, layout) of the arguments of `Tensor.to`."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    if isinstance(other := kwargs.get("other"), Tensor):
        args = (other, *args)
    flags = [value for value in args if isinstance(value, bool)]
    for value in args:
        if isinstance(value, Tensor):
            device, dtype = gpu.home(value), value.dtype
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, torch.device | str) or (isinstance(value, int) and not isinstance(value, bool)):
            device = value
    non_blocking = bool(kwargs.get("non_blocking", flags[0] if flags else False))
    copy = bool(kwargs.get("copy", flags[1] if len(flags) > 1 else False))
    layout = {"memory_format": kwargs["memory_format"]} if kwargs.get("memory_format") is not None else {}
    return (None if device is None else gpu.full(device)), dtype, non_blocking, copy, layout


def _likes(gpu: PretendCuda) -> dict[str, Any]:
    def like(own: Any) -> Any:
        def made(other: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if kwargs.get("device") is None:
                kwargs["device"] = gpu.home(other)
            found: Tensor = own(other, *args, **kwargs)
            return found

        return made

    def holding(own: Any) -> Any:
        def made(data: Any, *args: Any, **kwargs: Any) -> Tensor:
            asked = kwargs.pop("device", None)
            default = gpu.home(data) if isinstance(data, Tensor) else None
            found: Tensor = own(data, *args, **kwargs)
            device = asked if asked is not None else default
            return found if device is None else found.to(device)

        return made

    def drawing(name: str, own: Any) -> Any:
        def made(*args: Any, generator: Any = None, **kwargs: Any) -> Tensor:
            device = gpu.full(kwargs.get("device") or CPU)
            if generator is not None and generator.device.type != device.type:
                raise gpu.refuse(f"{name}: expected a '{device.type}' device type for generator")
            found: Tensor = own(*args, generator=generator, **kwargs)
            if name == "randn" and generator is not None and device.type == "cuda":
                with _disable_current_modes():
                    found.copy_(generator.normal(found.shape))
            return found

        return made

    # C++ asks for a real device's guard before these two call an operation.
    made = {name: holding(getattr(torch, name)) for name in ("tensor", "as_tensor")}
    made |= {name: drawing(name, getattr(torch, name)) for name in ("randn", "rand", "randint", "randperm")}
    return made | {name: like(getattr(torch, name)) for name in _LIKE}


@contextmanager
def pretending(gpu: PretendCuda) -> Iterator[PretendCuda]:
    """Within the context torch has these GPUs, in this thread and those begun meanwhile. May be entered again: what is
    on the GPUs stays there."""
    begin = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]
    _device_constructors()  # remembers torch's own functions, not those that replace them here

    def begin_with_gpu(thread: threading.Thread) -> None:
        with _Operations(gpu):
            begin(thread)

    with ExitStack() as stack:
        for place, replaced in ((torch.cuda, _cuda(gpu)), (Tensor, _members(gpu)), (torch, _likes(gpu))):
            for name, value in replaced.items():
                stack.enter_context(mock.patch.object(place, name, value))
        stack.enter_context(mock.patch.object(torch.accelerator, "empty_host_cache", lambda: None))
        stack.enter_context(mock.patch.object(torch, "Generator", PretendGenerator))
        stack.enter_context(mock.patch.object(threading.Thread, "_bootstrap_inner", begin_with_gpu))
        stack.enter_context(_Operations(gpu))
        yield gpu
