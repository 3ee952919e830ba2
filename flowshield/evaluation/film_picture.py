"""One picture of a film: the same start without and with a shield, and what is to be read on it."""

__all__ = ["film_picture"]

from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from flowshield.counted import counted
from flowshield.evaluation.answer_wording import SCORE_NAMES
from flowshield.evaluation.filmed import FilmedEpisode
from flowshield.evaluation.wording import command_words, number

_MARGIN, _LINE, _TITLE_SIZE, _TEXT_SIZE, _END_SIZE = 12, 24, 18, 15, 20
_LEAST_SIZE = 6
_LEAST_WIDTH = 360  # of a side: below it the text is hard to read
_LABEL_WIDTH = 84
_BACKGROUND, _TEXT, _FAINT = (22, 24, 29), (235, 235, 235), (160, 166, 173)
_GOOD, _BAD = (98, 210, 130), (255, 122, 112)
# of an outcome; whether running out of time is bad, the environment does not say
_END_COLOURS = {"crashed": _BAD, "time out": (236, 190, 90)}


def film_picture(sides: tuple[FilmedEpisode, FilmedEpisode], step: int, title: str) -> Image.Image:
    """The picture after so many steps; of a side that is over, its last one.

    Args:
        sides: Without the shield and with it.
        step: A multiple of both sides' stride, or not before the end of both.
        title: What the second side is called.
    """
    drawn = [
        _side(episode, step, name)
        for episode, name in zip(sides, ("without a shield", title), strict=True)
    ]
    width, height = sum(side.width for side in drawn), drawn[0].height
    whole = Image.new("RGB", (width, height), _BACKGROUND)
    whole.paste(drawn[0], (0, 0))
    whole.paste(drawn[1], (drawn[0].width, 0))
    return whole


def _side(episode: FilmedEpisode, step: int, title: str) -> Image.Image:
    picture = episode.picture_after(step)
    inner = _even(max(picture.width, _LEAST_WIDTH))
    top = 2 * _MARGIN + _TITLE_SIZE
    lines = _lines(episode, min(step, episode.length))
    height = _even(top + picture.height + _MARGIN + _LINE * len(lines) + _MARGIN)
    side = Image.new("RGB", (inner + 2 * _MARGIN, height), _BACKGROUND)
    left = _MARGIN + (inner - picture.width) // 2
    side.paste(picture, (left, top))
    draw = ImageDraw.Draw(side)
    _write(draw, (_MARGIN, _MARGIN - 3), title, _TEXT, _TITLE_SIZE, inner)
    if step >= episode.length:
        _write_end(draw, episode, (left, top, picture.width))
    for i, (label, text, colour) in enumerate(lines):
        place = top + picture.height + _MARGIN + i * _LINE
        _write(draw, (_MARGIN, place), label, _FAINT, _TEXT_SIZE, _LABEL_WIDTH)
        room = inner - _LABEL_WIDTH
        _write(draw, (_MARGIN + _LABEL_WIDTH, place), text, colour, _TEXT_SIZE, room)
    return side


def _lines(episode: FilmedEpisode, step: int) -> list[tuple[str, str, tuple[int, int, int]]]:
    """(label, text, colour) of each line; once the episode is over, of its last step."""
    now = min(step, episode.length - 1)
    asked = episode.asked[now]
    score, limit = float(episode.scores[now]), float(episode.limits[now])
    supported = score >= limit
    relation = "≥" if supported else "<"
    name = SCORE_NAMES[episode.score_type]
    when = "now" if step < episode.length else "at the last step"
    verdict, colour = ("supported", _GOOD) if supported else ("NOT supported", _BAD)
    so_far = number(episode.return_after(step), episode.decimals)
    return [
        ("asked", f"{command_words(episode.evaluated.command)}, at the start", _FAINT),
        ("step", f"{step}   return so far {so_far}", _TEXT),
        ("command", f"{command_words(asked, episode.decimals)}, {when}", _TEXT),
        ("verdict", f"{verdict}: {name} {number(score, 1)} {relation} {number(limit, 1)}", colour),
        ("agent", *_given(episode, now)),
    ]


def _given(episode: FilmedEpisode, now: int) -> tuple[str, tuple[int, int, int]]:
    """What became of the command at a step."""
    if not episode.shielded:
        return "is given it all the same", _FAINT
    replaced = (episode.asked != episode.followed).any(axis=1)
    if replaced[now]:
        return f"is given {command_words(episode.followed[now], episode.decimals)}", _GOOD
    return f"is given it; {replaced[:now].sum()} replaced before", _FAINT


def _write_end(
    draw: ImageDraw.ImageDraw, episode: FilmedEpisode, place: tuple[int, int, int]
) -> None:
    """The outcome, in a bar over the top of the picture."""
    left, top, width = place
    height = _END_SIZE + 2 * _MARGIN
    end = number(episode.return_after(episode.length), episode.decimals)
    text = f"{episode.outcome} after {counted(episode.length, 'step')}, return {end}"
    colour = _END_COLOURS.get(episode.outcome, _GOOD)
    draw.rectangle((left, top, left + width - 1, top + height), fill=colour)
    room = width - 2 * _MARGIN
    _write(draw, (left + _MARGIN, top + _MARGIN - 2), text, _BACKGROUND, _END_SIZE, room)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    colour: tuple[int, int, int],
    size: int,
    room: int,
) -> None:
    """Writes a line, smaller where it is too long for its room of so many pixels."""
    while size > _LEAST_SIZE and draw.textlength(text, font=_font(size)) > room:
        size -= 1
    draw.text(place, text, fill=colour, font=_font(size))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # comes with it, on every machine
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


def _even(length: int) -> int:
    """Video encoders want even sides."""
    return length + length % 2
