from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from sdwebui_api.engine.weights import Abandoned, Load, Loaded, Room, WeightsCache
from sdwebui_api.errors import UnusableModel


def loader(name: str, size: int = 10, calls: list[str] | None = None) -> Load:
    def load(reserve: Callable[[int], None]) -> Loaded:
        reserve(size)
        if calls is not None:
            calls.append(name)
        return Loaded(name, size)

    return load


def use(cache: WeightsCache, name: str, size: int = 10, calls: list[str] | None = None) -> None:
    with cache.lease(name, loader(name, size, calls), str) as part:
        assert part == name


def names(cache: WeightsCache) -> set[object]:
    return {resident.key for resident in cache.loaded()}


def test_what_is_in_memory_is_not_loaded_again() -> None:
    cache, calls = WeightsCache(100), list[str]()
    for _ in range(3):
        use(cache, "a", calls=calls)
    assert calls == ["a"]
    assert [(r.key, r.size, r.holders) for r in cache.loaded()] == [("a", 10, 0)]


def test_many_who_ask_at_once_load_once() -> None:
    cache, calls = WeightsCache(100), list[str]()
    barrier = threading.Barrier(8)

    def slow(reserve: Callable[[int], None]) -> Loaded:
        calls.append("a")
        time.sleep(0.05)
        return Loaded(object(), 1)

    def ask() -> object:
        barrier.wait(60)
        with cache.lease("a", slow, object) as part:
            return part

    with ThreadPoolExecutor(8) as pool:
        parts = [future.result(timeout=120) for future in [pool.submit(ask) for _ in range(8)]]
    assert len(set(map(id, parts))) == 1 and calls == ["a"]


def test_different_keys_load_side_by_side() -> None:
    cache, both_inside = WeightsCache(100), threading.Barrier(2)

    def meet(reserve: Callable[[int], None]) -> Loaded:
        both_inside.wait(60)
        return Loaded("x", 1)

    def ask(key: str) -> None:
        with cache.lease(key, meet, str):
            pass

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(ask, key) for key in "ab"]:
            future.result(timeout=120)


def test_the_longest_unused_goes_first() -> None:
    dropped = threading.Event()
    cache = WeightsCache(25, on_evict=dropped.set)
    for name in ("a", "b", "a"):
        use(cache, name)
        time.sleep(0.002)
    assert not dropped.is_set()
    use(cache, "c")
    assert names(cache) == {"a", "c"} and dropped.is_set()


def test_what_is_held_stays_whatever_the_budget() -> None:
    cache = WeightsCache(5)
    with cache.lease("a", loader("a"), str):
        use(cache, "b")
        use(cache, "c")
        assert "a" in names(cache)
    assert "a" in names(cache)  # the last ones stay even over the budget, until something else is loaded
    use(cache, "d")
    assert "a" not in names(cache)


def test_room_is_made_before_a_part_is_loaded() -> None:
    cache, seen = WeightsCache(20), list[set[object]]()
    use(cache, "a", 15)

    def load(reserve: Callable[[int], None]) -> Loaded:
        reserve(15)
        seen.append({resident.key for resident in cache.loaded()})
        return Loaded("b", 15)

    with cache.lease("b", load, str):
        assert seen == [set()]


def test_a_failed_load_fails_all_who_wait_and_is_tried_again() -> None:
    cache, started, attempts = WeightsCache(100), threading.Event(), list[int]()

    def failing(reserve: Callable[[int], None]) -> Loaded:
        attempts.append(1)
        reserve(50)
        started.set()
        time.sleep(0.05)
        raise UnusableModel("broken")

    def ask() -> None:
        with cache.lease("a", failing, str):
            pass

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        started.wait(60)
        second = pool.submit(ask)
        for future in (first, second):
            with pytest.raises(UnusableModel, match="broken"):
                future.result(timeout=120)
    use(cache, "a")
    assert [resident.size for resident in cache.loaded()] == [10]


def test_unload_all_spares_what_is_in_use() -> None:
    cache = WeightsCache(100)
    use(cache, "a")
    with cache.lease("b", loader("b"), str):
        assert cache.unload_all() == 1
        assert names(cache) == {"b"}
    assert cache.unload_all() == 1
    assert cache.loaded() == []


def test_leases_under_pressure_keep_their_parts() -> None:
    cache = WeightsCache(30)

    def work(seed: int) -> None:
        for step in range(100):
            name = f"part {(seed * 7 + step * 3) % 9}"
            with cache.lease(name, loader(name), str) as part:
                assert part == name
                assert name in names(cache)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, seed) for seed in range(8)]:
            future.result(timeout=240)
    assert all(resident.holders == 0 for resident in cache.loaded())


def test_a_part_outlives_those_that_share_its_memory() -> None:
    cache = WeightsCache(25)
    use(cache, "base")
    with cache.lease("base", loader("base"), str), cache.lease("variant", loader("variant"), str, base="base"):
        pass
    use(cache, "new", 20)
    assert names(cache) == {"new"}  # the variant went first, then nothing held the base back
    with cache.lease("base", loader("base"), str), cache.lease("variant", loader("variant", 5), str, base="base"):
        use(cache, "other", 20)
        assert {"base", "variant"} <= names(cache)
    cache.budget = 35
    use(cache, "more", 25)
    assert names(cache) == {"base", "more"}
    assert cache.unload_all() == 2 and names(cache) == set()


