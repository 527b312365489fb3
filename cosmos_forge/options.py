"""The base of every component's options: a frozen pydantic model whose errors speak recipe."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cosmos_forge.errors import Problem

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Download:
    """Files of a Hugging Face repository that a component needs.

    repo: "owner/name". files: patterns of paths within it, where * goes across folders, too. gigabytes: what they weigh
    (10^9 bytes). licence: a line for the person who accepts it. repo_type: "model" or "dataset".
    """

    repo: str
    files: tuple[str, ...]
    gigabytes: float
    licence: str = ""
    revision: str = "main"
    repo_type: str = "model"


class Options(BaseModel):
    """What a recipe's table may say about one component.

    The first line of a subclass's docstring is the component's summary in `forge plugins`; each field says its
    default, its range and, through `Field(description=...)`, its meaning. Defaults are published values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True, allow_inf_nan=False)

    def needs(self) -> list[Download]:
        """Downloads of this component; `fetch` gets them before anything else runs."""
        return []

    def check(self, plan: Plan) -> Iterable[Problem]:
        """Problems that only show across tables: shapes that do not fit, files that are missing. Imports no torch."""
        return []

    def fingerprint(self) -> str:
        """Changes whenever the component would compute something else though its options stay, because local files
        have changed; what `prepare` keeps is kept under it. Cheap. Imports no torch."""
        return ""

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().split("\n")[0]


class HubOptions(Options):
    """Of components whose files lie at a place: a folder, or a repository on the Hugging Face hub, as owner/name."""

    def needs_of(self, place: str, files: tuple[str, ...], gigabytes: float, licence: str = "") -> list[Download]:
        """The download; none for a folder, or what cannot be a repository."""
        local = Path(place).is_dir() or not _REPOSITORY.fullmatch(place)
        return [] if local else [Download(place, files, gigabytes, licence)]

    def folder_of(self, place: str, files: Callable[[Download], Path]) -> Path:
        """Where the files lie on this machine. files: finds what `needs` names, as `Context.files` does."""
        return next((files(need) for need in self.needs() if need.repo == place), Path(place))

    def check_place(self, plan: Plan, key: str) -> Iterable[Problem]:
        """Whether the option `key` is a folder that is there, or may be a repository."""
        place = str(getattr(self, key))
        if not Path(place).is_dir() and not _REPOSITORY.fullmatch(place):
            fix = "give the path of a folder, or owner/name of a repository on the hub"
            yield plan.problem(plan.name_of(self), key, f"there is no folder {place}", fix)


AnyOptions = TypeVar("AnyOptions", bound=Options)


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a table: key ("" for the table itself), what, and how to mend it."""

    key: str
    what: str
    fix: str


def nearest(word: str, known: Iterable[str]) -> str:
    """ "did you mean ...?" with the closest of `known`, or the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known here: {', '.join(known)}" if known else "nothing is known here"


def build_options(cls: type[AnyOptions], values: dict[str, Any]) -> tuple[AnyOptions | None, list[Fault]]:
    """`cls(**values)`, or every fault that pydantic found, translated."""
    try:
        # As JSON, so that strictness is that of a data format: a list may be a tuple, but "3" is no number.
        return cls.model_validate_json(json.dumps(values, default=str), strict=True), []
    except ValidationError as error:
        return None, [_fault(cls, values, item) for item in error.errors(include_url=False)]


def _fault(cls: type[Options], values: dict[str, Any], item: Any) -> Fault:
    key = str(item["loc"][0]) if item["loc"] else ""
    limits = item.get("ctx") or {}
    field = cls.model_fields.get(key)
    fix = (field.description or "") if field else ""
    got = repr(values.get(key))
    match item["type"]:
        case "extra_forbidden":
            return Fault(key, f"unknown key `{key}`", nearest(key, cls.model_fields))
        case "missing":
            return Fault(key, f"`{key}` is missing", fix)
        case "greater_than_equal":
            return Fault(key, f"{key} must be at least {limits['ge']}, got {got}", fix)
        case "greater_than":
            return Fault(key, f"{key} must be greater than {limits['gt']}, got {got}", fix)
        case "less_than_equal":
            return Fault(key, f"{key} must be at most {limits['le']}, got {got}", fix)
        case "less_than":
            return Fault(key, f"{key} must be less than {limits['lt']}, got {got}", fix)
        case "literal_error":
            return Fault(key, f"{key} must be {limits['expected']}, got {got}", fix)
        case "value_error":
            return Fault(key, f"{key}: {limits['error']}" if key else str(limits["error"]), fix)
        case _:
            return Fault(key, f"{key}: {item['msg'][:1].lower()}{item['msg'][1:]}, got {got}", fix)
