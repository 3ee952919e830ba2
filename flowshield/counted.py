"""Numbers of things in words: "1 episode", "3 episodes"."""

__all__ = ["counted"]


def counted(n: float | str, noun: str, plural: str | None = None) -> str:
    """So many of a thing.

    Args:
        n: The number, or what stands for it.
        noun: What one is called.
        plural: What several are called; None = the noun with an s.
    """
    several = plural or f"{noun}s"
    return f"{n} {noun if n in (1, '1') else several}"
