"""The processes behind the actors of the tests' own Ray."""

import ray


def alive_pids(class_name):
    from ray.util.state import list_actors

    filters = [("state", "=", "ALIVE"), ("class_name", "=", class_name)]
    here = ray.get_runtime_context().gcs_address  # another Ray may run on this machine
    return [actor.pid for actor in list_actors(address=here, filters=filters) if actor.pid]
