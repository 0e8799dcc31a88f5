"""Settings that check themselves: dataclasses whose fields say in their annotations what values they take."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from rlzoo.errors import UserError
from rlzoo.run.files import expand_user

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Rate = Annotated[float, Field(gt=0, le=1)]  # of a moving average: beyond 1 it runs away from what it follows
Count = Annotated[int, Field(ge=1, lt=2**53)]  # what a float holds exactly: shares and times are taken of it
CountOrZero = Annotated[int, Field(ge=0, lt=2**53)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what PyTorch's generators take


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError("the lower bound first")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_in_order)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]  # of layers


@dataclass(frozen=True)
class Settings:
    """Base of every group of flags: making one checks its values against the annotations of its fields.

    A "~" at the beginning of a path becomes the home folder: shells leave that of ``--runs-dir=~`` alone.

    Raises:
        UserError: a value outside what its annotation allows, named by its flag.
    """

    flag_prefix: ClassVar[str] = ""  # of the group's flags on the command line, such as "agent."
    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}  # a key that no field has is misspelt

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(path := getattr(self, field.name), Path):
                object.__setattr__(self, field.name, expand_user(path))
        for name, adapter in _adapters(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            try:
                adapter.validate_python(value)
            except ValidationError as error:
                message = error.errors()[0]["msg"]
                expected = message.removeprefix("Input should be ").removeprefix("Value error, ")
                shown = " to ".join(f"{entry:g}" for entry in value) if isinstance(value, tuple) else value
                raise UserError(f"{self.flag(name)} is {shown}, expected {expected}") from error

    @classmethod
    def flag(cls, name: str) -> str:
        """The flag that sets field `name`."""
        return f"--{cls.flag_prefix}{name.replace('_', '-')}"


@functools.cache
def _adapters(cls: Any) -> dict[str, TypeAdapter[Any]]:
    """What checks each field that has something to check."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        field.name: TypeAdapter(hints[field.name])
        for field in fields(cls)
        if any(kind in str(hints[field.name]) for kind in ("Annotated", "Literal"))
    }
