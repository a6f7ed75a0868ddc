"""What the probes of the composed sidecar answer."""

from __future__ import annotations

import asyncio
import threading
from http import HTTPStatus

import pytest

from feedwater_service import model_queue
from feedwater_service.app import Sidecar
from feedwater_service.settings import SidecarSettings
from feedwater_service.web.http import HttpRequest


def test_liveness_fails_while_the_model_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one question that runs for too long /healthz is 503: Kubernetes starts the sidecar again."""
    sidecar = Sidecar(SidecarSettings(socket="", listen="127.0.0.1:0", state_dir=""))
    goes_on = threading.Event()

    async def probe() -> HTTPStatus:
        return (await sidecar._healthz(HttpRequest("GET", "/healthz", {}))).status

    async def run() -> list[HTTPStatus]:
        asked = asyncio.create_task(sidecar._recommender.queue.run("a", lambda: goes_on.wait))
        await asyncio.sleep(0)
        statuses = [await probe()]
        monkeypatch.setattr(model_queue, "STUCK_SECONDS", 0.0)
        statuses.append(await probe())
        goes_on.set()
        await asked
        return [*statuses, await probe()]

    assert asyncio.run(run()) == [HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.OK]
