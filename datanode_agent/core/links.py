"""Which metasrv replica to ask next. Any of them answers; the leader answers soonest."""

BACKOFF_MS_FIRST = 50.0
BACKOFF_MS_MAX = 2_000.0


class ReplicaChooser:
    """Prefers the leader, goes round when a replica fails, and waits longer each time a whole round failed."""

    def __init__(self, replicas: tuple[str, ...]) -> None:
        self._replicas = replicas
        self._next = 0
        self._failures = 0
        self._leader = ""
        self._term = 0

    @property
    def current(self) -> str:
        """The replica to ask now."""
        return self._replicas[self._next]

    def leader_is(self, address: str, term: int) -> bool:
        """Somebody named the leader of a term. Whether that makes another replica the one to ask.

        Only a change of leader counts: a replica that failed is not chosen again merely because it is named again,
        and what an old leader or a follower that lags says of an older term is no news.
        """
        if term < self._term or address == self._leader or address not in self._replicas:
            return False
        self._leader, self._term = address, term
        changed = self.current != address
        self._next = self._replicas.index(address)
        self._failures = 0
        return changed

    def hinted(self, address: str) -> None:
        """The replica that could not do it named one that may: ask that next."""
        if address in self._replicas:
            self._next = self._replicas.index(address)

    def failed(self, address: str) -> float:
        """That replica did not answer; how many milliseconds to wait before asking `current`, 0 within a round."""
        if address == self.current:
            self._next = (self._next + 1) % len(self._replicas)
        self._failures += 1
        rounds, place = divmod(self._failures, len(self._replicas))
        return min(BACKOFF_MS_FIRST * 2 ** min(rounds - 1, 10), BACKOFF_MS_MAX) if place == 0 else 0.0

    def answered(self) -> None:
        """The current replica answered: the next failure starts a round afresh."""
        self._failures = 0


class StallWatch:
    """Notices that a grant named a revision whose orders do not arrive, although the stream looks alive."""

    def __init__(self, patience_ms: float) -> None:
        self._patience_ms = patience_ms
        self._awaited: int | None = None
        self._since_ms = 0.0

    def stalled(self, awaited_revision: int | None, now_ms: float) -> bool:
        """Whether the same or a lower revision has been awaited for longer than the patience; then counts afresh."""
        if awaited_revision is None:
            self._awaited = None
            return False
        if self._awaited is None:
            self._awaited, self._since_ms = awaited_revision, now_ms
            return False
        if now_ms - self._since_ms < self._patience_ms:
            return False
        self._since_ms = now_ms
        return True

    def applied(self, revision: int) -> None:
        """Orders arrived up to `revision`: what waits above it waits anew."""
        if self._awaited is not None and revision >= self._awaited:
            self._awaited = None
