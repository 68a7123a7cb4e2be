"""GPUs that are not there: tensors that say `cuda` and are computed on by the CPU, for the tests of all that lies around kernels.

    with pretended(n_devices=2) as gpu:
        dictionary = sae.train(rows, device="cuda")

What it holds the code to, as CUDA would: operands on one device; no look at a device's memory from the host (`numpy`,
`data_ptr`); a stream that reads what another one wrote has waited for it; nothing in a captured graph asks the device, and no
other thread allocates while one is captured in the default mode; a kernel is launched with its tensors' device as the current
one. `gpu.asked` lists the operations that made the host wait, `gpu.uploads` the copies to the device.

How: a tensor subclass holds a CPU tensor, which every operation is done on. New tensors come from `empty`, registered with torch
for CUDA, whose device guard is the one that torch lets Python write. `torch.autograd.grad` walks through torch's graph by itself;
`Tensor.backward` cannot be used. Nothing is said of time or memory.
"""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from sae.kernels import triton_door, triton_step

CUDA, PRIVATE = 1, 20
"""Places of device types in torch's table of guards."""
ASKING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "item"}
MIXING = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that take tensors of the CPU beside those of a device."""


class Pretended(torch.Tensor):
    """A tensor on a pretended device; `inner` is what it holds, on the CPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> "Pretended":
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=device
        )

    def __init__(self, inner: torch.Tensor, device: torch.device):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], self.device

    @staticmethod
    def __tensor_unflatten__(inner, device, size, stride):
        return Pretended(inner["inner"], device)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        assert _gpu is not None, "a pretended tensor outlived its device"
        return _gpu.do(func, args, kwargs or {})

    def record_stream(self, stream: "Stream") -> None:
        assert isinstance(stream, Stream)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"pretended {self.device}: {self.inner!r}"


_gpu: "Gpu | None" = None


class Stream(torch.cuda.Stream):
    """Work in order. `seen` is how far this stream has waited for each other one."""

    def __new__(cls, device: Any = None, **_: Any) -> "Stream":
        return object.__new__(cls)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __init__(self, device: Any = None, **_: Any):
        self.device = _indexed(torch.device("cuda") if device is None else torch.device(device))
        self.seen: dict[Stream, int] = {self: 0}

    def wait_event(self, event: "Event") -> None:
        for stream, tick in event.seen.items():
            self.seen[stream] = max(self.seen.get(stream, 0), tick)

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.seen = dict(self.seen)
        return event

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class Event:
    def __init__(self, **_: Any):
        self.seen: dict[Stream, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        (stream or _current().stream()).record_event(self)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or _current().stream()).wait_event(self)

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: "Event") -> float:
        return 1.0


