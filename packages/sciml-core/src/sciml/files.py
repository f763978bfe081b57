"""Files that are either the old ones or the new ones, never half."""

import os
import re
import secrets
import socket
import time
import zlib
from pathlib import Path

_A_DAY = 86400.0


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` beside `path`, flush it to disk, then rename over `path`.

    The new file has the permissions that the umask gives. What killed writers of `path` left behind is removed.
    """
    data = content.encode() if isinstance(content, str) else content
    _remove_abandoned(path)
    temporary = path.parent / f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_abandoned(path: Path) -> None:
    """Remove the temporaries of `path` whose process has ended, and, as other hosts' cannot be asked, day-old ones."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}})-([0-9]+)-[0-9a-f]{{8}}\.tmp")
    with os.scandir(path.parent) as entries:
        found = [(entry, match) for entry in entries if (match := pattern.fullmatch(entry.name))]
    for entry, match in found:
        try:
            ended = match[1] == _host() and not _alive(int(match[2]))
            if ended or time.time() - entry.stat(follow_symlinks=False).st_mtime > _A_DAY:
                os.unlink(entry.path)
        except OSError:  # it is gone, or somebody else's
            continue


def _alive(process: int) -> bool:
    if os.name != "posix":  # where signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"
