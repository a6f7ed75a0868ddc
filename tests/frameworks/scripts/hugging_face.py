"""Hugging Face's Trainer: python hugging_face.py VARIANT; FRAMEWORKS_EVALUATIONS of them in "evaluations"."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator

import torch
from synthetic import Journal, Model, Named, NamedValidation, code_of, variant
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

COUNT = 120
SECONDS = 0.01
EVALUATIONS = int(os.environ.get("FRAMEWORKS_EVALUATIONS", "150"))

journal = Journal()


class Scored(Model):
    """The model as the trainer wants it: a dictionary with the loss."""

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = super().forward(features, labels)
        return {"loss": loss, "logits": features}


class Stream(IterableDataset):
    """Samples one after the other, each loaded by one of the workers."""

    def __iter__(self) -> Iterator[dict[str, object]]:
        info = torch.utils.data.get_worker_info()
        for index in range(0 if info is None else info.id, COUNT, 1 if info is None else info.num_workers):
            yield {**NAMED[index]}


NAMED = Named(COUNT, SECONDS)


def shards() -> object:
    """Return an iterable of the library `datasets` that knows its eight shards."""
    import datasets

    def load(row: dict[str, int]) -> dict[str, object]:
        time.sleep(SECONDS)
        return {"features": [row["index"] / COUNT] * 4, "labels": code_of(row["index"])}

    table = datasets.Dataset.from_dict({"index": list(range(COUNT))})
    return table.to_iterable_dataset(num_shards=8).map(load, remove_columns=["index"]).with_format("torch")


class Descriptors(TrainerCallback):
    """Notes how many descriptors are open after each epoch and evaluation."""

    def on_epoch_end(self, *arguments: object, **more: object) -> None:
        journal.epoch()

    def on_evaluate(self, *arguments: object, **more: object) -> None:
        journal.epoch()


def main(chosen: str, output: str) -> None:
    """Train by the trainer."""
    given: dict[str, object] = {"num_train_epochs": 4}
    train: object = NAMED
    evaluate: object = None
    if chosen == "evaluation":
        given["eval_strategy"], evaluate = "epoch", NamedValidation(80, SECONDS)
    elif chosen == "evaluations":
        train, evaluate = Named(EVALUATIONS * 4, 0.0), NamedValidation(20, SECONDS)
        given |= {"eval_strategy": "steps", "eval_steps": 1, "max_steps": EVALUATIONS}
    elif chosen in ("iterable", "shards"):
        train, given["max_steps"] = Stream() if chosen == "iterable" else shards(), 120
    elif chosen == "persistent":
        given["dataloader_persistent_workers"] = True
    arguments = TrainingArguments(
        output_dir=output,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        dataloader_num_workers=1,
        remove_unused_columns=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **given,
    )
    Trainer(
        Scored(journal), arguments, train_dataset=train, eval_dataset=evaluate, callbacks=[Descriptors()]
    ).train()


if __name__ == "__main__":
    set_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        main(variant(("map", "evaluation", "evaluations", "iterable", "shards", "persistent")), directory)
    journal.write()
