"""Make JPEG files that cost as much to decode as photos do."""

from __future__ import annotations

import concurrent.futures
import functools
import pathlib
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SCENES = ("city", "forest", "portrait", "sea")
"""The classes: what the network learns to tell apart."""


@dataclass(frozen=True, slots=True)
class Album:
    """A set of photos to make."""

    name: str
    photos: int
    width: int
    """Of the average photo in pixels; photos vary from 0.7 to 1.3 times that, 4:3."""


def made(album: Album, cache: pathlib.Path) -> pathlib.Path:
    """Return the directory with the album's photos; make those that are missing.

    Photos are the same on every machine: each is drawn from its own number.
    """
    directory = _directory(album, cache)
    directory.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(album.photos) if not _path(directory, number).exists()]
    if missing:
        make = functools.partial(_make, directory, album.width)
        with concurrent.futures.ProcessPoolExecutor() as pool:
            list(pool.map(make, missing, chunksize=8))
    return directory


def are_made(album: Album, cache: pathlib.Path) -> bool:
    """Return whether all of the album's photos are there."""
    return all(_path(_directory(album, cache), number).exists() for number in range(album.photos))


def _directory(album: Album, cache: pathlib.Path) -> pathlib.Path:
    return cache / f"{album.name}-{album.photos}x{album.width}"


def _path(directory: pathlib.Path, number: int) -> pathlib.Path:
    return directory / f"{SCENES[number % len(SCENES)]}-{number:04d}.jpg"


def _make(directory: pathlib.Path, width: int, number: int) -> None:
    path = _path(directory, number)
    partial = path.with_suffix(".part")
    _photo(SCENES[number % len(SCENES)], number, width).save(partial, "JPEG", quality=88)
    partial.rename(path)


def _photo(scene: str, number: int, average_width: int) -> Image.Image:
    chance = random.Random(number)
    width = int(average_width * chance.uniform(0.7, 1.3))
    height = width * 3 // 4
    picture = _background(scene, width, height)
    _draw(scene, ImageDraw.Draw(picture), width, height, chance)
    return _with_grain(picture.filter(ImageFilter.GaussianBlur(1)), number)


def _background(scene: str, width: int, height: int) -> Image.Image:
    top, bottom = {
        "city": ((150, 170, 200), (90, 90, 100)),
        "forest": ((120, 150, 110), (40, 70, 30)),
        "portrait": ((200, 180, 170), (120, 90, 80)),
        "sea": ((130, 190, 230), (20, 60, 110)),
    }[scene]
    ramp = np.linspace(0, 1, height)[:, None, None]
    rows = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (height, width, 3)).astype(np.uint8))


def _draw(scene: str, pen: ImageDraw.ImageDraw, width: int, height: int, chance: random.Random) -> None:
    for _ in range(60):
        x, y = chance.randrange(width), chance.randrange(height // 3, height)
        size = chance.randrange(width // 40, width // 8)
        shade = chance.randrange(40, 220)
        if scene == "city":
            pen.rectangle((x, y - 2 * size, x + size, height), fill=(shade, shade, shade))
        elif scene == "forest":
            pen.polygon(
                [(x, y - 2 * size), (x - size, y), (x + size, y)], fill=(shade // 3, shade, shade // 3)
            )
        elif scene == "portrait":
            pen.ellipse(
                (x - size, y - size, x + size, y + size), fill=(shade, shade * 3 // 4, shade * 2 // 3)
            )
        else:
            wave = (x - 2 * size, y - size, x + 2 * size, y + size)
            pen.arc(wave, 200, 340, fill=(200, 220, 255), width=3)


def _with_grain(picture: Image.Image, number: int) -> Image.Image:
    # A sensor's noise is what makes a real photo's JPEG large and slow to decode.
    tile = np.random.default_rng(number).integers(0, 33, (256, 256, 3), dtype=np.uint8)
    rows, columns = picture.height // 256 + 1, picture.width // 256 + 1
    grain = Image.fromarray(np.tile(tile, (rows, columns, 1))[: picture.height, : picture.width])
    return ImageChops.add(picture, grain, scale=1.0, offset=-16)
