"""The same work on Ray: collection, training, sweeps and evaluation over many processes.

Import from the modules themselves: every process that Ray starts imports this package, and none
needs all of it.
"""
