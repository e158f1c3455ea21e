"""Network pickles of NVIDIA's StyleGAN2-ADA-PyTorch and of what was built on it, read as data.

Such a file is a dict of networks. Each is a torch module wrapped so that its own source code
travels with it; here that source is text that nobody runs, and the module is a record from
whose state names, tensors and arguments are taken. Tensors are views of bytes in the file.
"""

import io
import math
import mmap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import legible
from harness.pickles import Name, Reader, Record, Refused, expect

MAX_STEPS = 2_000_000
"""Three networks for 1024x1024 images take some 300,000."""
MAX_DEPTH, MAX_MODULES = 32, 20_000


@dataclass(frozen=True)
class Network:
    """`arguments` of its class, nested keys joined by dots; `tensors`, parameters and buffers, float32, by
    their names in the module."""

    class_name: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """`networks` by their keys in the file (G, D, G_ema, ...); `extras`, whatever else is in it, undigested."""

    networks: dict[str, Network]
    extras: dict[str, Any]


def read(path: Path) -> Published:
    """The networks in a pickle. Nothing in it is run. Raises Refused where it is no such file, OSError
    where it can't be read.

    Memory is bounded by four times the file's size: networks may not hold more elements than
    the file has bytes.
    """
    with path.open("rb") as f:
        size = f.seek(0, io.SEEK_END)
        if not size:
            raise Refused("it is empty")
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            top = _Module(MAX_STEPS).read(data)
    if not isinstance(top, dict) or not all(isinstance(key, str) for key in top):
        raise Refused("it holds no networks by name, as StyleGAN2-ADA-PyTorch writes them")
    networks, extras = {}, {}
    for key, value in top.items():
        if key in ("G", "D", "G_ema") and value is not None:
            networks[key] = network(value, legible(key), size)
            size -= sum(t.numel() for t in networks[key].tensors.values())
        else:
            extras[key] = value
    return Published(networks, extras)


def network(module: Any, place: str, limit: int) -> Network:
    """A module with all that is below it, of at most `limit` elements. Refused names `place`."""
    found = _module(module)
    if found is None:
        raise Refused(f"{place} is no network")
    class_name, state = found
    tensors: dict[str, Tensor] = {}
    for name, stored in _stored(state):
        if not isinstance(stored, Stored):
            raise Refused(f"{place}.{name} is no tensor that could be read")
        limit -= math.prod(stored.shape)
        if limit < 0:
            raise Refused(f"{place}: its tensors are larger than the file")
        try:
            tensors[name] = stored.tensor()
        except Refused as e:
            raise Refused(f"{place}.{name}: {e}") from None
    return Network(legible(class_name), dict(_flat(mapping(state.get("_init_kwargs")) or {})), tensors)


def mapping(value: Any) -> dict[Any, Any] | None:
    """A dict, or the content of an object of a class derived from dict; None for anything else."""
    return value.items if isinstance(value, Record) else value if isinstance(value, dict) else None


# ── modules ──────────────────────────────────────────────────────────────────

_PERSISTENT = Name("torch_utils.persistence", "_reconstruct_persistent_obj")


def _module(value: Any) -> tuple[str, dict[Any, Any]] | None:
    """Class name and attributes of a module, be it persistent or of torch; None where it isn't one."""
    if not isinstance(value, Record):
        return None
    name, state = str(value.name), value.state
    if value.name == _PERSISTENT:
        meta = (mapping(value.args[0]) if value.args else None) or {}
        name, state = str(meta.get("class_name")), meta.get("state")
    attributes = mapping(state)
    return None if attributes is None else (name, attributes)


