"""confirm(): rounds in which a quorum says "still your term", one in flight and one waiting, shared by all callers.

A caller's round must begin after its call, so a call that comes while a round is in flight waits for the next one.
"""

from collections.abc import Callable

Answer = Callable[[bool], None]


class Rounds:
    """Rounds that `needed` of `peers` must answer. Answers may come in any order, repeated or never.

    Several sets of rounds share one message: set `channel` of `channels` takes every `channels`-th number.
    """

    def __init__(self, peers: tuple[str, ...], needed: int, channel: int = 0, channels: int = 1) -> None:
        self._needed = needed
        self._peers = frozenset(peers)
        self._number = channel
        self._step = channels
        self._answered: set[str] = set()
        self._in_flight: list[Answer] = []
        self._waiting: list[Answer] = []
        self._sent_s = 0.0

    def ask(self, answer: Answer) -> None:
        """Call back with True when a quorum answered a round begun from now on, or with False when we do not lead."""
        self._waiting.append(answer)

    def to_send(self, now_s: float, again_after_s: float) -> int | None:
        """The number of the round to send to every peer now, or None. An unanswered one is sent again."""
        if self._in_flight:
            if now_s - self._sent_s < again_after_s:
                return None
        elif self._waiting:
            self._in_flight, self._waiting = self._waiting, []
            self._answered = set()
            self._number += self._step
            self._settle()
            if not self._in_flight:
                return None
        else:
            return None
        self._sent_s = now_s
        return self._number

    def answered(self, peer: str, number: int) -> None:
        """A peer's answer, of our term."""
        if self._in_flight and number == self._number and peer in self._peers:
            self._answered.add(peer)
            self._settle()

    def fail(self) -> None:
        """Leadership is over: everyone hears it."""
        if self.idle:
            return
        lost, self._in_flight, self._waiting = self._in_flight + self._waiting, [], []
        for answer in lost:
            answer(False)

    @property
    def idle(self) -> bool:
        """Nobody waits."""
        return not self._in_flight and not self._waiting

    def _settle(self) -> None:
        if len(self._answered) >= self._needed:
            done, self._in_flight = self._in_flight, []
            for answer in done:
                answer(True)
