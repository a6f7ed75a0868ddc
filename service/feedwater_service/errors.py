"""What the sidecar refuses, by cause.

RefusedError                    counted under its ``cause``, answered with one gRPC status, changes nothing
├── MalformedError              INVALID_ARGUMENT: not a message, or values that cannot be true
├── OversizedError              RESOURCE_EXHAUSTED: larger than a report may be
├── UnknownLoaderError          NOT_FOUND: the client registers again
└── TooManyError                RESOURCE_EXHAUSTED: more loaders or watchers than the sidecar holds
UnusableError                   the sidecar cannot start: settings, socket or state directory
"""

from __future__ import annotations


class RefusedError(Exception):
    """A call that changes nothing."""

    cause = "refused"


class MalformedError(RefusedError, ValueError):
    """Not a message of ours, or values that cannot be true."""

    cause = "malformed"


class OversizedError(RefusedError):
    """A message larger than any honest one."""

    cause = "oversized"


class UnknownLoaderError(RefusedError):
    """A loader id that was never given, or has expired."""

    cause = "unknown_loader"


class TooManyError(RefusedError):
    """More loaders or watchers than are held."""

    cause = "too_many"


CAUSES = tuple(kind.cause for kind in (MalformedError, OversizedError, UnknownLoaderError, TooManyError))
"""The values of the metric label ``cause``."""


class UnusableError(Exception):
    """The sidecar cannot start; the message holds one problem a line."""