def _stored(root: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Parameters and persistent buffers of a module's state and of those below, by dotted name."""
    todo, count = [("", root, 0)], 0
    while todo:
        prefix, state, depth = todo.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_MODULES:
            raise Refused("its modules are nested without end")
        transient = state.get("_non_persistent_buffers_set", ())
        for group in ("_parameters", "_buffers"):
            for name, value in (mapping(state.get(group)) or {}).items():
                if value is not None and not (isinstance(transient, set | list) and name in transient):
                    yield f"{prefix}{name}", value
        for name, module in (mapping(state.get("_modules")) or {}).items():
            below = _module(module)
            if below is not None:
                todo.append((f"{prefix}{name}.", below[1], depth + 1))
            elif module is not None:
                raise Refused(f"{prefix}{name} is no module")


def _flat(arguments: dict[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in arguments.items():
        inner = mapping(value)
        if inner is None or depth == 2:
            yield f"{prefix}{key}", value
        else:
            yield from _flat(inner, f"{prefix}{key}.", depth + 1)


# fmt: off
_INERT = frozenset((
    "builtins.getattr", "builtins.slice", "builtins.complex", "builtins.range", "builtins.bytearray",
    "collections.defaultdict", "collections.deque", "functools.partial",
    "torch.Size", "torch.device", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor", "torch.serialization._get_layout",
    "torch._tensor._rebuild_from_type_v2",
    "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
))
# fmt: on
"""Calls that such files may contain in places that are not needed here. They stay records."""

_DICTS = ("collections.OrderedDict", "builtins.dict", "dnnlib.util.EasyDict")


class _Module(Reader):
    """Objects of any class are records; of calls, only those that write down data."""

    def name(self, name: Name) -> Name:
        old = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # as Python 2, and protocols up to 2, write it
        return Name(old.get(name.module, name.module), name.attribute)

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        match str(name):
            case "torch._utils._rebuild_tensor_v2":
                return Stored(*args[:4])
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
                return args[0]
            case "torch.storage._load_from_bytes":
                return Storage(expect(args[0], bytes))
            case "copyreg._reconstructor":
                return self.new(expect(args[0], Name), args[2:])
            case "builtins.set":
                return set(_hashable(args))
            case "_codecs.encode":
                return expect(args[0], str).encode("latin-1")
        if str(name) in _DICTS:
            return self.new(name, args)
        if name != _PERSISTENT and str(name) not in _INERT:
            raise Refused(f"it calls {name}, which such files don't do; nothing was run")
        return Record(name, args)

    def new(self, name: Name, args: tuple[Any, ...]) -> Any:
        if str(name) not in _DICTS:
            return Record(name, args)
        content = args[0] if args and args[0] is not None else {}
        pairs = content.items() if isinstance(content, dict) else expect(content, list)
        return {expect(key, str): value for key, value in pairs}

    def build(self, target: Any, state: Any) -> Any:
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):  # the attributes of an ordered dict don't matter
            return super().build(target, state)
        return target


def _hashable(args: tuple[Any, ...]) -> list[str]:
    return [expect(item, str) for item in expect(args[0], list)] if args else []


# ── tensors ──────────────────────────────────────────────────────────────────

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Header(Reader):
    """The small pickles before the numbers of a storage."""

    def name(self, name: Name) -> Name:
        return name if name.module.split(".")[0] == "torch" and name.attribute in _DTYPES else super().name(name)

    def persistent(self, key: Any) -> Any:
        return key


@dataclass(eq=False)
class Storage:
    """The numbers of one or more tensors as torch.save wrote them: four small pickles that describe
    them, one with their key, their count, and then themselves."""

    data: bytes

    @cached_property
    def flat(self) -> Tensor:
        """[count], on the CPU."""
        stream = io.BytesIO(self.data)
        header = _Header(max_steps=1000)
        magic, version, system, described, _ = (header.read(stream) for _ in range(5))
        if (magic, version) != (_MAGIC, _VERSION) or expect(system, dict).get("little_endian") is not True:
            raise Refused("its numbers are not in the format known here")
        if len(expect(described, tuple)) != 6 or described[0] != "storage" or described[5] is not None:
            raise Refused("its numbers are not in the format known here")
        dtype = _DTYPES[expect(described[1], Name).attribute]
        start = stream.tell() + 8
        count = int.from_bytes(self.data[start - 8 : start], "little")
        if count != described[4] or start + count * dtype.itemsize != len(self.data):
            raise Refused("it is cut: numbers are missing")
        if not count:
            return torch.empty(0, dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bytes are not writable, but this is only read
            return torch.frombuffer(self.data, dtype=dtype, count=count, offset=start)


@dataclass(eq=False)
class Stored:
    """A tensor as a view of a storage; sizes are the file's claims until `tensor` has checked them."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any

    def __post_init__(self) -> None:
        for sizes in (expect(self.shape, tuple), expect(self.stride, tuple), (self.offset,)):
            if len(sizes) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in sizes):
                raise Refused("it holds a tensor of impossible size")
        if len(self.shape) != len(self.stride) or not isinstance(self.storage, Storage):
            raise Refused("it holds a tensor without numbers")

    def tensor(self) -> Tensor:
        """A copy of its numbers, contiguous float32."""
        flat = self.storage.flat
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        size = math.prod(self.shape)
        if not flat.dtype.is_floating_point:
            raise Refused(f"holds {str(flat.dtype).removeprefix('torch.')}; floating-point numbers belong there")
        if size > len(flat) or size and last >= len(flat):
            raise Refused("reaches beyond its numbers")
        return flat.as_strided(self.shape, self.stride, self.offset).to(torch.float32, copy=True).contiguous()
