"""Whether the relay lives, whether it can serve, and its figures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.responses import JSONResponse, PlainTextResponse, Response

from relay.api.rooms import rooms_of
from relay.spool.fault import SpoolUnavailable
from relay.spool.spool import Counts, Spool
from relay.store import fitness
from relay.store.client import StoreForeign, StoreRefused, StoreUnavailable

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether this process lives."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None, responses={503: {"description": "It cannot serve; the body says why"}})
async def readyz(request: Request) -> Response:
    """Whether the store answers and is the one this node belongs to."""
    try:
        reason = "" if await fitness.is_ours(rooms_of(request).store) else "the store is empty or another one"
    except StoreForeign:
        reason = "the store is empty or another one"
    except (StoreUnavailable, StoreRefused):
        reason = "the store does not answer"
    if reason:
        return JSONResponse({"status": "unavailable", "reason": reason}, 503, {"Retry-After": "5"})
    return JSONResponse({"status": "ok"})


@router.get("/metrics", response_model=None, response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """The figures of this process, or of all processes of the node that share a directory for them; and those of the spool."""
    counts = await _count(rooms_of(request).spool)
    return Response(await asyncio.to_thread(_write_figures, counts), media_type=CONTENT_TYPE_LATEST)


async def _count(spool: Spool | None) -> Counts | None:
    try:
        return None if spool is None else await spool.counts()
    except SpoolUnavailable:
        return None  # its figures are missing then, the others are not


def _write_figures(counts: Counts | None) -> bytes:
    registry: CollectorRegistry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    text = generate_latest(registry)
    if counts is None:
        return text
    ours = CollectorRegistry()
    ours.register(_SpoolFigures(counts))
    return text + generate_latest(ours)


class _SpoolFigures(Collector):
    """The spool in figures. They are read when they are asked for: several processes change them, none of them owns them."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        counts = self._counts
        entries = GaugeMetricFamily("relay_spool_entries", "Messages in the spool by state.", labels=["state"])
        for state, number in (("waiting", counts.waiting), ("held", counts.held), ("claimed", counts.claimed)):
            entries.add_metric([state], number)
        yield entries
        yield GaugeMetricFamily("relay_spool_oldest_seconds", "Age of the oldest message in the spool; 0: it is empty.", counts.oldest or 0)
