"""What other CPU limits would mean, on its way from the model to a terminal."""

from __future__ import annotations

import json
from dataclasses import asdict

from feedwater.relay import wire as client_wire
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import recommendation_from_json
from feedwater_service.model.types import LoaderSettings, Prediction, Recommendation, Verdict, WhatIf
from feedwater_service.rpc import wire
from feedwater_service.state.sessions import Decision
from feedwater_service.store.codec import from_json, to_json

NOW = Prediction(LoaderSettings(2), 50.0, 45.0, 55.0, 0.4)
THEN = Prediction(LoaderSettings(6), 120.0, 110.0, 130.0, 0.05, memory_bytes=2**30)
ANSWER = Recommendation(
    3, LoaderSettings(4), 6, Verdict.CPU_LIMIT, "4 workers.", NOW, NOW, what_if=(WhatIf(4.0, THEN),)
)


def test_what_if_reaches_the_client_whole():
    """Six workers under four cores, 110 to 130 batches/s: the client reads what the model said."""
    reply = pb.GetRecommendationResponse.FromString(wire.write_decision(Decision("d", 3, ANSWER)))
    made = client_wire.answer(reply).recommendation
    assert made is not None
    (found,) = made.what_if
    assert (found.cpu_limit_cores, found.best.settings.num_workers) == (4.0, 6)
    assert (found.best.batches_per_second_lower, found.best.batches_per_second_upper) == (110.0, 130.0)
    assert found.best.memory_bytes == 2**30


def test_what_if_reaches_the_training_process_and_the_terminal():
    """The relay hands it on as JSON, and the status prints the same."""
    reply = pb.GetRecommendationResponse.FromString(wire.write_decision(Decision("d", 3, ANSWER)))
    made = client_wire.answer(reply).recommendation
    assert made is not None
    assert recommendation_from_json(json.loads(json.dumps(asdict(made)))) == made


def test_what_if_survives_a_checkpoint():
    """A decision that was written and read is the same decision."""
    stored = json.loads(json.dumps(to_json(ANSWER)))
    assert from_json(Recommendation, stored) == ANSWER


def test_decisions_from_before_are_read_without():
    """A checkpoint of an older sidecar has no such field: nothing is known, and the rest is kept."""
    stored = to_json(ANSWER)
    assert isinstance(stored, dict)
    del stored["what_if"]
    assert from_json(Recommendation, stored).what_if == ()
