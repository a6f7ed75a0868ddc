"""The errors of the sidecar.

RefusedError                    a call is refused: counted by ``cause``, answered with one gRPC status
├── MalformedError              INVALID_ARGUMENT: not a message, or impossible values
├── OversizedError              RESOURCE_EXHAUSTED: larger than a report may be
├── UnknownLoaderError          NOT_FOUND: the client registers again
└── TooManyError                RESOURCE_EXHAUSTED: more loaders or watchers than the sidecar holds
UnusableError                   the sidecar cannot start: settings, socket or state directory
"""

from __future__ import annotations


class RefusedError(Exception):
    """A call is refused and changes nothing."""

    cause = "refused"


class MalformedError(RefusedError, ValueError):
    """The bytes are not the message of this call, or hold impossible values."""

    cause = "malformed"


class OversizedError(RefusedError):
    """The message is larger than a client sends."""

    cause = "oversized"


class UnknownLoaderError(RefusedError):
    """No loader has this id: it was never given, or has expired."""

    cause = "unknown_loader"


class TooManyError(RefusedError):
    """More loaders or watchers than the sidecar holds."""

    cause = "too_many"


CAUSES = tuple(kind.cause for kind in (MalformedError, OversizedError, UnknownLoaderError, TooManyError))
"""The values of the metric label ``cause``."""


class UnusableError(Exception):
    """The sidecar cannot start; the message has one problem per line."""
