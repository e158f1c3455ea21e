"""The batch files of CIFAR-10's "python version": pickles, read as data, never executed.

Plain data and what stands for numpy's arrays: a pickle that names anything else is refused.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.pickles import Name, Reader, Refused, expect

EPOCH = 1

MAX_STEPS = 1_000_000
"""A genuine batch of 10,000 images takes about 40,000 opcodes."""

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy.core.numeric", "_frombuffer"): "buffer",
    ("numpy._core.numeric", "_frombuffer"): "buffer",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}
"""What a batch file may name: how numpy of any version, and bytes under protocol 2, are written."""


@dataclass
class _Dtype:
    """An integer type under construction; its byte order comes with BUILD."""

    code: str
    order: str = "|"

    def numpy(self) -> np.dtype:
        return np.dtype(("" if self.order == "|" else self.order) + self.code)


@dataclass
class _Array:
    """An array under construction: shape, type and bytes come with BUILD."""

    value: np.ndarray | None = None


class _Batch(Reader):
    def name(self, name: Name) -> Name:
        return name if (name.module, name.attribute) in _ALLOWED else super().name(name)

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        return _construct(_ALLOWED[name.module, name.attribute], args)

    def build(self, target: Any, state: Any) -> Any:
        return _build(target, expect(state, tuple))


def read(data: bytes) -> Any:
    """The object in `data`: an integer array, or a dict of such arrays, lists, tuples, text, numbers, None.

    Raises Refused for anything else, including a truncated or malformed pickle.
    """
    return _plain(_Batch(MAX_STEPS).read(data))


def _construct(kind: str, args: tuple[Any, ...]) -> Any:
    """What the named constructor would return, built here from its arguments."""
    if kind == "array":
        return _Array()
    if kind == "dtype":
        code = args[0] if isinstance(args[0], str) else args[0].decode("ascii")
        if code not in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"):
            raise Refused(f"it holds an array of type {code!r}; integers belong there")
        return _Dtype(code)
    if kind == "encode":
        return expect(args[0], str).encode("latin-1")
    if kind == "scalar":
        return int(_array((), args[0], args[1]))
    if kind == "buffer":
        if args[3] != "C":
            raise Refused("it holds an array in Fortran order")
        return _Array(_array(args[2], args[1], args[0]))
    raise Refused(f"it calls {kind}")


def _build(target: Any, state: tuple[Any, ...]) -> Any:
    if isinstance(target, _Dtype):
        if state[1] not in ("<", ">", "|", "="):
            raise Refused(f"it has the byte order {state[1]!r}")
        target.order = state[1]
    elif isinstance(target, _Array) and target.value is None:
        _, shape, dtype, fortran, data = state
        if fortran:
            raise Refused("it holds an array in Fortran order")
        target.value = _array(shape, dtype, data)
    else:
        raise Refused(f"it sets the state of {type(target).__name__}")
    return target


def _array(shape: Any, dtype: Any, data: Any) -> np.ndarray:
    """`data` seen as an array: nothing larger than the file itself can come of it."""
    raw = data.encode("latin-1") if isinstance(data, str) else bytes(data) if isinstance(data, bytearray) else data
    array = np.frombuffer(expect(raw, bytes), expect(dtype, _Dtype).numpy())
    return array.reshape(shape)


def _finished(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise Refused("it holds an unfinished array")
        return value.value
    return value


def _plain(value: Any) -> Any:
    """The top-level object: arrays as arrays, and the keys of a dict as text."""
    if isinstance(value, dict):
        return {k.decode("latin-1") if isinstance(k, bytes) else k: _finished(v) for k, v in value.items()}
    return _finished(value)
