"""Minari datasets on this machine, read and written losslessly."""

from flowshield.data.minari.place import is_minari, minari_exists
from flowshield.data.minari.reading import load_minari
from flowshield.data.minari.writing import save_minari

__all__ = ["is_minari", "load_minari", "minari_exists", "save_minari"]
