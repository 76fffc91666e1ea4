"""Who is next: jobs that wait, in one line or in one per user."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Protocol

from sdwebui_api.jobs.job import Job

Work = Callable[[Job], Any]
Entry = tuple[Job, Work]

SHARE = 4
"""One user's part of the places to wait: a quarter, so that nobody's flood shuts the others out."""


class Lines(Protocol):
    """Not thread-safe: the runner's lock is held around every call."""

    def __len__(self) -> int:
        """How many wait."""
        ...

    def append(self, job: Job, work: Work) -> None: ...

    @property
    def next_ready(self) -> bool:
        """`take` would give one."""
        ...

    def take(self) -> Entry | None:
        """The next one, which begins to run now."""
        ...

    def remove(self, job: Job) -> bool:
        """Leaves the line. False: it does not wait."""
        ...

    def ended(self, job: Job) -> None:
        """One that was taken runs no more."""
        ...

    def position(self, job: Job) -> int | None:
        """How many of those that wait are taken before this one; None when it does not wait."""
        ...

    def full_for(self, user: str | None) -> bool:
        """This user has as many waiting as one may have."""
        ...


class OneLine:
    """First come, first served."""

    def __init__(self) -> None:
        self._line: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def append(self, job: Job, work: Work) -> None:
        self._line.append((job, work))

    @property
    def next_ready(self) -> bool:
        return bool(self._line)

    def take(self) -> Entry | None:
        return self._line.popleft() if self._line else None

    def remove(self, job: Job) -> bool:
        return _remove(self._line, job)

    def ended(self, job: Job) -> None:
        return

    def position(self, job: Job) -> int | None:
        return _index(self._line, job)

    def full_for(self, user: str | None) -> bool:
        return False


class FairLines:
    """A line per user. The users are served in turn; one whose job runs is passed over until it has ended, so each
    user's jobs run in their order, one after the other."""

    def __init__(self, places: int) -> None:
        """`places`: of all users together; one may take a quarter of them."""
        self._most = max(1, places // SHARE)
        self._lines: OrderedDict[str | None, deque[Entry]] = OrderedDict()
        """Users that wait, the one whose turn is next first; none of the lines is empty."""
        self._running: set[str | None] = set()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def append(self, job: Job, work: Work) -> None:
        self._lines.setdefault(job.user, deque()).append((job, work))

    @property
    def next_ready(self) -> bool:
        return self._next_user() is not None

    def _next_user(self) -> tuple[str | None] | None:
        """In a tuple, for None is a user too."""
        return next(((user,) for user in self._lines if user not in self._running), None)

    def take(self) -> Entry | None:
        found = self._next_user()
        if found is None:
            return None
        (user,) = found
        entry = self._lines[user].popleft()
        self._running.add(user)
        self._lines.move_to_end(user)
        self._forget_empty(user)
        return entry

    def remove(self, job: Job) -> bool:
        removed = _remove(self._lines.get(job.user, deque()), job)
        self._forget_empty(job.user)
        return removed

    def _forget_empty(self, user: str | None) -> None:
        if user in self._lines and not self._lines[user]:
            del self._lines[user]

    def ended(self, job: Job) -> None:
        self._running.discard(job.user)

    def position(self, job: Job) -> int | None:
        """In the order of the turns, as if every job took as long as the others."""
        own = _index(self._lines.get(job.user, deque()), job)
        if own is None:
            return None
        ahead, turns = own, own + 1
        for user, line in self._lines.items():
            if user == job.user:
                turns = own  # those behind have had one turn less
            else:
                ahead += min(len(line), turns)
        return ahead

    def full_for(self, user: str | None) -> bool:
        return len(self._lines.get(user, ())) >= self._most


def _index(line: deque[Entry], job: Job) -> int | None:
    return next((index for index, (other, _) in enumerate(line) if other is job), None)


def _remove(line: deque[Entry], job: Job) -> bool:
    found = _index(line, job)
    if found is not None:
        del line[found]
    return found is not None
