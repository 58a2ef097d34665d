"""CRC-32C by table, of one message or of many alike at once, and the records of an event file.

A record is the message's length (8 bytes) and its checksum, then the message and its checksum.

Note [Checksums of many messages]
Up to a constant the checksum is linear over GF(2): it is the XOR of one table entry a byte, which depends on the byte
and on how many bytes come after it. So messages that differ from a known one in few places need a look at these places
alone, and no loop over messages.
"""

import struct
from functools import cache

import numpy as np

__all__ = ["checksums", "crc32c", "masked", "record", "records"]

BLOCK = 512  # bytes that are looked up at once


@cache
def _table(doublings: int) -> np.ndarray:
    """`(4 * 2**doublings, 256)`: what a byte's value adds to the checksum, by the number of bytes after it."""
    if doublings == 0:
        crc = np.arange(256, dtype=np.uint32)
        for _ in range(8):
            crc = np.where(crc & 1, crc >> 1 ^ np.uint32(0x82F63B78), crc >> 1)
        rows = [crc]
        for _ in range(3):
            rows.append(rows[-1] >> 8 ^ crc[rows[-1] & 0xFF])
        return np.stack(rows)
    near = _table(doublings - 1)
    # A checksum in front of n bytes of zeros is what its own 4 bytes add with n - 1 to n - 4 bytes after them.
    far = near[-1][near & 0xFF] ^ near[-2][near >> 8 & 0xFF] ^ near[-3][near >> 16 & 0xFF] ^ near[-4][near >> 24]
    return np.concatenate([near, far])


PLACES = np.arange(BLOCK)
TABLE = np.ascontiguousarray(_table((BLOCK // 4).bit_length() - 1)[::-1])  # (BLOCK, 256), by place in a block


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of 4 bytes or more."""
    short = -len(data) % BLOCK
    padded = np.zeros(short + len(data), dtype=np.uint8)  # zeros in front change nothing
    padded[short:] = np.frombuffer(data, dtype=np.uint8)
    padded[short : short + 4] ^= 0xFF
    crc = np.uint32(0)
    for block in padded.reshape(-1, BLOCK):
        block[:4] ^= np.frombuffer(struct.pack("<I", crc), dtype=np.uint8)
        crc = np.bitwise_xor.reduce(TABLE[PLACES, block])
    return int(crc) ^ 0xFFFFFFFF


def checksums(like: bytes, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """CRC-32C of K messages that differ from `like` in P places only; see Note [Checksums of many messages].

    Args:
        like: 4 bytes or more.
        places: `(P,)`, without repetition.
        rows: `(K, P)` of uint8, what stands in these places.

    Returns:
        `(K,)` of uint32.
    """
    table = _table((len(like) // 4).bit_length())[len(like) - 1 - places]  # (P, 256)
    change = rows ^ np.frombuffer(like, dtype=np.uint8)[places]
    return np.bitwise_xor.reduce(table[np.arange(len(places)), change], axis=1) ^ np.uint32(crc32c(like))


def masked(crc: np.ndarray) -> np.ndarray:
    """Checksums (uint32) as they are stored."""
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def record(data: bytes) -> bytes:
    """A message as it stands in the file."""
    length = struct.pack("<Q", len(data))
    return length + _stored(length) + data + _stored(data)


def records(like: bytes, places: np.ndarray, rows: np.ndarray) -> bytes:
    """The K messages that `checksums` describes, as they stand in the file."""
    length = struct.pack("<Q", len(like))
    head = length + _stored(length)
    made = np.empty((len(rows), len(head) + len(like) + 4), dtype=np.uint8)
    made[:, :-4] = np.frombuffer(head + like, dtype=np.uint8)
    made[:, len(head) + places] = rows
    made[:, -4:] = masked(checksums(like, places, rows)).astype("<u4")[:, None].view(np.uint8)
    return made.tobytes()


def _stored(data: bytes) -> bytes:
    return masked(np.array([crc32c(data)], dtype=np.uint32)).astype("<u4").tobytes()
