"""Writing StyleGAN's ZIP so that a killed run continues where it stopped.

Entries are stored, not compressed, in the order of their numbers: whatever lies whole at the
beginning of the partial file is kept, and the finished bytes are those of an undisturbed run.
"""

import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from harness import locks
from harness.disk import write_atomic
from harness.errors import UserError

REMEDY = "name another file"
_LOCAL = struct.Struct("<4s5H3I2H")  # the header in front of every entry (APPNOTE 4.3.7)


def entry_name(index: int) -> str:
    return f"{index // 1000:05d}/img{index:08d}.png"


class ResumableZip:
    """Use as a context manager: `written` images are there already; `add` the next ones, then
    `finish`. Leaving before that keeps `<out>.part` for the same call to continue.

    `job` is plain data that says what is being made. A partial file of another job, with other options or of a
    source that was mended since, is of no use: the work begins anew, and `begun_anew` has a line that says so.
    """

    def __init__(self, out: Path, job: dict[str, Any]) -> None:
        self.out = out
        self.written = 0
        self.begun_anew: tuple[str, ...] = ()
        self._job = job
        self._part = out.with_name(out.name + ".part")
        self._job_file = out.with_name(out.name + ".part.json")

    def __enter__(self) -> Self:
        if self.out.exists():
            raise UserError(f"--out: {self.out}: exists already; remove it, or name another file")
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._file = locks.opened(self._part, REMEDY)
        except OSError as e:
            raise UserError(f"--out: {self.out}: can't be written ({e.strerror}); {REMEDY}") from None
        except UserError as e:
            raise UserError(f"--out: {e}") from None
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise
        return self

    def _begin(self) -> None:
        try:
            locks.take(self._file, self._part, REMEDY)
        except locks.Taken as e:
            raise UserError(f"--out: {self.out}: is being written by another process ({e}); wait for it") from None
        if not self._file.writable():
            who = locks.user(os.fstat(self._file.fileno()).st_uid)
            raise UserError(f"--out: {self._part}: belongs to {who}, who lets nobody else write it; {REMEDY}")
        try:
            job = json.loads(self._job_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            job = None  # killed before the first image
        infos = _whole_entries(self._file) if job is not None else []
        if infos and job != self._job:
            self.begun_anew = (f"{self._part.name}: was begun with other options or another source, and made anew",)
            infos = []
        self._file.seek(infos[-1].header_offset + _length(infos[-1]) if infos else 0)
        self._file.truncate()
        write_atomic(self._job_file, json.dumps(self._job).encode())
        self._zip = zipfile.ZipFile(self._file, "w")  # goes on at the file's position
        self._zip.filelist.extend(infos)
        self._zip.NameToInfo.update({i.filename: i for i in infos})
        self.written = len(infos)

    def add(self, png: bytes) -> None:
        self._write(entry_name(self.written), png)
        self.written += 1

    def finish(self, meta: dict[str, Any]) -> None:
        """Add `dataset.json` and let the ZIP appear, whole, under its name."""
        self._write("dataset.json", json.dumps(meta).encode())
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.replace(self.out)
        self._job_file.unlink(missing_ok=True)

    def _write(self, name: str, data: bytes) -> None:
        # A fixed date: the same images give the same bytes.
        self._zip.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._zip.fp = None  # else its finaliser would write a directory into the partial file
        self._file.close()
        if self.written == 0:
            self._part.unlink(missing_ok=True)
            self._job_file.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"--out: {self.out}: {error.strerror or error}; free some space and run again") from None


def _whole_entries(file: BinaryIO) -> list[zipfile.ZipInfo]:
    """The images at the beginning of `file` that are complete, numbered without a gap, and of the right CRC."""
    infos: list[zipfile.ZipInfo] = []
    size = file.seek(0, os.SEEK_END)
    offset = 0
    while True:
        file.seek(offset)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size:
            return infos
        signature, _, _, method, _, _, crc, _, length, name_length, extra_length = _LOCAL.unpack(head)
        if signature != b"PK\3\4" or method != zipfile.ZIP_STORED or extra_length or offset + length > size:
            return infos
        info = zipfile.ZipInfo(entry_name(len(infos)), (1980, 1, 1, 0, 0, 0))
        if file.read(name_length) != info.filename.encode():
            return infos
        data = file.read(length)
        if len(data) < length or zlib.crc32(data) != crc:
            return infos
        info.header_offset, info.CRC = offset, crc
        info.file_size = info.compress_size = length
        info.external_attr = 0o600 << 16  # as writestr sets it
        infos.append(info)
        offset += _length(info)


def _length(info: zipfile.ZipInfo) -> int:
    return _LOCAL.size + len(info.filename.encode()) + info.file_size
