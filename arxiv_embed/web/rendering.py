"""Rendering: templates filled in, static files found by what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"


def _static_addresses() -> Mapping[str, str]:
    """File → its address, which changes with its content, so that browsers may keep it for ever."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in STATIC.iterdir()}
    return {name: f"/static/{name}?v={digest}" for name, digest in digests.items()}


_environment = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    auto_reload=False,
)
_environment.globals["static"] = _static_addresses()


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, every value in it escaped unless it is `Markup`."""
    return HTMLResponse(_environment.get_template(template).render(values), status)