class Graph:
    """A captured graph: what was recorded, done again at each replay."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], Any]] = []
        self.ready = False

    def replay(self) -> None:
        assert self.ready, "replayed before it was captured"
        for step in self.steps:
            step()


class Gpu:
    """The state of all pretended devices."""

    def __init__(self, n_devices: int, capability: tuple[int, int], free_bytes: int):
        self.n_devices, self.capability, self.free_bytes = n_devices, capability, free_bytes
        self.asked: list[str] = []
        """Operations for which the host waited."""
        self.uploads: list[tuple[torch.dtype, bool, bool]] = []
        """Copies from the host of more than one number: type, whether from page-locked memory, whether on a stream of its own."""
        self.n_graphs = 0
        """Graphs captured."""
        self.fails_capture = False
        self.pinned: set[int] = set()
        self._written: dict[int, tuple[Stream, int]] = {}
        self._here = threading.local()
        self._default = [Stream(torch.device("cuda", i)) for i in range(n_devices)]
        self._capture: tuple[Graph, int, str] | None = None
        self._broken = False

    # --- current device and stream

    def device(self) -> int:
        return getattr(self._here, "device", 0)

    def set_device(self, device: Any) -> int:
        before, self._here.device = self.device(), _index(device)
        return before

    def stream(self, device: Any = None) -> Stream:
        at = self.device() if device is None else _index(device)
        return getattr(self._here, f"stream{at}", self._default[at])

    @contextmanager
    def on_device(self, device: Any) -> Iterator[None]:
        before = self.set_device(device)
        try:
            yield
        finally:
            self._here.device = before

    @contextmanager
    def on_stream(self, stream: Stream | None) -> Iterator[None]:
        if stream is None:
            yield
            return
        at = _index(stream.device)
        before, before_device = self.stream(at), self.set_device(at)
        setattr(self._here, f"stream{at}", stream)
        try:
            yield
        finally:
            setattr(self._here, f"stream{at}", before)
            self._here.device = before_device

    # --- operations

    def do(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        facts = _facts(func)
        given = _tensors(args, kwargs)
        ours = [each for each in given if isinstance(each, Pretended)]
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        self._check_devices(facts.name, given)
        if self._capture is not None:
            self._check_capture(facts.name, func, target)
        self._note(facts.name, args, ours, target)
        for each in ours:
            self._check_order(each, facts.name)
        plain_kwargs = _mapped(Pretended, _inner, kwargs) if kwargs else {}
        if target is not None:
            plain_kwargs["device"] = "cpu"
        if target is None or target.type == "cuda":
            plain_kwargs.pop("pin_memory", None)
        plain_args = _mapped(Pretended, _inner, args)

        def run() -> Any:
            return func(*plain_args, **plain_kwargs)

        def wrapped(inner: torch.Tensor) -> torch.Tensor:
            for each in given:
                if each is inner or (isinstance(each, Pretended) and each.inner is inner):
                    return each
            if target is not None and target.type == "cpu":
                return inner
            return Pretended(inner, _indexed(target or ours[0].device))

        if self._captures_here() and facts.mutable:
            assert self._capture is not None
            self._capture[0].steps.append(run)
            return args[0] if "out" not in kwargs else kwargs["out"]
        result = run()
        if self._captures_here() and not facts.is_view:
            assert self._capture is not None
            self._capture[0].steps.append(_again(run, result))
        outputs = _mapped(torch.Tensor, wrapped, result)
        for at in facts.written:
            if at < len(args):
                self._wrote(args[at])
        if "out" in kwargs:
            self._wrote(kwargs["out"])
        if not facts.is_view and not facts.mutable:
            self._wrote(outputs)
        return outputs

    def allocate(self, inner: torch.Tensor, device: torch.device | None) -> Pretended:
        if self._capture is not None:
            self._check_capture("empty", None, device)
        made = Pretended(inner, _indexed(device or torch.device("cuda")))
        self._wrote(made)
        return made

    def launch(self, launches: Any, kernel: Any, grid: Any, options: Any, **others: Any) -> None:
        """A Triton kernel, in the interpreter, on what the tensors hold."""
        names = launches.names | others
        tensors = [names[name] for name in kernel.arg_names if isinstance(names[name], torch.Tensor)]
        for tensor in tensors:
            assert isinstance(tensor, Pretended), "a kernel was given a tensor of the CPU"
            assert _index(tensor.device) == self.device(), f"launched on cuda:{self.device()} for tensors on {tensor.device}"
            self._check_order(tensor, kernel.__name__)
        given = [names[name].inner if isinstance(names[name], Pretended) else names[name] for name in kernel.arg_names]

        def run() -> None:
            kernel[grid](*given, **options)

        if self._captures_here():
            assert self._capture is not None
            self._capture[0].steps.append(run)
            return
        run()
        self._wrote(tensors)

    def _check_devices(self, name: str, given: list[torch.Tensor]) -> None:
        devices = {each.device for each in given if isinstance(each, Pretended) or each.ndim}
        if len(devices) < 2 or name in ("copy_", "_to_copy"):
            return
        if name in MIXING and sum(device.type == "cuda" for device in devices) < 2:
            return
        told = ", ".join(sorted(map(str, devices)))
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, {told} ({name})")

    def _check_capture(self, name: str, func: Any, target: torch.device | None) -> None:
        assert self._capture is not None, "asked only then"
        if self._captures_here():
            if name in ASKING or (target is not None and target.type == "cpu"):
                self._broken = True
                raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({name})")
        elif self._capture[2] == "global" and (func is None or not (func.is_view or func._schema.is_mutable)):
            self._broken = True
            raise RuntimeError(f"CUDA error: operation would make the legacy stream depend on a capturing stream ({name})")

    def _check_order(self, tensor: Pretended, name: str) -> None:
        written = self._written.get(_storage(tensor))
        if written is None or not tensor.numel():  # those of no numbers all lie at 0
            return
        stream = self.stream(tensor.device.index)
        if written[0] is not stream and stream.seen.get(written[0], 0) < written[1]:
            told = f"{name} reads {tuple(tensor.shape)} that another stream has not finished to write, and did not wait for it"
            raise AssertionError(told)

    def _wrote(self, outputs: Any) -> None:
        for each in (outputs,) if isinstance(outputs, Pretended) else _leaves(outputs):
            if isinstance(each, Pretended):
                stream = self.stream(each.device.index)
                stream.seen[stream] += 1
                self._written[_storage(each)] = (stream, stream.seen[stream])

    def _note(self, name: str, args: Any, ours: list[Pretended], target: torch.device | None) -> None:
        down = name == "copy_" and not isinstance(args[0], Pretended)
        indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
        boolean = any(each is not None and each.dtype == torch.bool for each in indices)
        if name in ASKING or down or boolean or (ours and target is not None and target.type == "cpu"):
            self.asked.append(name)
        if name == "copy_" and isinstance(args[0], Pretended) and not isinstance(args[1], Pretended) and args[1].numel() > 1:
            self.upload(args[1], args[0].device)

    def upload(self, source: torch.Tensor, device: torch.device) -> None:
        stream = self.stream(device)
        pinned = source.untyped_storage().data_ptr() in self.pinned
        self.uploads.append((source.dtype, pinned, stream is not self._default[_index(device)]))

    # --- graphs

    def _captures_here(self) -> bool:
        return self._capture is not None and self._capture[1] == threading.get_ident()

    @contextmanager
    def capture(self, graph: Graph, capture_error_mode: str = "global", **_: Any) -> Iterator[None]:
        assert self._capture is None, "one capture at a time"
        self._capture, self._broken = (graph, threading.get_ident(), capture_error_mode), self.fails_capture
        stream = Stream(torch.device("cuda", self.device()))
        stream.wait_stream(self.stream())
        try:
            with self.on_stream(stream):
                yield
        finally:
            self._capture = None
        if self._broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        graph.ready = True
        self.n_graphs += 1


class Facts(NamedTuple):
    """Of an operation."""

    name: str
    is_view: bool
    mutable: bool
    written: tuple[int, ...]
    """Places of the arguments that it writes."""


@cache
def _facts(func: Any) -> Facts:
    written = tuple(at for at, argument in enumerate(func._schema.arguments) if argument.is_write and not argument.kwarg_only)
    return Facts(func._schema.name.removeprefix("aten::"), func.is_view, func._schema.is_mutable, written)


def _inner(tensor: Pretended) -> torch.Tensor:
    return tensor.inner


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for each in (*args, *kwargs.values()):
        if isinstance(each, torch.Tensor):
            found.append(each)
        elif isinstance(each, list | tuple):
            found += [leaf for leaf in _leaves(each) if isinstance(leaf, torch.Tensor)]
    return found


def _leaves(values: Any) -> list[Any]:
    """What lists, tuples and dictionaries within each other hold."""
    if isinstance(values, dict):
        values = list(values.values())
    if not isinstance(values, list | tuple):
        return [values]
    return [leaf for value in values for leaf in _leaves(value)]


def _mapped(kind: type, function: Callable[[Any], Any], values: Any) -> Any:
    """The same, with each leaf of that kind replaced. torch's own functions for it take most of a test's time."""
    if isinstance(values, kind):
        return function(values)
    if isinstance(values, dict):
        return {name: _mapped(kind, function, value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        mapped = [_mapped(kind, function, value) for value in values]
        return mapped if isinstance(values, list) else tuple(mapped)
    return values


def _again(run: Callable[[], Any], outputs: Any) -> Callable[[], None]:
    """A step of a graph that makes the values of `outputs` anew, in their places."""

    def step() -> None:
        for old, new in zip(_leaves(outputs), _leaves(run()), strict=True):
            if isinstance(old, torch.Tensor):
                old.copy_(new)

    return step


def _current() -> Gpu:
    assert _gpu is not None, "no device is pretended"
    return _gpu


def _index(device: Any) -> int:
    if device is None:
        return _current().device()
    if isinstance(device, int):
        return device
    index = torch.device(device).index
    return _current().device() if index is None else index


def _indexed(device: torch.device) -> torch.device:
    return torch.device("cuda", _index(device)) if device.type == "cuda" and device.index is None else device


def _storage(tensor: Pretended) -> int:
    return tensor.inner.untyped_storage().data_ptr()


# --- what torch is told


class _Guard(torch._C._acc.DeviceGuard):
    """The device guard that torch asks; the current device is kept by torch itself."""

    def type_(self):
        return torch._C._autograd.DeviceType.CUDA


_guard = _Guard()


@contextmanager
def _guarded() -> Iterator[None]:
    """The guard that Python may write in the place of CUDA's."""
    if torch.backends.cuda.is_built():
        pytest.skip("a torch with CUDA has a guard of its own")
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    table = (ctypes.c_void_p * (PRIVATE + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before = table[PRIVATE]
    torch._C._acc.register_python_privateuseone_device_guard(_guard)
    table[CUDA], table[PRIVATE] = table[PRIVATE], before
    try:
        yield
    finally:
        table[CUDA] = None


@contextmanager
def _registered(gpu: Gpu) -> Iterator[None]:
    """Allocation and copies for CUDA tensors."""

    def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return gpu.allocate(torch.empty(size, dtype=dtype, device="cpu"), device)

    def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
        return gpu.allocate(torch.empty_strided(size, stride, dtype=dtype, device="cpu"), device)

    def copy_(target, source, non_blocking=False):  # torch.tensor(..., device="cuda") keeps subclasses out
        (target.inner if isinstance(target, Pretended) else target).copy_(
            source.inner if isinstance(source, Pretended) else source
        )
        return target

    library = torch.library.Library("aten", "IMPL")
    for name, function in (("empty.memory_format", empty), ("empty_strided", empty_strided), ("copy_", copy_)):
        library.impl(name, function, "CUDA")
    try:
        yield
    finally:
        library._destroy()


@contextmanager
def _no_distributed_tensors() -> Iterator[None]:
    """torch looks for them at the first operation on any subclass, and imports sympy to do so: two seconds."""
    name = "torch.distributed.tensor"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = SimpleNamespace(DTensor=type("DTensor", (), {}))  # type: ignore[assignment]
    try:
        torch.zeros(1).to("cuda")  # torch keeps what it finds
    finally:
        del sys.modules[name]
    yield


def _gradients(outputs: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """`torch.autograd.grad` of one number, node after node: torch's own engine asks the CUDA library for streams."""
    coming = {outputs.grad_fn: [torch.ones_like(outputs)]}
    found: dict[int, torch.Tensor] = {}
    for node in _sorted_nodes(outputs.grad_fn):
        given = coming.pop(node, None)
        if given is None:
            continue
        if type(node).__name__ == "AccumulateGrad":
            found[id(node.variable)] = given[0]
            continue
        with torch.no_grad():
            made = node.apply(*given) if isinstance(node, torch.autograd.function.BackwardCFunction) else node(*given)
        for (after, at), gradient in zip(node.next_functions, made if isinstance(made, tuple) else (made,), strict=True):
            if after is None or gradient is None:
                continue
            wanted = after._input_metadata[at]
            gradient = gradient.sum_to_size(wanted.shape).to(wanted.dtype)
            into = coming.setdefault(after, [])
            into += [None] * (at + 1 - len(into))
            into[at] = gradient if into[at] is None else into[at] + gradient
    return tuple(found[id(each)] for each in inputs)


def _sorted_nodes(last: Any) -> list[Any]:
    """Every node of the graph, each before those that it gives gradients to."""
    done: list[Any] = []
    seen = set()
    stack = [(last, False)]
    while stack:
        node, left = stack.pop()
        if left:
            done.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(after, False) for after, _ in node.next_functions if after is not None]
    return done[::-1]


def _cuda(gpu: Gpu) -> dict[str, Any]:
    """Functions of `torch.cuda`."""
    properties = SimpleNamespace(name="pretended", multi_processor_count=2, total_memory=2 * gpu.free_bytes)
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "device_count": lambda: gpu.n_devices,
        "current_device": gpu.device,
        "set_device": gpu.set_device,
        "device": gpu.on_device,
        "get_device_name": lambda device=None: "pretended",
        "get_device_capability": lambda device=None: gpu.capability,
        "get_device_properties": lambda device=None: properties,
        "mem_get_info": lambda device=None: (gpu.free_bytes, 2 * gpu.free_bytes),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "synchronize": lambda device=None: gpu.asked.append("synchronize"),
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": gpu.capture,
        "stream": gpu.on_stream,
        "current_stream": gpu.stream,
        "default_stream": lambda device=None: gpu._default[_index(device)],
    }


def _pinning(gpu: Gpu, patch: pytest.MonkeyPatch) -> None:
    """Page-locked memory is ordinary memory that is remembered."""
    real_empty = torch.empty

    def pin(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
        pinned = tensor.clone()
        gpu.pinned.add(pinned.untyped_storage().data_ptr())
        return pinned

    def empty(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        made = real_empty(*size, **options)
        if pin_memory:
            gpu.pinned.add(made.untyped_storage().data_ptr())
        return made

    patch.setattr(torch.Tensor, "pin_memory", pin)
    patch.setattr(torch.Tensor, "is_pinned", lambda tensor, device=None: tensor.untyped_storage().data_ptr() in gpu.pinned)
    patch.setattr(torch, "empty", empty)


@contextmanager
def pretended(
    n_devices: int = 1, *, capability: tuple[int, int] = (9, 0), free_bytes: int = 2**34, compiles: bool | None = None
) -> Iterator[Gpu]:
    """`n_devices` GPUs of that compute capability. Where Triton's interpreter is at hand it takes the place of a compiler
    (`compiles`)."""
    global _gpu
    gpu = Gpu(n_devices, capability, free_bytes)
    _gpu = gpu
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        stack.enter_context(_guarded())
        for name, value in _cuda(gpu).items():
            patch.setattr(torch.cuda, name, value)
        stack.enter_context(_registered(gpu))
        stack.enter_context(_no_distributed_tensors())
        _pinning(gpu, patch)
        patch.setattr(torch.autograd, "grad", _gradients)
        # Small products by several threads wait for each other where a machine is crowded.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        # A module's `to` gives a parameter the other tensor's memory, which a subclass cannot take: the tensors are swapped.
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        if triton_door.RUNS_INTERPRETED and compiles is not False:
            patch.setattr(triton_door, "RUNS_INTERPRETED", False)
            patch.setattr(triton_step.Launches, "launch", lambda *given, **named: gpu.launch(*given, **named))
        try:
            yield gpu
        finally:
            _gpu = None
