"""The loader of `train_images.py` as a function, for ``feedwater sweep``.

    cd docs/examples
    PHOTOS=DIR feedwater sweep image_loader:make_loader --step-seconds 0.02

The directory is named by the environment because a swept function takes no arguments.
"""

from __future__ import annotations

import os

from torch.utils.data import DataLoader

from train_images import Folder, Item, Photos


def make_loader() -> DataLoader[Item]:
    """Return a loader of JPEG photos, decoded and augmented, 4 a batch."""
    photos = Photos(Folder(os.environ["PHOTOS"]), 128)
    return DataLoader(photos, batch_size=4, shuffle=True, drop_last=True, num_workers=2)
