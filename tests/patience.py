"""How long a test waits for another process before it gives it up."""

# An idle machine needs a fiftieth of it. On a busy one the suite waits, and does not fail.
PATIENCE_S = 1800
