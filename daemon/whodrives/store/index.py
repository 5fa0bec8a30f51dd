"""The sealed index: the latest revision of each profile, and so who is enrolled."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from whodrives.store.sealing import ENCODER_BYTES, GUESTS, SpoiltError

INDEX = "index"


NO_ENCODER = "00" * ENCODER_BYTES


MOST_WRITES = 2**53


class Index(msgspec.Struct, forbid_unknown_fields=True):
    """Which write made each file.

    Attributes:
        counter: number of the last write.
        revisions: minimum revision of the file to use, by driver's id or "guests".
        pending: ids of new drivers whose files are being written; not enrolled yet.
    """

    counter: int
    revisions: dict[str, int]
    pending: list[str] = []


@dataclass(slots=True)
class State:
    """Key and index of the directory; `index` is None in a store without an index."""

    key: bytes
    index: Index | None

    @property
    def known(self) -> Index:
        """The index; only for writers, which always have one."""
        if self.index is None:
            raise ValueError("only a writer has an index for certain")
        return self.index

    def is_unfinished(self, driver: str) -> bool:
        """Whether an enrolment of this id was started and not finished."""
        index = self.index
        return index is not None and driver in index.pending and driver not in index.revisions

    def refuse_stale_book(self, revision: int) -> None:
        """Raise SpoiltError if a guest book with this revision is older than the index says.

        A newer one is valid: it was written just before the index would have been.
        """
        index = self.index or Index(0, {GUESTS: 0})
        if revision < index.revisions.get(GUESTS, index.counter + 1):
            raise SpoiltError("is an older copy that was restored")
