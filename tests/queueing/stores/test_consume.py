"""join, leave, take, renew, commit, release, reject: who has what."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sdwebui_api.queueing.model import HIGH, LOW
from sdwebui_api.queueing.store import Replaced
from tests.queueing.stores.support import LONG, QUEUE, bodies, consumer, indexes, item, joined, length, one, put_many

pytestmark = pytest.mark.anyio
SHORT = 0.2
HELD = 3.0
"""A lease that still holds after a call or two of a machine that stalls, and is waited for nevertheless."""


# -- take --------------------------------------------------------------------------------------------


async def test_an_empty_queue_gives_nothing(store):
    assert await store.take(QUEUE, await joined(store), 5, lease=LONG) == []


async def test_priority_then_index(store):
    for data, priority in [("a", LOW), ("b", HIGH), ("c", LOW), ("d", HIGH)]:
        await store.put(QUEUE, item(data, priority=priority))
    taker = await joined(store)
    assert bodies(await store.take(QUEUE, taker, 3, lease=LONG)) == [b"b", b"d", b"a"]
    await store.put(QUEUE, item("e", priority=HIGH))
    assert bodies(await store.take(QUEUE, taker, 3, lease=LONG)) == [b"e", b"c"]


async def test_the_limit_is_kept(store):
    await put_many(store, 5)
    taker = await joined(store)
    assert bodies(await store.take(QUEUE, taker, 2, lease=LONG)) == [b"0", b"1"]
    assert bodies(await store.take(QUEUE, taker, 2, lease=LONG)) == [b"2", b"3"]
    assert await store.take(QUEUE, taker, 0, lease=LONG) == []


async def test_a_group_shares_and_every_group_sees_all(store):
    await put_many(store, 4)
    first, second, other = await joined(store, "a"), await joined(store, "b"), await joined(store, "a", "other")
    assert bodies(await store.take(QUEUE, first, 2, lease=LONG)) == [b"0", b"1"]
    assert bodies(await store.take(QUEUE, second, 9, lease=LONG)) == [b"2", b"3"]
    assert bodies(await store.take(QUEUE, other, 9, lease=LONG)) == [b"0", b"1", b"2", b"3"]


async def test_takes_at_once_never_share_an_item(store_factory):
    stores = [await store_factory(), await store_factory()]
    await asyncio.gather(*(stores[0].put(QUEUE, item(str(n))) for n in range(60)))
    takers = [await joined(stores[n % 2], f"u{n}") for n in range(6)]

    async def drain(number: int) -> list[int]:
        found: list[int] = []
        while got := await stores[number % 2].take(QUEUE, takers[number], 3, lease=LONG):
            found += indexes(got)
        return found

    taken = await asyncio.gather(*(drain(number) for number in range(6)))
    assert sorted(index for part in taken for index in part) == list(range(1, 61))


async def test_index_only_comes_without_data(store):
    await store.put(QUEUE, item("body", task_id="t"))
    taker = await joined(store)
    (delivery,) = await store.take(QUEUE, taker, 1, lease=LONG, index_only=True)
    assert (delivery.item.data, delivery.item.tags["task_id"]) == (b"", "t")


async def test_take_without_join_is_replaced(store):
    with pytest.raises(Replaced):
        await store.take(QUEUE, consumer(), 1, lease=LONG)


async def test_auto_commit_removes_with_the_delivery(store):
    await put_many(store, 3)
    taker = await joined(store, auto_commit=True)
    assert bodies(await store.take(QUEUE, taker, 2, lease=LONG)) == [b"0", b"1"]
    assert await length(store) == 1
    await store.leave(QUEUE, taker)
    assert bodies(await store.take(QUEUE, await joined(store, "v"), 9, lease=LONG)) == [b"2"]


async def test_of_a_take_that_does_not_commit_nothing_is_lost(store):
    """Whoever joined to commit automatically may still take without, and commit once it has passed the items on."""
    await put_many(store, 2)
    taker = await joined(store, auto_commit=True)
    careful = replace(taker, auto_commit=False)
    assert bodies(await store.take(QUEUE, careful, 1, lease=LONG)) == [b"0"]
    assert await length(store) == 2 and (await store.stats(QUEUE)).consumers[0].auto_commit
    await store.leave(QUEUE, careful)
    assert bodies(await store.take(QUEUE, await joined(store, "v"), 9, lease=LONG)) == [b"0", b"1"]


async def test_start_at_an_index(store):
    await put_many(store, 4)
    late, early = await joined(store, "late", start=3), await joined(store, "early")
    assert bodies(await store.take(QUEUE, late, 9, lease=LONG)) == [b"2", b"3"]
    assert bodies(await store.take(QUEUE, early, 9, lease=LONG)) == [b"0", b"1"]


async def test_start_at_an_index_applies_to_what_comes_back_too(store):
    await put_many(store, 2)
    taker = await joined(store, "a")
    await store.take(QUEUE, taker, 2, lease=LONG)
    await store.leave(QUEUE, taker)
    assert bodies(await store.take(QUEUE, await joined(store, "b", start=2), 9, lease=LONG)) == [b"1"]
    assert bodies(await store.take(QUEUE, await joined(store, "c"), 9, lease=LONG)) == [b"0"]


async def test_start_minus_one_ignores_what_was_there(store):
    await put_many(store, 2)
    first = await joined(store, "first")
    await one(store, first)
    await store.leave(QUEUE, first)
    taker = await joined(store, "new", start=-1)
    assert await store.take(QUEUE, taker, 9, lease=LONG) == []
    await store.put(QUEUE, item("later"))
    await store.put(QUEUE, item("sooner", priority=HIGH))
    assert bodies(await store.take(QUEUE, taker, 9, lease=LONG)) == [b"sooner", b"later"]


async def test_start_minus_one_on_an_empty_queue(store):
    taker = await joined(store, start=-1)
    await put_many(store, 2)
    assert bodies(await store.take(QUEUE, taker, 9, lease=LONG)) == [b"0", b"1"]


# -- tags --------------------------------------------------------------------------------------------


async def test_tags_filter_and_leave_the_rest(store):
    for color, size in [("red", "s"), ("blue", "s"), ("red", "l"), ("red", "s")]:
        await store.put(QUEUE, item(f"{color} {size}", color=color, size=size))
    picky = await joined(store, "picky", tags={"color": "red", "size": "s"})
    assert bodies(await store.take(QUEUE, picky, 9, lease=LONG)) == [b"red s", b"red s"]
    assert await store.take(QUEUE, picky, 9, lease=LONG) == []
    await store.put(QUEUE, item("more", color="red", size="s"))
    rest = await joined(store, "rest")
    assert bodies(await store.take(QUEUE, rest, 2, lease=LONG)) == [b"blue s", b"red l"]
    assert bodies(await store.take(QUEUE, picky, 9, lease=LONG)) == [b"more"]


async def test_filtered_items_come_by_priority_and_return(store):
    await store.put(QUEUE, item("other"))
    await store.put(QUEUE, item("low", color="red"))
    await store.put(QUEUE, item("high", color="red", priority=HIGH))
    picky = await joined(store, "picky", tags={"color": "red"})
    assert bodies(await store.take(QUEUE, picky, 9, lease=LONG)) == [b"high", b"low"]
    await store.leave(QUEUE, picky)
    again = await joined(store, "other-picky", tags={"color": "red"})
    assert bodies(await store.take(QUEUE, again, 1, lease=LONG)) == [b"high"]
    assert bodies(await store.take(QUEUE, await joined(store, "any"), 9, lease=LONG)) == [b"other", b"low"]


async def test_the_request_id_is_a_tag_like_others(store):
    await store.put(QUEUE, item("a", rid="r-a"))
    await store.put(QUEUE, item("b", rid="r-b", color="red"))
    picky = await joined(store, tags={"requestId": "r-b", "color": "red"})
    assert bodies(await store.take(QUEUE, picky, 9, lease=LONG)) == [b"b"]
    assert await store.take(QUEUE, await joined(store, "v", tags={"requestId": "none"}), 9, lease=LONG) == []


async def test_values_are_compared_exactly(store):
    await store.put(QUEUE, item("a", color="Red"))
    await store.put(QUEUE, item("b", color="re"))
    await store.put(QUEUE, item("c", colour="red"))
    await store.put(QUEUE, item("d", color="re%d*?"))
    taker = await joined(store, tags={"color": "red"})
    assert await store.take(QUEUE, taker, 9, lease=LONG) == []
    odd = await joined(store, "odd", tags={"color": "re%d*?"})
    assert bodies(await store.take(QUEUE, odd, 9, lease=LONG)) == [b"d"]


# -- leases ------------------------------------------------------------------------------------------


async def test_a_lease_that_runs_out_frees_the_item(store):
    await put_many(store, 2)
    slow, quick = await joined(store, "slow"), await joined(store, "quick")
    first = await one(store, slow, lease=HELD)
    assert (first.item.data, first.count) == (b"0", 1)
    assert bodies(await store.take(QUEUE, quick, 9, lease=LONG)) == [b"1"]
    await asyncio.sleep(HELD + 0.1)
    (second,) = await store.take(QUEUE, quick, 9, lease=LONG)
    assert (second.item.data, second.count) == (b"0", 2)


async def test_a_renewed_lease_holds(store):
    await put_many(store, 1)
    holder, other = await joined(store, "holder"), await joined(store, "other")
    held = await one(store, holder, lease=HELD)
    for _ in range(4):
        await asyncio.sleep(HELD / 3)
        assert await store.renew(QUEUE, holder, [held.item.index], lease=HELD) == [held.item.index]
        assert await store.take(QUEUE, other, 1, lease=LONG) == []


async def test_renew_can_shorten_a_lease(store):
    await put_many(store, 1)
    holder, other = await joined(store, "holder"), await joined(store, "other")
    held = await one(store, holder, lease=LONG)
    await store.renew(QUEUE, holder, [held.item.index], lease=SHORT)
    await asyncio.sleep(SHORT + 0.1)
    assert len(await store.take(QUEUE, other, 1, lease=LONG)) == 1


async def test_renew_names_what_is_still_held(store):
    first, second, third = await put_many(store, 3)
    holder, other = await joined(store, "holder"), await joined(store, "other")
    assert len(await store.take(QUEUE, holder, 2, lease=SHORT)) == 2
    await store.renew(QUEUE, holder, [first], lease=LONG)
    await asyncio.sleep(SHORT + 0.1)
    await store.take(QUEUE, other, 9, lease=LONG)
    assert await store.renew(QUEUE, holder, [first, second, third, 99], lease=LONG) == [first]
    await store.commit(QUEUE, holder.group, [first])
    assert await store.renew(QUEUE, holder, [first], lease=LONG) == []
    assert await store.renew(QUEUE, holder, [], lease=LONG) == []


async def test_an_expired_lease_that_nobody_took_can_be_renewed(store):
    await put_many(store, 1)
    holder, other = await joined(store, "holder"), await joined(store, "other")
    held = await one(store, holder, lease=SHORT)
    await asyncio.sleep(SHORT + 0.1)
    assert await store.renew(QUEUE, holder, [held.item.index], lease=LONG) == [held.item.index]
    assert await store.take(QUEUE, other, 1, lease=LONG) == []


async def test_what_was_given_back_cannot_be_renewed(store):
    await put_many(store, 1)
    holder = await joined(store)
    held = await one(store, holder)
    await store.release(QUEUE, holder, [held.item.index])
    assert await store.renew(QUEUE, holder, [held.item.index], lease=LONG) == []


# -- connections -------------------------------------------------------------------------------------


async def test_a_second_connection_replaces_the_first_and_inherits(store):
    await put_many(store, 3)
    old = await joined(store, "u")
    assert bodies(await store.take(QUEUE, old, 2, lease=LONG)) == [b"0", b"1"]
    new = await joined(store, "u")
    found = await store.take(QUEUE, new, 9, lease=LONG)
    assert bodies(found) == [b"0", b"1", b"2"]
    assert [delivery.count for delivery in found] == [2, 2, 1]
    with pytest.raises(Replaced):
        await store.take(QUEUE, old, 1, lease=LONG)
    with pytest.raises(Replaced):
        await store.renew(QUEUE, old, [], lease=LONG)
    await store.leave(QUEUE, old)
    assert await store.take(QUEUE, await joined(store, "v"), 9, lease=LONG) == [], "the old one's leave has no effect"


async def test_a_replaced_connection_releases_nothing(store):
    await put_many(store, 1)
    old = await joined(store, "u")
    held = await one(store, old)
    new = await joined(store, "u")
    await one(store, new)
    await store.release(QUEUE, old, [held.item.index])
    assert await store.take(QUEUE, await joined(store, "v"), 1, lease=LONG) == []


async def test_the_same_user_of_another_group_or_queue_is_another_consumer(store):
    here, there = await joined(store, "u", "g1"), await joined(store, "u", "g2")
    elsewhere = await joined(store, "u", "g1", "other")
    for queue, taker in [(QUEUE, here), (QUEUE, there), ("other", elsewhere)]:
        assert await store.take(queue, taker, 1, lease=LONG) == []


async def test_leaving_gives_everything_back(store):
    await put_many(store, 3)
    goes, stays = await joined(store, "goes"), await joined(store, "stays")
    await store.take(QUEUE, goes, 2, lease=LONG)
    await store.leave(QUEUE, goes)
    found = await store.take(QUEUE, stays, 9, lease=LONG)
    assert bodies(found) == [b"0", b"1", b"2"]
    assert [delivery.count for delivery in found] == [2, 2, 1]
    with pytest.raises(Replaced):
        await store.take(QUEUE, goes, 1, lease=LONG)
    await store.leave(QUEUE, goes)


async def test_what_comes_back_keeps_its_place(store):
    for n, priority in enumerate([LOW, HIGH, LOW, HIGH]):
        await store.put(QUEUE, item(str(n), priority=priority))
    goes = await joined(store, "goes")
    await store.take(QUEUE, goes, 3, lease=LONG)
    await store.put(QUEUE, item("4", priority=HIGH))
    await store.leave(QUEUE, goes)
    assert bodies(await store.take(QUEUE, await joined(store), 9, lease=LONG)) == [b"1", b"3", b"4", b"0", b"2"]


# -- commit ------------------------------------------------------------------------------------------


async def test_a_commit_removes_at_once(store):
    first, second = await put_many(store, 2)
    taker = await joined(store)
    await store.take(QUEUE, taker, 2, lease=LONG)
    await store.commit(QUEUE, taker.group, [first])
    assert await length(store) == 1
    await store.commit(QUEUE, taker.group, [first, second, 99])
    assert await length(store) == 0
    await store.commit(QUEUE, taker.group, [first, second])
    await store.commit("never-named", "g", [1])


async def test_commit_of_what_was_never_delivered_by_a_group_nobody_joined(store):
    first, second, third = await put_many(store, 3)
    await store.commit(QUEUE, "eas", [second])
    found = await store.take(QUEUE, await joined(store, group="eas"), 9, lease=LONG)
    assert indexes(found) == [first, third]


async def test_an_item_leaves_when_all_groups_are_done(store):
    first, second = await put_many(store, 2)
    a, b = await joined(store, group="a"), await joined(store, group="b")
    await store.commit(QUEUE, "a", [first])
    assert await length(store) == 2
    assert indexes(await store.take(QUEUE, a, 9, lease=LONG)) == [second]
    assert indexes(await store.take(QUEUE, b, 9, lease=LONG)) == [first, second]
    await store.commit(QUEUE, "b", [first, second])
    assert await length(store) == 1
    await store.commit(QUEUE, "a", [second])
    assert await length(store) == 0


async def test_what_a_group_committed_does_not_come_back_to_it(store):
    (index,) = await put_many(store, 1)
    a, _ = await joined(store, "u", "a"), await joined(store, "u", "b")
    await one(store, a)
    await store.commit(QUEUE, "a", [index])
    await store.leave(QUEUE, a)
    again = await joined(store, "u", "a")
    assert await store.take(QUEUE, again, 9, lease=LONG) == []
    assert await store.renew(QUEUE, again, [index], lease=LONG) == []
    assert await store.reject(QUEUE, "a", [index], counts=True) == []


async def test_auto_commit_waits_for_other_groups(store):
    await put_many(store, 2)
    auto, slow = await joined(store, group="auto", auto_commit=True), await joined(store, group="slow")
    assert len(await store.take(QUEUE, auto, 9, lease=LONG)) == 2
    assert await store.take(QUEUE, auto, 9, lease=LONG) == []
    assert await length(store) == 2
    assert len(await store.take(QUEUE, slow, 9, lease=LONG)) == 2


# -- release and reject ------------------------------------------------------------------------------


@pytest.mark.parametrize(("counts", "expected"), [(False, 1), (True, 2)])
async def test_release(store, counts, expected):
    first, second = await put_many(store, 2)
    gives, takes = await joined(store, "gives"), await joined(store, "takes")
    await store.take(QUEUE, gives, 2, lease=LONG)
    await store.release(QUEUE, gives, [first, 99], counts=counts)
    (delivery,) = await store.take(QUEUE, takes, 9, lease=LONG)
    assert (delivery.item.index, delivery.count) == (first, expected)
    assert await store.renew(QUEUE, gives, [second], lease=LONG) == [second]


async def test_release_of_what_another_holds_does_nothing(store):
    await put_many(store, 1)
    holder, other = await joined(store, "holder"), await joined(store, "other")
    held = await one(store, holder)
    await store.release(QUEUE, other, [held.item.index])
    assert await store.take(QUEUE, other, 1, lease=LONG) == []
    assert await store.renew(QUEUE, holder, [held.item.index], lease=LONG) == [held.item.index]


@pytest.mark.parametrize(("counts", "expected"), [(False, 0), (True, 1)])
async def test_reject_gives_back_whoever_holds_it(store, counts, expected):
    first, second = await put_many(store, 2)
    holder = await joined(store, "holder")
    await one(store, holder)
    (given_back,) = await store.reject(QUEUE, holder.group, [first, second, 99], counts=counts)
    assert (given_back.item.index, given_back.item.data, given_back.count) == (first, b"0", expected)
    found = await store.take(QUEUE, holder, 9, lease=LONG)
    assert [(d.item.index, d.count) for d in found] == [(first, expected + 1), (second, 1)]
    assert await store.reject("never-named", "g", [1], counts=True) == []


async def test_counts_add_up(store):
    await put_many(store, 1)
    taker = await joined(store)
    counts = []
    for _ in range(4):
        delivery = await one(store, taker)
        counts.append(delivery.count)
        await store.reject(QUEUE, taker.group, [delivery.item.index], counts=True)
    assert counts == [1, 2, 3, 4]
