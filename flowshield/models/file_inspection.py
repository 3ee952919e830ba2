"""A look at a model file before torch reads it."""

__all__ = ["inspected"]

import io
import math
import zipfile
from typing import Any, Final, NamedTuple

from flowshield.plain_pickle import read_plain_pickle

_BYTES: Final = {
    **{f"torch.{name}Storage": size for name, size in (("Double", 8), ("Float", 4), ("Half", 2))},
    **{f"torch.{name}Storage": size for name, size in (("Long", 8), ("Int", 4), ("Short", 2))},
    **{f"torch.{name}Storage": 1 for name in ("Char", "Byte", "Bool")},
    "torch.BFloat16Storage": 2,
}


def inspected(content: bytes) -> io.BytesIO:
    """Refuses what would let a small file fill the memory, or a tensor be more than its bytes.

    torch.load with weights_only=True runs no code, but makes sparse, quantized and strided tensors
    of any claimed size, sets, counters and byte arrays, and unpacks compressed members. Files of
    ours hold dense tensors, plain containers, and nothing compressed.

    Args:
        content: The file.

    Returns:
        The same members in a new archive, for torch to read: what was looked at and nothing else.

    Raises:
        Exception: Of nearly any kind; whatever is raised, the file is damaged or hostile.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(made, "w") as copy:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, which a model file never is")
        if sum(member.file_size for member in members) > len(content):
            raise ValueError("its members together are larger than the file")
        if len({member.filename for member in members}) < len(members):
            raise ValueError("two of its members have one name")
        sizes = {member.filename: member.file_size for member in members}
        pickles = [name for name in sizes if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("it holds no model")
        pickled = archive.read(pickles[0])
        read_plain_pickle(pickled, *_stand_ins(pickles[0].removesuffix("data.pkl"), sizes))
        for member in members:
            copy.writestr(member.filename, archive.read(member))
    made.seek(0)
    return made


class _Storage(NamedTuple):
    """The number of elements that a storage truly has."""

    n_elements: int


class _OrderedDict(dict[Any, Any]):
    def set_state(self, state: Any) -> None:
        """A module's versions, which torch keeps beside its weights."""
        if not isinstance(state, dict) or state.keys() - {"_metadata"}:
            raise ValueError("it gives a dict a state that is none of a module's")


def _stand_ins(root: str, sizes: dict[str, int]) -> tuple[dict[str, Any], Any]:
    """What the pickle may name, and what it may refer to: storages, by their members."""

    def storage(reference: Any) -> _Storage:
        word, kind, key, _, n_elements = reference
        element = next((_BYTES[name] for name, made in kinds.items() if made is kind), 0)
        if word != "storage" or not element or type(n_elements) is not int or n_elements < 0:
            raise ValueError("it refers to what is no storage")
        if element * n_elements != sizes[f"{root}data/{key}"]:
            raise ValueError(f"storage {key} has another size than it claims")
        return _Storage(n_elements)

    kinds = {name: _refused(name) for name in _BYTES}
    admitted = {
        "torch._utils._rebuild_tensor_v2": _check_tensor,
        "collections.OrderedDict": _OrderedDict,
        **kinds,
    }
    return admitted, storage


def _check_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, needs_grad: Any, hooks: Any, *more: Any
) -> None:
    whole = all(type(x) is int and x >= 0 for x in (offset, *size, *stride))
    if not isinstance(storage, _Storage) or not whole or len(size) != len(stride) or hooks or more:
        raise ValueError("it holds a tensor of a kind that model files do not have")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    n = math.prod(size)
    if n and (last >= storage.n_elements or n > storage.n_elements):
        raise ValueError(f"a tensor of the shape {list(size)} is larger than its storage")


def _refused(name: str) -> Any:
    def call(*_: Any) -> None:
        raise ValueError(f"it calls {name}")

    return call
