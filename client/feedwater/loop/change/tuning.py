"""The tuning of one loader: the user's settings and ours, and the state of a change."""

from __future__ import annotations

from dataclasses import dataclass, field

from feedwater.loop.change.probation import ProbationRecord
from feedwater.values import LoaderSettings

MAKES_ITERATORS = "This loader makes its iterators by itself; set it at the next start."
KEEPS_ITERATOR = "This loader keeps its iterator; set it at the next start."


@dataclass(eq=False, slots=True, kw_only=True)
class Tuning:
    """The settings of one loader and the state of their change. Assigned in this module alone."""

    user_settings: LoaderSettings | None = None
    """The user's settings; None before the first iteration."""
    chosen_settings: LoaderSettings | None = None
    """The settings of the last change, in use since; None: the user's are in use."""
    proven_workers: int = 0
    """The largest count under which an epoch ended cleanly, or the user's own."""
    probation: ProbationRecord | None = None
    """The record of a change under which no epoch has ended yet."""
    crashed_change: ProbationRecord | None = None
    """The change under which the last process of this rank died. The user's setting is kept then."""
    trial_errors: dict[bool, str] = field(default_factory=dict)
    """Why a trial load failed, empty if it loaded; by whether it was made in a worker."""
    obstacle: str = ""
    """Why nothing can be applied at the next boundary, a full sentence; empty if it can."""
    is_new_loader: bool = True
    """The loader in use has made no iterator yet."""
    is_rebuilding: bool = False
    """Our change is the reason why the next iterator is made and no persistent one is reset."""
    next_seed: int = 0
    """Seed of the private generator that the next iterator may need."""

    @property
    def can_apply(self) -> bool:
        """A recommendation can be applied at the next boundary."""
        return not self.obstacle

    def start_loader(self) -> None:
        """Keep that the loader in use is a new one, which has made no iterator."""
        self.is_new_loader = True

    def start(self, settings: LoaderSettings) -> None:
        """Keep the user's settings, under which their training is known to run."""
        self.user_settings = settings
        self.proven_workers = settings.num_workers

    def keep_user_settings(self, settings: LoaderSettings) -> None:
        """Keep settings that the user assigned after our change, in the place of ours."""
        self.user_settings, self.chosen_settings = settings, None

    def set_obstacle(self, obstacle: str) -> None:
        """Allow no change because of ``obstacle``, a full sentence; empty: allow changes."""
        self.obstacle = obstacle

    def add_obstacle(self, obstacle: str) -> None:
        """Allow no change because of ``obstacle``; an earlier one is kept in its place."""
        self.obstacle = self.obstacle or obstacle

    def keep_after_crash(self, record: ProbationRecord) -> None:
        """Allow no change, because a process died under the one of ``record``."""
        self.crashed_change = record

    def start_change(self, record: ProbationRecord) -> None:
        """Keep the record of a change, until an epoch has ended under it."""
        self.probation, self.is_rebuilding = record, True

    def choose(self, settings: LoaderSettings) -> None:
        """Keep the settings that the loader was changed to."""
        self.chosen_settings = None if settings == self.user_settings else settings

    def end_probation(self) -> None:
        """Remove the record of the change, if there is one."""
        record, self.probation = self.probation, None
        if record is not None:
            record.clear()

    def note_error(self, error: BaseException) -> None:
        """End the probation on Ctrl-C; keep its record on any other exception that the loader raised."""
        if isinstance(error, KeyboardInterrupt):
            self.end_probation()
        elif self.probation is not None:
            self.probation.has_raised = True

    def note_iterator(self, base_seed: int, epoch: int) -> None:
        """Keep that an iterator was made for ``epoch``, and the seed of its workers."""
        self.is_new_loader = False
        # Another seed for each rebuild: with the same one each would augment the samples alike.
        self.next_seed = (base_seed + epoch + 1) % (1 << 63)

    def note_rebuilt(self) -> None:
        """Keep that the iterator was made which a change was waiting for."""
        self.is_rebuilding = False

    def note_clean_epoch(self, settings: LoaderSettings | None) -> None:
        """Keep that an epoch ended cleanly under ``settings``, and end the probation."""
        if settings is not None:
            self.proven_workers = max(self.proven_workers, settings.num_workers)
        self.end_probation()

    def note_trial(self, in_worker: bool, error: str) -> None:
        """Keep the error of a trial load; empty: it loaded."""
        self.trial_errors[in_worker] = error

    def clear_records(self) -> None:
        """Remove the records when the process exits in order; one under which the loader raised is kept."""
        for record in (self.probation, self.crashed_change):
            if record is not None and not record.has_raised:
                record.clear()
