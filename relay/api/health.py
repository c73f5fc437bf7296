"""Whether the relay lives, whether it can serve, and its figures."""

from __future__ import annotations

import os

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import JSONResponse, Response

from relay.api.rooms import rooms_of
from relay.store import fitness
from relay.store.client import StoreForeign, StoreRefused, StoreUnavailable

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether this process lives."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
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


@router.get("/metrics", response_model=None)
def metrics() -> Response:
    """The figures of this process, or of all processes of the node that share a directory for them."""
    registry: CollectorRegistry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
