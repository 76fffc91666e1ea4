"""Random histories against a model of a few lists: deliveries, order, counts and lengths are the same at every step."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from sdwebui_api.queueing.model import HIGH, LOW, Consumer, NewItem
from sdwebui_api.queueing.store import QueueStore
from tests.queueing.stores.support import LONG, QUEUE, consumer, indexes, item

pytestmark = pytest.mark.anyio

TAGS: dict[str, dict[str, str]] = {"": {}, "red": {"color": "red"}, "big red": {"color": "red", "size": "big"}}
USERS = [("a", "a1", ""), ("a", "a2", ""), ("a", "a3", "red"), ("b", "b1", "big red"), ("b", "b2", "")]
STEPS = 400


@dataclass
class Entry:
    """What one group has to do with one item."""

    holder: str = ""
    count: int = 0
    done: bool = False


@dataclass
class Model:
    items: dict[int, NewItem] = field(default_factory=dict)
    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    joined: dict[str, Consumer] = field(default_factory=dict)
    """By user; those who left stay, and count as consumers of their group."""
    start: dict[str, int] = field(default_factory=dict)
    last: int = 0

    def entry(self, group: str, index: int) -> Entry:
        return self.entries.setdefault((group, index), Entry())

    def wanted(self, who: Consumer) -> list[int]:
        free = [
            index
            for index, new in self.items.items()
            if index >= self.start[who.user]
            and who.tags.items() <= new.tags.items()
            and not self.entry(who.group, index).holder
            and not self.entry(who.group, index).done
        ]
        return sorted(free, key=lambda index: (-self.items[index].priority, index))

    def held(self, who: Consumer) -> list[int]:
        return [i for (g, i), e in self.entries.items() if g == who.group and e.holder == who.user and i in self.items]

    def commit(self, group: str, index: int) -> None:
        if index in self.items:
            entry = self.entry(group, index)
            entry.done, entry.holder = True, ""
            groups = {who.group for who in self.joined.values()} | {group}
            if all(self.entry(other, index).done for other in groups):
                del self.items[index]


class History:
    """One random history, played on a store and on the model."""

    def __init__(self, store: QueueStore, seed: int) -> None:
        self.store, self.model, self.random = store, Model(), random.Random(seed)
        self.current: dict[str, Consumer] = {}

    async def play(self) -> None:
        steps = [self.put] * 6 + [self.take] * 8 + [self.commit] * 4 + [self.join, self.leave, self.release] * 2
        steps += [self.reject, self.remove, self.truncate, self.get]
        for _ in range(STEPS):
            await self.random.choice(steps)()
            await self.compare()

    async def put(self) -> None:
        tags = self.random.choice([{}, {"color": "red"}, {"color": "red", "size": "big"}, {"color": "blue"}])
        new = item(priority=self.random.choice([LOW, LOW, HIGH]), **tags)
        self.model.last += 1
        assert (await self.store.put(QUEUE, new)).index == self.model.last
        self.model.items[self.model.last] = new

    async def join(self) -> None:
        group, user, filtered = self.random.choice(USERS)
        start = self.random.choice([0, 0, 0, -1, self.random.randint(1, self.model.last + 2)])
        who = consumer(user, group, tags=TAGS[filtered], start=start, auto_commit=self.random.random() < 0.1)
        for index in self.model.held(who):
            self.model.entry(group, index).holder = ""
        await self.store.join(QUEUE, who)
        self.current[user] = self.model.joined[user] = who
        self.model.start[user] = start if start >= 0 else self.model.last + 1

    async def leave(self) -> None:
        if not self.current:
            return
        user = self.random.choice(sorted(self.current))
        who = self.current.pop(user)
        for index in self.model.held(who):
            self.model.entry(who.group, index).holder = ""
        await self.store.leave(QUEUE, who)

    def anyone(self) -> Consumer | None:
        return self.current[self.random.choice(sorted(self.current))] if self.current else None

    async def take(self) -> None:
        who = self.anyone()
        if who is None:
            return
        limit = self.random.randint(1, 4)
        expected = self.model.wanted(who)[:limit]
        found = await self.store.take(QUEUE, who, limit, lease=LONG)
        assert indexes(found) == expected
        for delivery in found:
            entry = self.model.entry(who.group, delivery.item.index)
            entry.holder, entry.count = who.user, entry.count + 1
            assert delivery.count == entry.count
            assert delivery.item.data == self.model.items[delivery.item.index].data
            if who.auto_commit:
                self.model.commit(who.group, delivery.item.index)

    def some(self, candidates: list[int]) -> list[int]:
        return self.random.sample(candidates, min(len(candidates), self.random.randint(1, 3)))

    async def commit(self) -> None:
        who = self.anyone()
        if who is None:
            return
        chosen = self.some(self.model.held(who)) if self.random.random() < 0.9 else self.some(list(self.model.items))
        await self.store.commit(QUEUE, who.group, chosen)
        for index in chosen:
            self.model.commit(who.group, index)

    async def release(self) -> None:
        who = self.anyone()
        if who is None:
            return
        chosen, counts = self.some(self.model.held(who)), self.random.random() < 0.5
        await self.store.release(QUEUE, who, chosen, counts=counts)
        for index in chosen:
            entry = self.model.entry(who.group, index)
            entry.holder, entry.count = "", entry.count - (not counts)

    async def reject(self) -> None:
        who = self.anyone()
        if who is None:
            return
        chosen, counts = self.some(list(self.model.items)), self.random.random() < 0.5
        held = [index for index in sorted(chosen) if self.model.entry(who.group, index).holder]
        found = await self.store.reject(QUEUE, who.group, chosen, counts=counts)
        assert sorted(indexes(found)) == held
        for delivery in found:
            entry = self.model.entry(who.group, delivery.item.index)
            entry.holder, entry.count = "", entry.count - (not counts)
            assert delivery.count == entry.count

    async def remove(self) -> None:
        chosen = self.some([*self.model.items, self.model.last + 1])
        removed = await self.store.delete(QUEUE, chosen)
        assert sorted(kept.index for kept in removed) == sorted(set(chosen) & self.model.items.keys())
        for index in chosen:
            self.model.items.pop(index, None)

    async def truncate(self) -> None:
        below = min([*self.model.items, self.model.last]) + self.random.randint(0, 3)
        gone = [index for index in self.model.items if index < below]
        assert await self.store.truncate(QUEUE, below) == len(gone)
        for index in gone:
            del self.model.items[index]

    async def get(self) -> None:
        tags = self.random.choice(list(TAGS.values()))
        matching = [index for index, new in self.model.items.items() if tags.items() <= new.tags.items()]
        expected = sorted(matching, key=lambda index: (-self.model.items[index].priority, index))[:2]
        delete = self.random.random() < 0.3
        found = await self.store.get(QUEUE, length=2, tags=tags, delete=delete)
        assert [kept.index for kept in found] == expected
        for index in expected if delete else []:
            del self.model.items[index]

    async def compare(self) -> None:
        stats = await self.store.stats(QUEUE)
        held = {i for (_, i), entry in self.model.entries.items() if entry.holder and i in self.model.items}
        assert (stats.length, stats.waiting) == (len(self.model.items), len(self.model.items) - len(held))
        assert stats.first_index == min(self.model.items, default=None)
        pending = {found.user: found.pending for found in stats.consumers}
        assert pending == {user: len(self.model.held(who)) for user, who in self.model.joined.items()}
        high = sum(new.priority == HIGH for new in self.model.items.values())
        assert await self.store.count(QUEUE, priority=HIGH) == high


@pytest.mark.parametrize("seed", range(4))
async def test_a_random_history(store, seed):
    await History(store, seed).play()
