"""Says who listens on a TCP port of this machine."""

import ipaddress
import socket
import struct
from pathlib import Path

_LISTEN = "0A"


def parse_listeners(table: str) -> list[tuple[str, int, int]]:
    """Read the listening sockets (address, port, inode) out of the text of /proc/net/tcp or /proc/net/tcp6."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            address, port = fields[1].split(":")
            found.append((_decode(address), int(port, 16), int(fields[9])))
    return found


def _decode(text: str) -> str:
    """The kernel prints an address as 32-bit words in the machine's own byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    return str(ipaddress.ip_address(packed)) if len(packed) == 16 else socket.inet_ntoa(packed)


def conflicts(address: str, listening: str) -> bool:
    """Whether a socket that listens on one address keeps another from listening on the same port of `address`."""
    return listening in (address, "0.0.0.0", "::", f"::ffff:{address}")


def holder(address: str, port: int) -> str | None:
    """Describe the process that keeps `address:port` from being used; None when it is free."""
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for listening, number, inode in parse_listeners(path.read_text()) if path.exists() else []:
            if number == port and conflicts(address, listening):
                return _process_of(inode)
    return None


def _process_of(inode: int) -> str:
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if any(str(fd.readlink()) == wanted for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:  # it ended meanwhile, or belongs to another user
            continue
    return "a process of another user or network namespace"
