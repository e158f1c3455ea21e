"""Three grey images as red, green and blue, put together when they are asked for."""

from collections.abc import Iterator
from typing import Any

import numpy as np


class Stacked:
    """Images uint8 [N, 3, R, R], read like an array by its first axis.

    `grey` uint8 [M, R, R] with its `classes` int64 [M]; `triples` int64 [N, 3]: which of them are the three channels of
    an image.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, grey: np.ndarray, classes: np.ndarray, triples: np.ndarray) -> None:
        self.grey, self.classes, self.triples = grey, classes, triples

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.triples), 3, *self.grey.shape[1:])

    def __len__(self) -> int:
        return len(self.triples)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.grey[self.triples[rows]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)