def test_a_variant_that_cannot_be_made_lets_its_base_go() -> None:
    cache = WeightsCache(100)

    def fail(reserve: Callable[[int], None]) -> Loaded:
        raise UnusableModel("broken")

    with cache.lease("base", loader("base"), str):
        with pytest.raises(UnusableModel), cache.lease("variant", fail, str, base="base"):
            pass
        assert cache.unload_all() == 0
    assert cache.unload_all() == 1


class Luggage:
    """Records where a part is."""

    def __init__(self) -> None:
        self.moves: list[str] = []

    def rest(self) -> None:
        self.moves.append("rest")

    def wake(self) -> None:
        self.moves.append("wake")


def movable(name: str, luggage: Luggage) -> Load:
    def load(reserve: Callable[[int], None]) -> Loaded:
        reserve(10)
        luggage.moves.append("load")
        return Loaded(name, 10, luggage)

    return load


def test_on_a_gpu_the_longest_unused_rests_in_ram_and_wakes_when_it_is_wanted() -> None:
    cache, bags = WeightsCache(20, ram=Room(20)), {name: Luggage() for name in "abcde"}
    for name in "abc":
        with cache.lease(name, movable(name, bags[name]), str):
            pass
    assert bags["a"].moves == ["load", "rest"] and bags["b"].moves == ["load"]
    with cache.lease("a", movable("a", bags["a"]), str):
        assert bags["a"].moves == ["load", "rest", "wake"] and bags["b"].moves == ["load", "rest"]
    for name in "de":
        with cache.lease(name, movable(name, bags[name]), str):
            pass
    assert names(cache) == {"a", "c", "d", "e"}  # b was dropped from RAM when c and a came to rest there
    assert bags["c"].moves == bags["a"].moves[:2] == ["load", "rest"]


def test_what_cannot_wake_keeps_resting() -> None:
    cache, bag = WeightsCache(10, ram=Room(10)), Luggage()
    with cache.lease("a", movable("a", bag), str):
        pass
    use(cache, "b")

    def fail() -> None:
        raise MemoryError

    bag.wake = fail  # type: ignore[method-assign]
    with pytest.raises(MemoryError), cache.lease("a", movable("a", bag), str):
        pass
    del bag.wake
    with cache.lease("a", movable("a", bag), str):
        assert bag.moves == ["load", "rest", "wake"]


def test_threads_that_make_each_other_rest_always_hold_what_is_awake() -> None:
    cache = WeightsCache(30, ram=Room(40))
    awake: dict[str, bool] = {}

    class Bag(Luggage):
        def __init__(self, name: str) -> None:
            self.name = name
            awake[name] = True

        def rest(self) -> None:
            awake[self.name] = False

        def wake(self) -> None:
            awake[self.name] = True

    def load(name: str) -> Load:
        def load_part(reserve: Callable[[int], None]) -> Loaded:
            reserve(10)
            return Loaded(name, 10, Bag(name))

        return load_part

    def work(seed: int) -> None:
        for step in range(200):
            name = f"part {(seed * 7 + step * 3) % 6}"
            with cache.lease(name, load(name), str):
                assert awake[name]

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work, seed) for seed in range(2)]:
            future.result(timeout=240)


def test_nobody_gets_a_part_that_is_still_on_its_way_back() -> None:
    cache, bag = WeightsCache(10, ram=Room(40)), Luggage()
    waking, awake = threading.Event(), threading.Event()

    def wake() -> None:
        waking.set()
        assert awake.wait(60)
        bag.moves.append("wake")

    bag.wake = wake  # type: ignore[method-assign]

    def hold() -> list[str]:
        with cache.lease("a", movable("a", bag), str):
            return list(bag.moves)

    with ThreadPoolExecutor(2) as pool:
        hold()
        use(cache, "b")
        first = pool.submit(hold)
        assert waking.wait(60)
        later = pool.submit(hold)
        assert not wait([later], timeout=0.05).done
        awake.set()
        assert first.result(timeout=120)[-1] == later.result(timeout=120)[-1] == "wake"


def test_memory_that_others_took_counts_too() -> None:
    left = [25]
    cache = WeightsCache(Room(100, lambda: left[0]))
    use(cache, "a")
    left[0] = 5
    use(cache, "b")
    assert names(cache) == {"b"}


def test_only_the_newest_stay_when_their_number_is_limited() -> None:
    cache = WeightsCache(100)
    for name in ("unet:a", "unet:b", "vae:a"):
        use(cache, name)
    with cache.lease("unet:a", loader("unet:a"), str), cache.lease("unet:a+lora", loader("x"), str, base="unet:a"):
        pass
    with cache.lease("unet:c", loader("unet:c"), str):
        cache.keep_newest("unet:", 2)
        assert names(cache) == {"unet:a", "unet:a+lora", "unet:c", "vae:a"}
    cache.keep_newest("unet:", 1)
    assert names(cache) == {"unet:c", "vae:a"}


def test_a_load_that_was_given_up_is_begun_anew_by_who_waits() -> None:
    cache, started, both = WeightsCache(100), threading.Event(), threading.Event()

    def given_up(reserve: Callable[[int], None]) -> Loaded:
        started.set()
        both.wait(60)
        raise Abandoned

    def prefetch() -> None:
        with cache.lease("a", given_up, str):
            pass

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(prefetch)
        started.wait(60)
        second = pool.submit(use, cache, "a")
        while cache._slots["a"].holders < 2:
            time.sleep(0.001)
        both.set()
        second.result(timeout=120)
        with pytest.raises(Abandoned):
            first.result(timeout=120)
    assert names(cache) == {"a"}
