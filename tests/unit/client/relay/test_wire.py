"""The predicted curve on its way from the sidecar's message to the training process."""

from __future__ import annotations

import json
from dataclasses import asdict

from feedwater.relay import wire
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import LoaderSettings, Prediction, recommendation_from_json


def message() -> pb.Recommendation:
    def point(workers: int, rate: float) -> pb.Prediction:
        settings = pb.LoaderSettings(num_workers=workers, prefetch_factor=2 if workers else None)
        return pb.Prediction(
            settings=settings,
            batches_per_second=rate,
            batches_per_second_lower=0.5 * rate,
            batches_per_second_upper=1.5 * rate,
            starvation=0.25,
            memory_bytes=workers * 1000 if workers else None,
        )

    return pb.Recommendation(
        id="1-a",
        action="0 → 2 workers",
        cause="loads take long",
        advice=["More memory."],
        advice_topics=["memory"],
        cpu_limit_needed_cores=2.5,
        curve=[point(0, 8.0), point(2, 16.0)],
    )


def test_curve_keeps_its_points_bounds_and_gaps() -> None:
    """Two points in order; memory that is not known stays None."""
    none, two = wire.recommendation(message()).curve
    assert none == Prediction(LoaderSettings(0), 8.0, 4.0, 12.0, 0.25, None, None)
    assert two == Prediction(LoaderSettings(2, 2), 16.0, 8.0, 24.0, 0.25, 2000, None)


def test_recommendation_survives_json() -> None:
    """What the relay hands over as JSON is the same value again, curve and advice included."""
    made = wire.recommendation(message())
    assert (made.action, made.cause, made.advice_topics) == ("0 → 2 workers", "loads take long", ("memory",))
    assert recommendation_from_json(json.loads(json.dumps(asdict(made)))) == made


def test_recommendation_of_an_older_sidecar_has_no_curve() -> None:
    """An absent curve is empty."""
    old = wire.recommendation(pb.Recommendation(id="1-a"))
    assert (old.curve, old.cpu_limit_needed_cores) == ((), None)


def test_reason_of_a_newer_sidecar_without_words_is_an_answer() -> None:
    """A reason that this client does not know, without a message, is still an answer."""
    reply = pb.GetRecommendationResponse(none=pb.NoRecommendation(reason=99))

    answer = wire.answer(reply)

    assert answer.recommendation is None
    assert answer.reason == "The sidecar does not say why."
