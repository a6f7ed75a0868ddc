"""The settings of one loader: the user's own and ours, and what is known of changing them."""

from __future__ import annotations

from dataclasses import dataclass, field

from feedwater.loop.change.probation import Record
from feedwater.values import LoaderSettings

MAKES_ITERATORS = "This loader makes its iterators by itself; set it at the next start."
KEEPS_ITERATOR = "This loader keeps its iterator; set it at the next start."


@dataclass(eq=False, slots=True, kw_only=True)
class Tuning:
    """What may be changed of one loader, and what was. Its fields are assigned in this module alone."""

    own_settings: LoaderSettings | None = None
    """The user's; None before the first iteration."""
    chosen: LoaderSettings | None = None
    """Ours, in use since a change; None: the user's."""
    proven_workers: int = 0
    """The largest count under which an epoch ended cleanly, or the user's own."""
    probation: Record | None = None
    """The change that no epoch has ended under yet."""
    crashed_change: Record | None = None
    """The last incarnation of this process died under this change: the user's own setting is kept."""
    trial_errors: dict[bool, str] = field(default_factory=dict)
    """Why a trial load failed, empty if it loaded; by whether it was made in a worker."""
    obstacle: str = ""
    """Why nothing can be applied at the next boundary, a full sentence; empty if it can."""
    is_new_loader: bool = True
    """No iterator was made yet from the loader in use."""
    is_rebuilding: bool = False
    """The next iterator is made anew because of a change of ours."""
    next_seed: int = 0
    """What a private generator is seeded with where the next iterator needs one."""

    @property
    def can_apply(self) -> bool:
        """A recommendation can be applied at the next boundary."""
        return not self.obstacle

    def start_loader(self) -> None:
        """Take the loader in use as new: no iterator was made from it."""
        self.is_new_loader = True

    def start(self, settings: LoaderSettings) -> None:
        """Take ``settings`` as the user's own, which their training is known to run under."""
        self.own_settings = settings
        self.proven_workers = settings.num_workers

    def keep_user_settings(self, settings: LoaderSettings) -> None:
        """Take ``settings``, which the user assigned meanwhile, in the place of ours."""
        self.own_settings, self.chosen = settings, None

    def set_obstacle(self, obstacle: str) -> None:
        """Let nothing be applied because of ``obstacle``, a full sentence; anything where it is empty."""
        self.obstacle = obstacle

    def add_obstacle(self, obstacle: str) -> None:
        """Let nothing be applied because of ``obstacle`` either; the first one is what is said."""
        self.obstacle = self.obstacle or obstacle

    def hold(self, record: Record) -> None:
        """Keep the user's own setting, because a process died under a change."""
        self.crashed_change = record

    def start_change(self, record: Record) -> None:
        """Put a change on probation: the next iterator is made anew because of it."""
        self.probation, self.is_rebuilding = record, True

    def choose(self, settings: LoaderSettings) -> None:
        """Keep what the loader was changed to."""
        self.chosen = None if settings == self.own_settings else settings

    def end_probation(self) -> None:
        """Clear the record of the change, if there is one: it is not what this process may die of."""
        record, self.probation = self.probation, None
        if record is not None:
            record.clear()

    def note_error(self, error: BaseException) -> None:
        """End the probation on Ctrl-C; keep it on any other exception that left the loader."""
        if isinstance(error, KeyboardInterrupt):
            self.end_probation()
        elif self.probation is not None:
            self.probation.is_tainted = True

    def note_iterator(self, base_seed: int, epoch: int) -> None:
        """Keep that an iterator was made, what its workers were seeded from, and for which epoch."""
        self.is_new_loader = False
        # Another seed for each rebuild: with the same one every rebuild would augment alike.
        self.next_seed = (base_seed + epoch + 1) % (1 << 63)

    def note_rebuilt(self) -> None:
        """Keep that the iterator which a change asked for was made."""
        self.is_rebuilding = False

    def note_clean_epoch(self, settings: LoaderSettings | None) -> None:
        """Keep that an epoch ended cleanly under ``settings``, which ends the probation."""
        if settings is not None:
            self.proven_workers = max(self.proven_workers, settings.num_workers)
        self.end_probation()

    def note_trial(self, in_worker: bool, error: str) -> None:
        """Keep what a trial load came to; an empty ``error``: it loaded."""
        self.trial_errors[in_worker] = error

    def clear_records(self) -> None:
        """Clear the records of a process that exits in order; one under which the loader raised is kept."""
        for record in (self.probation, self.crashed_change):
            if record is not None and not record.is_tainted:
                record.clear()
