"""Which setting to take: the smallest that is as good as the best, and only if it is worth a change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from feedwater_service.model.choose.limits import Cap, tightest
from feedwater_service.model.numbers import thresholds
from feedwater_service.model.predict.curve import Point
from feedwater_service.model.types import Loader, Policy, Settings


@dataclass(frozen=True, slots=True)
class Choice:
    """The outcome of choosing."""

    chosen: Point
    best_uncapped: Point
    """Without the pod's limits, among what was simulated."""
    binding: Cap | None
    """The limit that keeps the choice below the uncapped one."""
    why_kept: str = ""
    """Why nothing changes although another setting was preferred; empty otherwise."""
    forced: bool = False
    """`binding` leaves no room for the settings in use: they change whatever is lost by it."""


def rate(point: Point) -> float:
    """Return what choices are made on: batches per second of the consumer, with longer loads."""
    return point.slow.batches_per_second


def smallest_as_good(points: Sequence[Point]) -> Point:
    """Return the point of fewest workers within `thresholds.AS_GOOD_SHARE` of the best one."""
    best = max(rate(p) for p in points)
    return min(
        (p for p in points if rate(p) >= (1 - thresholds.AS_GOOD_SHARE) * best),
        key=lambda p: p.settings.num_workers,
    )


def choose(
    points: Sequence[Point],
    caps: Sequence[Cap],
    current: Point,
    loader: Loader,
    policy: Policy,
) -> Choice:
    """Return what to take.

    Args:
        points: The curve; it holds the settings in use.
        caps: What the pod carries.
        current: The point of the settings in use.
        loader: Its changes and failures are remembered.
        policy: Bounds that are not physics.
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
        # What is in use does not fit: less of it is right whatever it gains.
        fewer = [p for p in (allowed or fitting) if p.settings.num_workers < now]
        return Choice(smallest_as_good(fewer or fitting), uncapped, cap, forced=True)
    if now < policy.min_workers and fitting:
        least = Cap("policy", policy.min_workers, f"policy wants {policy.min_workers} workers at least")
        return Choice(smallest_as_good(allowed or fitting), uncapped, least, forced=True)
    why = refusal(wanted, current, loader, policy)
    if not why:
        return Choice(wanted, uncapped, binding)
    spare = fewest_at_no_loss(allowed, current)
    if not refusal(spare, current, loader, policy):
        return Choice(spare, uncapped, binding)
    return Choice(current, uncapped, binding, why)


def fewest_at_no_loss(points: Sequence[Point], current: Point) -> Point:
    """Return the point of fewest workers, not none, that loses nothing against the settings in use."""
    enough = [p for p in points if p.settings.num_workers > 0 and loses_nothing(p, current)]
    return min(enough, key=lambda p: p.settings.num_workers, default=current)


def refusal(to: Point, current: Point, loader: Loader, policy: Policy) -> str:
    """Return why a change is not worth it; empty if it is, or if it is none."""
    if to is current:
        return ""
    return next((why for rule in _RULES if (why := rule(to, current, loader, policy))), "")


def gain(to: Point, current: Point) -> float:
    """Return the relative gain, as predicted and with longer loads: the smaller one."""
    plain = _relative(to.outcome.batches_per_second, current.outcome.batches_per_second)
    return min(plain, _relative(rate(to), rate(current)))


def loses_nothing(to: Point, current: Point) -> bool:
    """Whether a point is as good as the settings in use, were loads a good deal longer too."""
    far = _relative(to.slowest.batches_per_second, current.slowest.batches_per_second)
    near = gain(to, current)
    now = max(1, current.settings.num_workers)
    saved = max(0.0, 1 - to.settings.num_workers / now)
    return (
        min(near, far) >= -thresholds.AS_GOOD_SHARE
        and near - to.spread / 4 >= -thresholds.MAX_LOSS_WHEN_SHRINKING * saved
    )


def _relative(new: float, old: float) -> float:
    return new / old - 1 if old > 0 else 0.0


def failed_before(settings: Settings, loader: Loader) -> bool:
    """Whether a setting was tried and failed, or lies beyond one that did or near it, seen from those in use.

    Of 6 workers that failed from 1, no more than 3 are tried next: 5 would do what 6 did. After one failed
    attempt to give workers back there is no other: it would cost epochs for nothing.
    """
    now = loader.settings.num_workers
    for failed in loader.failed:
        count = failed.num_workers
        if count > now and settings.num_workers > (now + count) // 2:
            return True
        if count < now and settings.num_workers < now:
            return True
    return False


def _too_little(to: Point, current: Point, loader: Loader, policy: Policy) -> str:
    found, needed = gain(to, current), least_gain(to, current, policy)
    if found >= needed or _scales_down(to, current):
        return ""
    return f"A gain of {max(0.0, found):.1%} is below the {needed:.1%} that a change takes."


def least_gain(to: Point, current: Point, policy: Policy) -> float:
    """Return the gain that a change takes: one smaller than what the simulation usually misses is none.

    Between none and some workers misses have nothing in common, so there they do not cancel out.
    """
    crosses = (to.settings.num_workers == 0) != (current.settings.num_workers == 0)
    return max(policy.min_gain, to.spread * (thresholds.ZERO_CROSSING_FACTOR if crosses else 1.0))


def _scales_down(to: Point, current: Point) -> bool:
    """Workers saved at no loss. Going to none needs a gain: then the main process loads by itself."""
    now, then = current.settings.num_workers, to.settings.num_workers
    saved = now - then
    return then > 0 and saved >= max(1, thresholds.MIN_SHRINK_SHARE * now) and loses_nothing(to, current)


def _oscillates(to: Point, current: Point, loader: Loader, policy: Policy) -> str:
    left = {c.before.num_workers for c in loader.changes if not c.rolls_back}
    if to.settings.num_workers not in left:
        return ""
    if gain(to, current) >= thresholds.RETURN_GAIN_FACTOR * policy.min_gain:
        return ""
    return f"{to.settings.num_workers} workers were left before, and too little speaks for a return."


def _too_often(to: Point, current: Point, loader: Loader, policy: Policy) -> str:
    lately = changes_lately(loader)
    return (
        f"It was changed {lately} times in {thresholds.RECENT_EPOCHS} epochs; it stays for now."
        if lately >= thresholds.MAX_RECENT_CHANGES
        else ""
    )


def changes_lately(loader: Loader) -> int:
    """Return the changes of the last epochs, those that took one back included, and one decided now not."""
    if not loader.epochs:
        return 0
    next_epoch = loader.epochs[-1].number + 1
    return sum(1 for c in loader.changes if c.first_epoch > next_epoch - thresholds.RECENT_EPOCHS)


_RULES: tuple[Callable[[Point, Point, Loader, Policy], str], ...] = (_too_little, _oscillates, _too_often)
