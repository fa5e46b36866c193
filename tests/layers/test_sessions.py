"""Repeats inside a session: retries, later repeats, loops."""

from hypothesis import given, settings
from hypothesis import strategies as st

from promptweir.layers.sessions import Repeat, SessionLog

SECOND_NS = 10**9
TENANT, KEY = b"t", b"k"


def log(max_remembered: int = 100) -> SessionLog:
    return SessionLog(retry_window_ns=60 * SECOND_NS, loop_repeats=3, max_remembered=max_remembered)


def repeat(sessions: SessionLog, now_s: float, *, session: str = "s", key: bytes = KEY, tenant: bytes = TENANT, retry: bool = False) -> Repeat:  # fmt: skip
    return sessions.repeat_of(tenant, session, key, int(now_s * SECOND_NS), retry=retry)


def test_what_was_not_answered_yet_is_a_first() -> None:
    sessions = log()

    assert repeat(sessions, 0) is Repeat.FIRST
    assert repeat(sessions, 0) is Repeat.FIRST
    assert repeat(sessions, 0, retry=True) is Repeat.FIRST


def test_a_repeat_is_a_retry_while_the_window_is_open_and_later_only_if_the_client_says_so() -> None:
    sessions = log()
    sessions.answered(TENANT, "s", KEY, 0)

    assert repeat(sessions, 60) is Repeat.RETRY
    assert repeat(sessions, 60.1) is Repeat.AGAIN
    assert repeat(sessions, 3600, retry=True) is Repeat.RETRY


def test_the_window_opens_with_each_answer() -> None:
    sessions = log()
    sessions.answered(TENANT, "s", KEY, 0)
    sessions.answered(TENANT, "s", KEY, 50 * SECOND_NS)

    assert repeat(sessions, 100) is Repeat.RETRY


def test_a_clock_that_goes_back_makes_no_retry() -> None:
    sessions = log()
    sessions.answered(TENANT, "s", KEY, 1000 * SECOND_NS)

    assert repeat(sessions, 10) is Repeat.AGAIN


def test_the_same_call_too_often_is_a_loop_even_if_called_a_retry_and_stays_one() -> None:
    sessions = log()
    for _ in range(3):
        sessions.answered(TENANT, "s", KEY, 0)

    assert repeat(sessions, 1) is Repeat.LOOP
    assert repeat(sessions, 1, retry=True) is Repeat.LOOP
    sessions.answered(TENANT, "s", KEY, 0)
    assert repeat(sessions, 9999) is Repeat.LOOP


def test_other_sessions_keys_and_tenants_do_not_count() -> None:
    sessions = log()
    for _ in range(3):
        sessions.answered(TENANT, "s", KEY, 0)

    assert repeat(sessions, 1, session="other") is Repeat.FIRST
    assert repeat(sessions, 1, key=b"other") is Repeat.FIRST
    assert repeat(sessions, 1, tenant=b"other") is Repeat.FIRST


def test_a_client_without_sessions_never_repeats_itself() -> None:
    sessions = log()
    for _ in range(9):
        sessions.answered(TENANT, "", KEY, 0)

    assert repeat(sessions, 1, session="") is Repeat.FIRST


def test_the_one_that_was_longest_not_answered_is_forgotten_first() -> None:
    sessions = log(max_remembered=2)
    for session in ("a", "b", "a", "c"):
        sessions.answered(TENANT, session, KEY, 0)

    assert repeat(sessions, 1, session="b") is Repeat.FIRST
    assert repeat(sessions, 1, session="a") is Repeat.RETRY
    assert repeat(sessions, 1, session="c") is Repeat.RETRY


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 200)), max_size=40))
def test_the_log_agrees_with_a_plain_count(answers: list[tuple[str, int]]) -> None:
    sessions = log()
    counts: dict[str, list[int]] = {}
    for session, at_s in answers:
        sessions.answered(TENANT, session, KEY, at_s * SECOND_NS)
        counts.setdefault(session, []).append(at_s)

    for session in "abcde":
        times = counts.get(session, [])
        found = repeat(sessions, 150, session=session)
        if not times:
            assert found is Repeat.FIRST
        elif len(times) >= 3:
            assert found is Repeat.LOOP
        else:
            assert found is (Repeat.RETRY if 0 <= 150 - times[-1] <= 60 else Repeat.AGAIN)
