"""Which texts were seen before, remembered in 12 to 24 bytes a text."""

from __future__ import annotations

import hashlib
from array import array

FIRST_SIZE = 1024


class Seen:
    """A set of texts kept as 64-bit digests in one flat table; of a million texts two differing ones meet with 3e-8.

    Rows that are the same twice share their digest; a Python set would need some 80 bytes for each.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._table = array("Q", bytes(8 * FIRST_SIZE))
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, text: str) -> bool:
        """Remember a text, and say whether it was known already."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        # Zero marks a free place.
        key = int.from_bytes(digest, "little") or 1
        place = self._place(key)
        if self._table[place] == key:
            return True
        self._table[place] = key
        self._used += 1
        if 3 * self._used > 2 * len(self._table):
            self._grow()
        return False

    def _place(self, key: int) -> int:
        """Return where a key stands, or the free place where it belongs."""
        table, mask = self._table, len(self._table) - 1
        place = key & mask
        while table[place] and table[place] != key:
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        old = self._table
        self._table = array("Q", bytes(16 * len(old)))
        for key in old:
            if key:
                self._table[self._place(key)] = key
