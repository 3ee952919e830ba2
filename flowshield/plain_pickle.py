"""Reads the pickles of plain data with a machine of its own, which calls nothing a file names."""

__all__ = ["read_plain_pickle"]

import io
import pickletools
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any, Final

_MARK: Final = object()
_VALUES: Final = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Final = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_PUT: Final = {"PUT", "BINPUT", "LONG_BINPUT"}
_GET: Final = {"GET", "BINGET", "LONG_BINGET"}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_plain_pickle(
    content: bytes,
    admitted: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads numbers, text, bytes, lists, tuples, dicts with plain keys, and what is admitted.

    Python's own unpickler can be made to import only what is admitted, but not to be modest: an
    index into its memo makes it allocate 32 GB, a dict's key can take years to hash. Here an
    operation is either in the table or refused, and none does more than its bytes pay for.

    Args:
        content: The pickle.
        admitted: Stands in for the functions and classes that the file may name, by "module.name".
            What one returns may be given its state by a method `set_state(state)`.
        persistent: Stands in for what the file refers to outside itself; None = nothing.

    Raises:
        pickle.UnpicklingError: The file asks for anything else, or is damaged. Other errors are
            possible, but nothing else: whatever is raised, the file is damaged.
    """
    return _Machine(admitted, persistent).run(content)


class _Machine:
    def __init__(
        self,
        admitted: Mapping[str, Callable[..., Any]],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.admitted, self.persistent = admitted, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for operation, argument, _ in pickletools.genops(io.BytesIO(content)):
            name = operation.name
            if name == "STOP":
                return self.pop()
            self.step(name, argument)
        raise UnpicklingError("it has no end")

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _PUT:
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self.memo[int(argument)])
        elif name in _TUPLES:
            self.stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[name])])))
        elif name == "GLOBAL":
            self.stack.append(self.named(*str(argument).split(" ", 1)))
        elif name not in ("PROTO", "FRAME"):
            operation = getattr(self, f"do_{name.lower()}", None)
            if operation is None:
                raise UnpicklingError(f"it asks for {name}, which plain data do not need")
            operation()

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise UnpicklingError("it ends a list before it begins")
        return value

    def since_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def named(self, module: str, name: str) -> Callable[..., Any]:
        # numpy 1 wrote numpy.core where numpy 2 writes numpy._core
        modern = module.replace("numpy.core.", "numpy._core.", 1)
        try:
            return self.admitted[f"{modern}.{name}"]
        except KeyError:
            raise UnpicklingError(
                f"it asks for {module}.{name}, which is neither an array nor a plain container"
            ) from None

    def put_items(self, target: Any, pairs: list[Any]) -> None:
        if not isinstance(target, dict):
            raise UnpicklingError(f"it puts items into a {type(target).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | None):  # a tuple may take years to hash
                raise UnpicklingError(f"it has a {type(key).__name__} as a dict's key")
            target[key] = value

    def append_items(self, target: Any, values: list[Any]) -> None:
        if not isinstance(target, list):
            raise UnpicklingError(f"it appends to a {type(target).__name__}")
        target.extend(values)

    def do_mark(self) -> None:
        self.stack.append(_MARK)

    def do_pop(self) -> None:
        self.stack.pop()

    def do_pop_mark(self) -> None:
        self.since_mark()

    def do_tuple(self) -> None:
        self.stack.append(tuple(self.since_mark()))

    def do_list(self) -> None:
        self.stack.append(self.since_mark())

    def do_dict(self) -> None:
        made: dict[Any, Any] = {}
        self.put_items(made, self.since_mark())
        self.stack.append(made)

    def do_append(self) -> None:
        value = self.pop()
        self.append_items(self.stack[-1], [value])

    def do_appends(self) -> None:
        values = self.since_mark()
        self.append_items(self.stack[-1], values)

    def do_setitem(self) -> None:
        value, key = self.pop(), self.pop()
        self.put_items(self.stack[-1], [key, value])

    def do_setitems(self) -> None:
        pairs = self.since_mark()
        self.put_items(self.stack[-1], pairs)

    def do_stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise UnpicklingError("it names something by what is no text")
        self.stack.append(self.named(module, name))

    def do_reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not any(function is known for known in self.admitted.values()):
            raise UnpicklingError(f"it calls a {type(function).__name__}")
        self.stack.append(function(*arguments))

    def do_build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if not hasattr(target, "set_state"):
            raise UnpicklingError(f"it gives a state to a {type(target).__name__}")
        target.set_state(state)

    def do_binpersid(self) -> None:
        if self.persistent is None:
            raise UnpicklingError("it refers to what is not in the file")
        self.stack.append(self.persistent(self.pop()))
