"""Writes pictures as a GIF or MP4 film that is not larger than it may be."""

__all__ = ["FORMATS", "check_format", "write_film"]

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flowshield.atomic import atomic_write
from flowshield.errors import UsageError

FORMATS = (".gif", ".mp4")
_START, _END = 1.5, 2.5  # seconds that the first and the last picture stay, to be read
_SHORTEST = 0.02  # seconds of a picture: browsers slow down a GIF that is faster
_COLOURS = 128
_PALETTE_PICTURES = 8  # of which the colours are taken
_LEAST_PICTURES = 8


def check_format(path: Path) -> None:
    """Refuses what cannot be written, before the work.

    Raises:
        UsageError: The name ends in neither .gif nor .mp4, or what writes MP4 is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"expected a film named *.gif or *.mp4, got {path.name!r}")
    if path.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401  # brings its own ffmpeg
        except ImportError as error:
            raise UsageError(
                "an .mp4 film needs the extra film: pip install 'flowshield[film]', or write a .gif"
            ) from error


def write_film(
    path: Path, pictures: Sequence[Image.Image], seconds: float, most_bytes: float
) -> int:
    """Writes the pictures, every second one of them where all would be too large, and so on.

    Args:
        path: Ends in .gif or .mp4.
        pictures: Of one size, its sides even; the first and the last one stay a while.
        seconds: From one picture to the next; a GIF counts hundredths.
        most_bytes: The largest file.

    Returns:
        How many pictures are in it.

    Raises:
        UsageError: As `check_format`, or even a few pictures are too large.
    """
    check_format(path)
    encode = _gif if path.suffix.lower() == ".gif" else _mp4
    content = encode(pictures, max(_SHORTEST, seconds))
    while len(content) > most_bytes:
        if len(pictures) <= _LEAST_PICTURES:
            raise UsageError(
                f"{len(pictures)} pictures make a film of {len(content) / 1e6:.1f} MB, "
                f"more than the {most_bytes / 1e6:g} MB allowed: allow more"
            )
        last = pictures[-1]
        pictures, seconds = [*pictures[:-1:2], last], 2 * seconds
        content = encode(pictures, max(_SHORTEST, seconds))
    with atomic_write(path) as file:
        file.write(content)
    return len(pictures)


def _gif(pictures: Sequence[Image.Image], seconds: float) -> bytes:
    palette = _palette(pictures)
    frames = [
        picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    ]  # one palette for all: what does not change is not written again
    durations = [10 * round(100 * seconds)] * len(frames)  # ms
    durations[0], durations[-1] = round(1000 * _START), round(1000 * _END)
    file = io.BytesIO()
    frames[0].save(
        file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )  # fmt: skip
    return file.getvalue()


def _palette(pictures: Sequence[Image.Image]) -> Image.Image:
    """The colours of pictures from the first to the last."""
    places = np.unique(np.linspace(0, len(pictures) - 1, _PALETTE_PICTURES).round().astype(int))
    width, height = pictures[0].size
    montage = Image.new("RGB", (width, height * len(places)))
    for row, place in enumerate(places):
        montage.paste(pictures[place], (0, row * height))
    return montage.quantize(_COLOURS)


def _mp4(pictures: Sequence[Image.Image], seconds: float) -> bytes:
    from imageio_ffmpeg import write_frames

    start, end = ([pictures[i]] * round(stay / seconds) for i, stay in ((0, _START), (-1, _END)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        writer = write_frames(
            str(path), pictures[0].size, fps=1.0 / seconds, macro_block_size=2, quality=7
        )  # fmt: skip
        writer.send(None)
        for picture in [*start, *pictures, *end]:
            writer.send(picture.tobytes())
        writer.close()
        return path.read_bytes()
