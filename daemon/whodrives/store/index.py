"""The sealed index: how often each profile was written, and who was forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from whodrives.store.sealing import ENCODER_BYTES, GUESTS, SpoiltError

INDEX = "index"


NO_ENCODER = "00" * ENCODER_BYTES


MOST_WRITES = 2**53


class Index(msgspec.Struct, forbid_unknown_fields=True):
    """Which write each file is of.

    Attributes:
        counter: number of the last write.
        revisions: by driver's id, or "guests": the least revision of the file that is used.
        pending: ids of new drivers whose files are being written; not enrolled yet.
    """

    counter: int
    revisions: dict[str, int]
    pending: list[str] = []


@dataclass(slots=True)
class State:
    """What an operation knows of the folder; `index` is None before there was one."""

    key: bytes
    index: Index | None

    @property
    def known(self) -> Index:
        """The index of who writes, which is always there."""
        if self.index is None:
            raise ValueError("only a writer has an index for certain")
        return self.index

    def is_unfinished(self, driver: str) -> bool:
        """Whether an enrolment of this id was begun and not finished."""
        index = self.index
        return index is not None and driver in index.pending and driver not in index.revisions

    def refuse_stale_book(self, revision: int) -> None:
        """Raise SpoiltError if a guest book with this revision was put back.

        One that is newer than the index was written just before the index could be.
        """
        index = self.index or Index(0, {GUESTS: 0})
        if revision < index.revisions.get(GUESTS, index.counter + 1):
            raise SpoiltError("is an older one that was put back")
