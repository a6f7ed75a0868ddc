"""What is run: a script of `scripts/`, and what is to be seen of it under ``feedwater run --mode auto``."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

ALLOW_WORKERS = r"allow_workers=True"
"""The remedy of a loader of an `IterableDataset`, whole, in a line of its own if need be."""
RESUMES = r"resumes only under the count"
PREVIEW = r"batch [12]\d\d: .*(next start|next epoch)"
"""The line of an epoch that lasts: after 100 batches, when the relay next looks, as it does each second."""


@dataclass(frozen=True, slots=True)
class Case:
    """One framework and loop."""

    script: str
    argument: str = ""
    under: tuple[str, ...] = ()
    """What starts the script: torchrun."""
    tuned: tuple[str, ...] = ("train",)
    """Loaders that have more workers in the end, by the journal's names."""
    changed: tuple[str, ...] = ()
    """Loaders that have another number of workers in the end; of so few batches that none may be the best."""
    kept: tuple[str, ...] = ()
    """Loaders whose number of workers must not change."""
    said: tuple[str, ...] = ()
    """Patterns that a line of the log must match."""
    labels: tuple[str, ...] = ("Samples[120]",)
    """What the table at the end calls the loaders; a row for each, or for each of its ranks."""
    ranks: int = 1
    most_descriptors: int = 0
    nightly: bool = False
    code: int = 0
    not_on_newest: str = ""
    """Why it cannot run beside the newest PyTorch; empty where it can."""
    on_oldest: bool = False
    """It is in the bounded set of the oldest PyTorch, too, where a worker starts in 0.4 s, not 0.07 s."""
    environ: dict[str, str] = field(default_factory=dict)
    nightly_environ: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the script is."""
        return Path(__file__).parent / "scripts" / self.script

    @property
    def name(self) -> str:
        """Return what a test is called after."""
        started = "torchrun-" if self.under else ""
        return f"{started}{self.script.removesuffix('.py')}{f'-{self.argument}' if self.argument else ''}"


BOTH = ("train", "val")


def is_oldest_torch() -> bool:
    """Return whether this is the oldest PyTorch that is promised; False where there is none at all."""
    try:
        return metadata.version("torch").startswith("2.4.")
    except metadata.PackageNotFoundError:
        return False


def loop(name: str, **expected: object) -> Case:
    """Return a case of `loops.py`."""
    return Case("loops.py", name, **expected)  # type: ignore[arg-type]


CASES = (
    loop("enumerate"),
    loop("from-zero", nightly=True),
    loop("while-next", nightly=True),
    loop("break"),
    # Another number of workers would change what later epochs shuffle: see the loop.
    loop("break-generator", tuned=(), kept=("train",), said=(r"1 → \d+ workers",)),
    loop("short-epochs"),
    loop("loader-anew", nightly=True),
    loop("all-anew"),
    loop(
        "kept-loaders",
        tuned=(),
        changed=("val",),
        labels=("Validation[20]",),
        most_descriptors=256,
    ),
    loop("zip", tuned=BOTH, labels=("Samples[120]", "Validation[120]")),
    loop("peek"),
    loop("endless", tuned=(), kept=("train",), said=(PREVIEW,)),
    loop("infinite-sampler", tuned=(), kept=("train",), said=(PREVIEW,), nightly=True),
    loop("long-epoch", tuned=(), kept=("train",), said=(PREVIEW,), labels=("Samples[16000]",), nightly=True),
    loop("cycle", tuned=(), kept=("train",), nightly=True),
    loop("validation", tuned=BOTH, labels=("Samples[120]", "Validation[120]")),
    loop("persistent", nightly=True),
    loop("thread", nightly=True),
    loop("fork", ranks=2),
    loop("basic-config", said=(r"WARNING:feedwater:.*1 → \d+ workers",)),
    loop("exit-code", code=3),
    loop("exception", tuned=(), code=1, labels=("Samples[120]", "Breaks[120]"), nightly=True),
    Case("ranks.py", "env", under=TORCHRUN, ranks=2, labels=("Samples[240]",), nightly=True),
    Case("ranks.py", "spawn", ranks=2, labels=("Samples[240]",)),
    Case("hugging_face.py", "map", labels=("Named[120]",), nightly=True),
    Case(
        "hugging_face.py",
        "evaluation",
        tuned=BOTH,
        labels=("Named[120]", "NamedValidation[80]"),
    ),
    Case(
        "hugging_face.py",
        "evaluations",
        tuned=(),
        changed=("val",),
        labels=("Named[", "NamedValidation[20]"),
        most_descriptors=256,
        environ={"FRAMEWORKS_EVALUATIONS": "150"},
        nightly_environ={"FRAMEWORKS_EVALUATIONS": "1000"},
        on_oldest=True,
    ),
    Case(
        "hugging_face.py",
        "iterable",
        tuned=(),
        kept=("train",),
        said=(ALLOW_WORKERS,),
        labels=("Stream",),
        nightly=True,
    ),
    Case(
        "hugging_face.py",
        "shards",
        tuned=(),
        kept=("train",),
        # It knows its eight shards: the advice need not feel its way by doubling.
        said=(ALLOW_WORKERS, r"1 → [4-8] workers"),
        labels=("IterableDataset",),
        nightly=True,
    ),
    Case("hugging_face.py", "persistent", labels=("Named[120]",), nightly=True),
    Case(
        "accelerated.py",
        "map",
        under=TORCHRUN,
        ranks=2,
        labels=("Samples[240]",),
        on_oldest=True,
    ),
    Case(
        "accelerated.py",
        "dispatch",
        tuned=(),
        kept=("train",),
        said=(ALLOW_WORKERS,),
        labels=("Stream",),
        nightly=True,
    ),
    Case(
        "lightning_fit.py",
        "fit",
        tuned=BOTH,
        labels=("Samples[120]", "Validation[60]"),
        nightly=True,
    ),
    Case(
        "lightning_fit.py",
        "val-check-interval",
        # Training waits little: its workers load ahead during each of the twelve validations.
        tuned=("val",),
        labels=("Samples[120]", "Validation[60]"),
        on_oldest=True,
    ),
    Case(
        "lightning_fit.py",
        "reload",
        tuned=BOTH,
        labels=("Samples[120]", "Validation[60]"),
        nightly=True,
    ),
    Case(
        "lightning_fit.py",
        "persistent",
        tuned=BOTH,
        labels=("Samples[120]", "Validation[60]"),
        nightly=True,
    ),
    Case(
        "lightning_fit.py",
        "few-validation-batches",
        tuned=BOTH,
        labels=("Samples[120]", "Validation[60]"),
        nightly=True,
    ),
    Case(
        "lightning_fit.py",
        "ddp",
        ranks=2,
        labels=("Samples[160]", "Validation[80]"),
    ),
    Case("timm_loader.py", "prefetcher", labels=("Images[120]",), nightly=True),
    Case("timm_loader.py", "plain", labels=("Tensors[120]",), nightly=True),
    Case(
        "timm_loader.py",
        "multi-epochs",
        tuned=(),
        kept=("train",),
        said=(r"1 → \d+ workers",),
        labels=("Images[120]",),
        nightly=True,
    ),
    Case("stateful.py", "epochs", tuned=(), kept=("train",), said=(RESUMES,)),
    Case("stateful.py", "resume", tuned=(), kept=("train",), nightly=True),
    Case(
        "streams.py",
        "webdataset",
        tuned=(),
        kept=("train",),
        said=(ALLOW_WORKERS, r"1 → [4-8] workers"),
        labels=("WebDataset",),
    ),
    Case(
        "streams.py",
        "mosaicml",
        tuned=(),
        kept=("train",),
        said=(ALLOW_WORKERS,),
        labels=("Slow",),
        nightly=True,
        not_on_newest="mosaicml-streaming 0.13 asks for a transformers that is not the newest",
    ),
    Case(
        "streams.py",
        "litdata",
        tuned=(),
        kept=("train",),
        said=(ALLOW_WORKERS, r"1 → [4-8] workers"),
        labels=("Slow",),
        nightly=True,
    ),
    Case("monai_threads.py", nightly=True),
    Case("ignite_engine.py", nightly=True),
    Case(
        "fastai_learner.py",
        tuned=(),
        kept=BOTH,
        said=(r"1 → \d+ workers",),
        labels=("Samples[120]", "Validation[80]"),
    ),
    Case(
        "yolo.py",
        tuned=(),
        kept=("train",),
        said=(r"1 → \d+ workers",),
        labels=("Slow[64], batches of 4", "Slow[64], batches of 8"),
    ),
)
