"""The parts of the simulator: a link, an engine, a tier, sources."""

from collections.abc import Callable

import pytest

from cache_tiers.eviction.recency import Recency
from cache_tiers.prefetch.types import Fetch, Plan, Shortfall
from cache_tiers.returns.types import Awaits
from cache_tiers.types import SessionKey
from load.simulate import ClosedLoop, EngineModel, OpenLoop, Recorded
from load.simulate.chains import Chains, Session
from load.simulate.engine import Engine, Prompt
from load.simulate.link import Link
from load.simulate.prefetcher import Prefetcher
from load.simulate.tier import Tier
from load.traces import Request


class Agenda:
    """Events in the order of time, run by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.scheduled = 0

    def schedule(self, at: float, event: Callable[[float], None]) -> None:
        self.scheduled += 1
        self.events.append((at, self.scheduled, event))

    def run_until(self, end: float, then: Callable[[float], None] = lambda _: None) -> None:
        """``then`` after every event."""
        while self.events:
            first = min(self.events)
            if first[0] > end:
                break
            self.events.remove(first)
            self.now = first[0]
            first[2](self.now)
            then(self.now)
        self.now = end


class Place:
    """A tier of ten chunks with a link of two chunks a second, and sessions of six chunks each."""

    def __init__(self, fixed_s: float = 0.0, parallel: int = 1) -> None:
        self.agenda = Agenda()
        self.chains = Chains(1)
        self.sessions = {SessionKey(name): Session(SessionKey(name), scope=name) for name in "abc"}
        for session in self.sessions.values():
            self.chains.place(session, ((0, 6),))
        self.tier = Tier(0, 10, Recency(), self.chains, self.sessions, self.cut)
        self.link = Link(self.tier, 2.0, 1.0, self.agenda.schedule, fixed_s, parallel)
        self.a, self.b, self.c = self.sessions.values()

    def cut(self, session: Session, before: int, now: float) -> None:
        self.link.shortened(session, now)

    def demand(self, upto: int, *sessions: Session) -> list[float]:
        """Requests that ask at once, for so much each; when each was told, as it is."""
        done: list[float] = []
        for session in sessions:
            self.tier.claim(session, upto, 0.0)
            self.link.demand(session, upto, 0.0, done.append)
        return done

    def run_until(self, end: float) -> None:
        self.link.go(self.agenda.now)
        self.agenda.run_until(end, self.link.go)

    def present(self) -> list[int]:
        self.link.sync(self.agenda.now)
        return [session.present[0] for session in self.sessions.values()]


# --- the link ------------------------------------------------------------------------------------


def test_requests_are_loaded_one_after_another() -> None:
    place = Place()
    done = place.demand(4, place.a, place.b)
    assert place.link.wait_s(place.b, 0.0) == 4.0
    place.run_until(1.0)
    assert place.present() == [2, 0, 0]
    assert place.link.wait_s(place.b, 1.0) == 3.0
    place.run_until(9.0)
    assert done == [2.0, 4.0]
    assert place.link.loaded == 8
    assert not place.link.demanded


def test_what_is_read_at_the_same_time_comes_at_the_same_time() -> None:
    place = Place(parallel=4)
    done = place.demand(6, place.a)
    place.run_until(1.6)
    assert place.present() == [0, 0, 0]
    assert place.link.wait_s(place.a, 1.6) == pytest.approx(1.4), "though most of it is read"
    place.run_until(2.0)
    assert place.present() == [4, 0, 0]
    place.run_until(3.0)
    assert place.present() == [6, 0, 0], "the rest is fewer"
    assert done == [3.0]


def test_the_first_chunk_of_a_load_takes_some_time_more() -> None:
    place = Place(fixed_s=0.5)
    done = place.demand(2, place.a, place.b)
    assert place.link.wait_s(place.b, 0.0) == 2.5
    place.run_until(0.4)
    assert place.present() == [0, 0, 0]
    place.run_until(1.0)
    assert place.present() == [1, 0, 0]
    assert place.link.wait_s(place.b, 1.0) == 1.5
    place.run_until(9.0)
    assert done == [1.5, 2.5], "that of the next one has passed meanwhile"


def test_a_request_interrupts_a_prefetch_which_goes_on_behind_it() -> None:
    place = Place()
    place.link.fetch([(place.a, 6)], 0.0)
    place.run_until(1.6)
    assert place.present() == [3, 0, 0]
    done: list[float] = []
    place.tier.claim(place.b, 4, 1.6)
    place.link.demand(place.b, 4, 1.6, done.append)
    assert place.a.claimed[0] == 3
    place.run_until(3.6)
    assert done == [3.6]
    assert place.present() == [3, 4, 0]
    place.run_until(9.0)
    assert place.present() == [6, 4, 0]
    assert (place.link.fetched, place.link.loaded) == (6, 4)


def test_a_prefetch_takes_room_as_it_goes_and_displaces_nothing_that_goes_later() -> None:
    place = Place()
    for now, session in enumerate((place.b, place.a)):
        place.tier.policy.began(session.key, now)
        place.tier.policy.ended(session.key, 6, now)
    place.tier.claim(place.b, 6, 2.0)
    place.tier.claim(place.a, 3, 2.0)
    place.b.present[0], place.a.present[0] = 6, 3
    place.link.fetch([(place.a, 6)], 2.0)
    place.agenda.now = 2.0
    place.run_until(2.9)
    assert [s.claimed[0] for s in (place.a, place.b)] == [5, 5]
    place.run_until(9.0)
    assert place.present() == [6, 4, 0]
    # The oldest is fetched again: all that is there is younger.
    place.link.fetch([(place.b, 6)], 9.0)
    place.run_until(20.0)
    assert place.present() == [6, 4, 0]


def test_a_prefetch_that_is_cut_or_cancelled_leaves_what_it_brought() -> None:
    place = Place()
    place.link.fetch([(place.a, 6), (place.b, 2)], 0.0)
    place.run_until(0.6)
    place.link.fetch([(place.b, 2)], 0.6)
    place.run_until(3.0)
    assert place.present() == [1, 2, 0]
    place.link.fetch([(place.c, 6)], 3.0)
    place.run_until(3.6)
    place.tier.claim(place.c, 0, 3.6)
    place.link.shortened(place.c, 3.6)
    place.run_until(9.0)
    assert place.present() == [1, 2, 0]
    assert not place.link.fetching(place.c)


def test_more_can_be_asked_for_while_it_is_loaded_and_nothing_any_more() -> None:
    place = Place()
    done: list[float] = []
    place.tier.claim(place.a, 6, 0.0)
    place.link.demand(place.a, 2, 0.0, done.append)
    place.run_until(0.5)
    place.link.demand(place.a, 6, 0.5, done.append)
    place.run_until(3.0)
    assert done == [3.0]
    place.tier.claim(place.b, 4, 3.0)
    place.link.demand(place.b, 4, 3.0, done.append)
    place.run_until(4.0)
    place.link.drop(place.b, 4.0)
    place.run_until(9.0)
    assert done == [3.0]
    assert place.present() == [6, 2, 0]


# --- the prefetcher ------------------------------------------------------------------------------


class Wishes:
    """A planner that wants all of every session, and to be asked again in a while."""

    def __init__(self, again_s: float | None) -> None:
        self.again_s = again_s
        self.asked: list[tuple[float, int, dict[str, tuple[int, int]]]] = []

    def plan(self, shortfalls: list[Shortfall], room: int, now: float) -> Plan:
        short = {s.session: (s.here, s.chunks) for s in shortfalls}
        self.asked.append((now, room, short))
        fetches = [Fetch(session, chunks) for session, (_, chunks) in short.items()]
        return Plan(fetches, None if self.again_s is None else now + self.again_s)


def prefetcher(place: Place, planner: Wishes, every_s: float = 0.5) -> Prefetcher:
    return Prefetcher(
        planner,
        place.link,
        place.sessions,
        place.chains.chunks,
        place.agenda.schedule,
        every_s,
    )


def test_a_plan_is_made_when_something_changed_and_nobody_waits() -> None:
    place = Place()
    planner = Wishes(None)
    made = prefetcher(place, planner)
    made.settle(0.0)
    assert planner.asked == []
    place.c.locked = True
    place.tier.claim(place.b, 2, 0.0)
    made.changed()
    made.settle(0.0)
    assert planner.asked == [(0.0, 8, {"a": (0, 6), "b": (2, 6)})]
    made.changed()
    place.tier.claim(place.c, 1, 0.1)
    place.link.demand(place.c, 1, 0.1, lambda _: None)
    made.settle(0.1)
    assert len(planner.asked) == 1
    place.agenda.run_until(0.65, made.settle)
    assert [now for now, _, _ in planner.asked] == [0.0, 0.6]


def test_a_planner_is_asked_again_when_it_wants_to_be() -> None:
    place = Place()
    planner = Wishes(2.0)
    made = prefetcher(place, planner)
    made.changed()
    made.settle(0.0)
    place.agenda.run_until(1.9, made.settle)
    before = len(planner.asked)
    assert planner.asked[-1][0] < 1.9
    place.agenda.run_until(30.0, made.settle)
    assert len(planner.asked) > before


# --- the engine ----------------------------------------------------------------------------------

MODEL = EngineModel(
    prefill_s=0.01,
    prefill_s_per_position=0.0,
    step_tokens=100,
    decode_s=0.1,
    decode_s_per_request=0.0,
)


def prompt(log: list[tuple[str, float]], name: str, tokens: int, output: int) -> Prompt:
    def note(what: str) -> Callable[[float], None]:
        return lambda now: log.append((f"{name} {what}", pytest.approx(now)))

    return Prompt(0, tokens, output, note("first"), note("end"))


def test_prompts_are_computed_one_at_a_time_and_then_answered() -> None:
    agenda = Agenda()
    log: list[tuple[str, float]] = []
    engine = Engine(MODEL, agenda.schedule)
    engine.submit(prompt(log, "a", 100, 11), 0.0)
    assert engine.prefilling
    agenda.run_until(50.0)
    # A step of the prompt also decodes: 1 s and 0.1 s; then ten more tokens.
    assert log == [("a first", 1.1), ("a end", 2.1)]
    assert not engine.prefilling


def test_answers_are_slower_while_a_prompt_is_computed() -> None:
    agenda = Agenda()
    log: list[tuple[str, float]] = []
    engine = Engine(MODEL, agenda.schedule)
    engine.submit(prompt(log, "a", 100, 11), 0.0)
    agenda.run_until(1.6)
    engine.submit(prompt(log, "b", 200, 2), 1.6)
    agenda.run_until(50.0)
    # Five tokens were left: two come in the two steps of 1.1 s that b's prompt takes.
    assert log == [("a first", 1.1), ("b first", 3.8), ("b end", 3.9), ("a end", 4.1)]


def test_an_engine_listens_between_two_steps() -> None:
    agenda = Agenda()
    engine = Engine(MODEL, agenda.schedule)
    assert (engine.step_ends(0.3), engine.step_ends(0.3, 1)) == (0.3, 0.3), "it does nothing"
    engine.submit(prompt([], "a", 200, 50), 0.0)
    agenda.run_until(1.5)
    assert engine.step_ends(1.5) == pytest.approx(2.2)
    agenda.run_until(2.3)
    assert engine.step_ends(2.35) == pytest.approx(2.4)
    assert engine.step_ends(2.4) == pytest.approx(2.4), "just between two"
    assert engine.step_ends(2.35, 1) == pytest.approx(2.5)


# --- sources -------------------------------------------------------------------------------------


def asked(session: str, at_s: float, gap_s: float | None = None, parent: str = "") -> Request:
    return Request(session, at_s, 10, 1, session, ((0, 10),), gap_s, Awaits.TOOL, parent=parent)


def test_users_go_through_sessions_and_wait() -> None:
    trace = [asked("a", 0.0), asked("a", 9.0, 4.0), asked("b", 0.0), asked("b", 7.0)]
    loop = ClosedLoop(trace, users=1, seed=3)
    ((at, visit),) = loop.begin()
    assert 0 <= at <= 17
    seen = []
    now = at
    for _ in range(8):
        seen.append((visit.session, visit.number))
        ((at, visit),) = loop.answered(visit, now)
        # A trace without gaps has those of its times.
        gap = {"a": 4.0, "b": 7.0}[visit.request.session] if visit.number else 0.0
        assert at == now + gap
        now = at
    # Whoever was begun is gone through, and then all sessions, each time as others.
    names = [name for name, _ in seen]
    assert len(set(names)) >= 4
    assert all(number in (0, 1) for _, number in seen)


def test_sub_agents_are_called_when_the_turn_before_them_is_answered() -> None:
    trace = [
        asked("a", 0.0),
        asked("a/x", 3.0, 2.0, parent="a"),
        asked("a/x", 6.0, 1.0, parent="a"),
        asked("a", 9.0, 5.0),
    ]
    loop = ClosedLoop(trace, users=1)
    ((_, visit),) = loop.begin()
    while visit.number:
        ((_, visit),) = loop.answered(visit, 0.0)
    child, after = loop.answered(visit, 100.0)
    assert (child[0], child[1].request.session) == (102.0, "a/x")
    assert (after[0], after[1]) == (105.0, visit)
    ((at, same),) = loop.answered(child[1], 110.0)
    assert (at, same) == (111.0, child[1])
    assert list(loop.answered(same, 120.0)) == []


def test_the_same_seed_gives_the_same_users() -> None:
    trace = [asked(name, float(n), float(n)) for name in "abcdef" for n in range(5)]

    def began(seed: int) -> list[tuple[float, str, int]]:
        arrivals = ClosedLoop(trace, users=20, seed=seed).begin()
        return [(at, visit.session, visit.number) for at, visit in arrivals]

    assert began(1) == began(1) != began(2)


def test_a_trace_without_requests_has_no_users() -> None:
    with pytest.raises(ValueError, match="without requests"):
        ClosedLoop([], users=1)


def test_arrivals_do_not_wait_for_answers_but_their_own() -> None:
    trace = [asked("a", 0.0), asked("b", 1.0), asked("a", 2.0), asked("a", 3.0), asked("c", 4.0)]
    loop = OpenLoop(trace)
    arrivals = loop.begin()
    first, second = next(arrivals), next(arrivals)
    assert [at for at, _ in (first, second)] == [0.0, 1.0]
    third = next(arrivals)
    assert (third[0], third[1].request.session) == (4.0, "c")
    ((at, visit),) = loop.answered(first[1], 10.0)
    assert (at, visit.request.at_s) == (10.0, 2.0)
    ((at, visit),) = loop.answered(visit, 11.0)
    assert visit.request.at_s == 3.0
    assert list(loop.answered(visit, 12.0)) == []
    assert list(arrivals) == []


def test_what_was_recorded_is_known_beforehand() -> None:
    loop = Recorded([asked("a", 5.0), asked("b", 1.0), asked("a", 9.0)])
    (first, b), (second, a) = loop.begin()
    assert (first, second) == (1.0, 5.0)
    assert b.upcoming is None
    assert a.upcoming is not None
    assert list(loop.answered(a, 6.0)) == [(9.0, a)]
    assert list(loop.answered(a, 10.0)) == []


def test_turns_before_a_recorded_run_are_not_run() -> None:
    trace = [asked("a", 0.0), asked("b", 0.0), asked("a", 9.0), asked("a", 20.0)]
    loop = Recorded(trace, before=1)
    ((at, visit),) = loop.begin()
    assert (at, visit.number, visit.request) == (9.0, 1, trace[2])
    assert [at for at, _ in loop.answered(visit, 12.0)] == [20.0]
