"""Where Tapper's registries are looked for: asking for one says where they are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from waypost import tapper

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name.startswith("__"):  # what the import system asks for
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(tapper, name)
