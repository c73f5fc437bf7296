"""What of a smarthost's sessions each process has."""

from __future__ import annotations

import pytest

from relay.config.settings import Retry, Settings, Smtp
from relay.outlet import retry_share, worker_share
from relay.upstream.route import Target


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("cap", [1, 2, 3, 5, 20, 100, 1000])
def test_all_processes_together_have_no_more_sessions_than_an_owner_allows_but_one_each(workers: int, cap: int) -> None:
    settings = Settings(smtp=Smtp(workers=workers))
    target = Target("mail.example.com", 587, max_connections=cap, is_guarded=True)
    shares = [worker_share(settings, target).max_connections] * workers + [retry_share(settings, target).max_connections]
    assert min(shares) >= 1
    assert sum(shares) <= max(cap, workers + 1)


def test_what_the_operator_allows_is_for_each_process() -> None:
    settings = Settings(smtp=Smtp(workers=4), retry=Retry(max_connections=7))
    target = Target("mail.example.com", 587, max_connections=20)
    assert worker_share(settings, target) == target
    assert retry_share(settings, target).max_connections == 7
