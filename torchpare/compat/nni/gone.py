"""Names of NNI that have no counterpart: they can be imported, and say what to use instead when they are used."""

from __future__ import annotations

from typing import Any, NoReturn

from torchpare.errors import CompatError

__all__ = ["gone"]


class _Gone(type):
    """The type of such names: calling one, deriving from it or asking it for anything raises."""

    said: str

    def __call__(cls, *_: Any, **__: Any) -> NoReturn:
        """Used.

        Raises:
            CompatError: always.
        """
        raise CompatError(cls.said)

    def __getattr__(cls, name: str) -> NoReturn:
        if name.startswith("__"):  # what Python itself looks for may be missing
            raise AttributeError(name)
        raise CompatError(cls.said)


def gone(path: str, name: str, instead: str) -> type:
    """A name that can be imported, and not used.

    Args:
        path: of the module that scripts import it from.
        name: its own.
        instead: what to write, after "instead: ".
    """
    said = f"{path}.{name} has no counterpart in torchpare; instead: {instead}"

    def refuse(_cls: type, **_: Any) -> NoReturn:
        raise CompatError(said)

    return _Gone(
        name, (), {"__module__": path, "__doc__": said, "said": said, "__init_subclass__": classmethod(refuse)}
    )
