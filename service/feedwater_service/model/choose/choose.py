"""The choice of a count: the smallest that is as good as the best, if it is worth a change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feedwater_service.model.choose.limits import Cap, tightest
from feedwater_service.model.numbers import thresholds
from feedwater_service.model.predict.curve import Point
from feedwater_service.model.types import Loader, LoaderSettings, Policy


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen count of workers."""

    chosen: Point
    best_uncapped: Point
    """Without the pod's limits, among the simulated points."""
    binding: Cap | None
    """The limit that keeps the choice below `best_uncapped`."""
    declined: bool = False
    """Another count was better, but not by enough for a change."""
    forced: bool = False
    """The settings in use exceed `binding`: they change even at a loss."""


def rate_with_margin(point: Point) -> float:
    """Return the batches per second that choices compare: those with longer loads."""
    return point.slow.batches_per_second


def smallest_as_good(points: Sequence[Point]) -> Point:
    """Return the point of fewest workers within `thresholds.AS_GOOD_SHARE` of the best one."""
    best = max(rate_with_margin(p) for p in points)
    return min(
        (p for p in points if rate_with_margin(p) >= (1 - thresholds.AS_GOOD_SHARE) * best),
        key=lambda p: p.settings.num_workers,
    )


def choose(
    points: Sequence[Point],
    caps: Sequence[Cap],
    current: Point,
    loader: Loader,
    policy: Policy,
) -> Choice:
    """Return the count to recommend.

    Args:
        points: The curve; it holds the settings in use.
        caps: The limits of the pod.
        current: The point of the settings in use.
        loader: Its earlier changes and failures.
        policy: The bounds of recommendations.
    """
    uncapped = smallest_as_good(points)
    now = current.settings.num_workers
    cap = tightest(caps, now)
    most = cap.allows(now)
    fitting = [p for p in points if policy.min_workers <= p.settings.num_workers <= most]
    allowed = [p for p in fitting if not failed_before(p.settings, loader)]
    wanted = smallest_as_good(allowed or [current])
    binding = cap if uncapped.settings.num_workers > most else None
    if now > most and fitting:
        # The count in use does not fit: fewer workers are right even at a loss.
        fewer = [p for p in (allowed or fitting) if p.settings.num_workers < now]
        return Choice(smallest_as_good(fewer or fitting), uncapped, cap, forced=True)
    if now < policy.min_workers and fitting:
        least = Cap("policy", policy.min_workers, f"policy wants {policy.min_workers} workers at least")
        return Choice(smallest_as_good(allowed or fitting), uncapped, least, forced=True)
    for preferred in (wanted, fewest_at_no_loss(allowed, current)):
        if preferred is current or is_worth_a_change(preferred, current, loader, policy):
            return Choice(preferred, uncapped, binding)
    return Choice(current, uncapped, binding, declined=True)


def fewest_at_no_loss(points: Sequence[Point], current: Point) -> Point:
    """Return the point of fewest workers, at least one, that loses nothing against the settings in use."""
    enough = [p for p in points if p.settings.num_workers > 0 and loses_nothing(p, current)]
    return min(enough, key=lambda p: p.settings.num_workers, default=current)


def is_worth_a_change(to: Point, current: Point, loader: Loader, policy: Policy) -> bool:
    """Whether a point gains enough over the settings in use, or gives back enough workers at no loss."""
    pays = gain(to, current) >= least_gain(to, current, policy) or _scales_down(to, current)
    too_often = recent_changes(loader) >= thresholds.MAX_RECENT_CHANGES
    return pays and not too_often and not _oscillates(to, current, loader, policy)


def gain(to: Point, current: Point) -> float:
    """Return the smaller one of the relative gains as predicted and with longer loads."""
    plain = _relative(to.outcome.batches_per_second, current.outcome.batches_per_second)
    return min(plain, _relative(rate_with_margin(to), rate_with_margin(current)))


def loses_nothing(to: Point, current: Point) -> bool:
    """Whether a point is as good as the settings in use, as predicted and with much longer loads."""
    far = _relative(to.slowest.batches_per_second, current.slowest.batches_per_second)
    return min(gain(to, current), far) >= -thresholds.AS_GOOD_SHARE


def _relative(new: float, old: float) -> float:
    return new / old - 1 if old > 0 else 0.0


def failed_before(settings: LoaderSettings, loader: Loader) -> bool:
    """Whether a setting failed before, or lies beyond one that failed or in the half of the way next to it.

    Example: after 6 workers failed from 1, no more than 3 are tried: 5 would do what 6 did. After one failed
    attempt to use fewer workers there is no second one, which would cost epochs.
    """
    now = loader.settings.num_workers
    for failed in loader.failed:
        count = failed.num_workers
        if count > now and settings.num_workers > (now + count) // 2:
            return True
        if count < now and settings.num_workers < now:
            return True
    return False


def least_gain(to: Point, current: Point, policy: Policy) -> float:
    """Return the gain that a change takes: no less than the standard deviation of the prediction's error.

    The errors with and without workers are independent, so there they do not cancel out.
    """
    crosses = (to.settings.num_workers == 0) != (current.settings.num_workers == 0)
    return max(policy.min_gain, to.spread * (thresholds.ZERO_CROSSING_FACTOR if crosses else 1.0))


def _scales_down(to: Point, current: Point) -> bool:
    """Whether workers are saved at no loss. No workers at all need a gain: the main process then loads."""
    now, then = current.settings.num_workers, to.settings.num_workers
    saved = now - then
    return then > 0 and saved >= max(1, thresholds.MIN_SHRINK_SHARE * now) and loses_nothing(to, current)


def _oscillates(to: Point, current: Point, loader: Loader, policy: Policy) -> bool:
    """Whether a point returns to a count that was left before, without a much larger gain than usual."""
    left = {c.before.num_workers for c in loader.changes if not c.rolls_back}
    returns = to.settings.num_workers in left
    return returns and gain(to, current) < thresholds.RETURN_GAIN_FACTOR * policy.min_gain


def recent_changes(loader: Loader) -> int:
    """Return how many changes took effect in the last epochs, roll-backs included."""
    if not loader.epochs:
        return 0
    next_epoch = loader.epochs[-1].number + 1
    return sum(1 for c in loader.changes if c.first_epoch > next_epoch - thresholds.RECENT_EPOCHS)
