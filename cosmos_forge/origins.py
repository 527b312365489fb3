"""Where a run's settings came from: kept in its folder, since its own recipe says each as if it stood there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_forge.files import write_json

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def keep_origins(plan: Plan) -> None:
    """Writes `origins.json`: by "table.key" what `Plan.origin` says. What comes from the run's own recipe, as when it
    is continued through that, keeps the origin that it had."""
    path = plan.folder / "origins.json"
    kept = read_origins(plan.folder)
    own = (plan.folder / "recipe.toml").resolve()
    told = {}
    for table in plan.tables:
        for key in plan.values(table):
            name, origin = f"{table}.{key}".lstrip("."), plan.origin(table, key)
            where = plan.origins.get((table, key))
            told[name] = kept.get(name, "default") if where and Path(where.file).resolve() == own else origin
    if told != kept:
        write_json(path, told)


def read_origins(folder: Path) -> dict[str, str]:
    """By "table.key"; empty where the run is older than this file, or it is none of ours."""
    try:
        return dict(json.loads((folder / "origins.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
