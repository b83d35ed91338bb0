"""When a model's server answers again, as the errors of agents word it."""

from datetime import UTC, datetime

import pytest

from agentbus_worker.formats.reasons import reason_of
from agentbus_worker.formats.reset_times import named_wait_s

NOW = datetime(2026, 5, 18, 14, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("rate limit; retry after 3600 s", 3600),
        ("Please retry in 39.5s.", 39.5),
        ("Please try again in 250ms", 0.25),
        ("retry after 60", 60),
        ("Your quota will reset after 12h34m56s.", 45296),
        ("You've hit your usage limit. Try again in 2 days 3 hours 12 minutes.", 184320),
        ("try again in 1 hour and 5 minutes", 3900),
        ("Claude AI usage limit reached|1779116400", 3600),
        ("You've hit your limit · resets 3pm (UTC)", 3600),
        ("You've hit your limit · resets 3:30pm (Europe/Berlin)", 84600),
        ("You've hit your limit. Try again at 2:05 AM", 43500),
        ("quota exceeded, resets at 2026-05-18T16:00:00Z", 7200),
        ("quota exceeded, resets on 2026-05-17 16:00", 0),
        ("You've hit your limit · resets 3pm (Nowhere/Known)", None),
        ("You've hit your limit · resets 13pm", None),
        ("quota exceeded, resets at 2099-05-18T16:00:00Z", None),
        ("quota exceeded, resets at 2026-99-99T99:00:00Z", None),
        ("I will try again in a moment", None),
        ("retry after 999999999 d", None),
        ("", None),
    ],
)
def test_a_time_that_the_server_names_is_read(text: str, wait_s: float | None):
    found = named_wait_s(text, NOW)
    assert (None if found is None else round(found, 3)) == wait_s


def test_a_quota_that_ends_at_a_time_of_day_is_a_quota_with_that_time():
    found = reason_of("You've hit your limit · resets 3pm (UTC)")
    assert found.code == "quota"
    assert found.retry_after_s is not None
    assert 0 <= found.retry_after_s <= 86_400
