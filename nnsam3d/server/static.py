"""The page's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from nnsam3d.server.call import Call

FOLDER = Path(__file__).parent / "page"
ENDINGS = (".html", ".js", ".css", ".svg", ".png")
LIBRARY = "niivue.js"
NO_LIBRARY = """<!doctype html><title>nnsam3d</title><p>The server is running. Viewers can connect to this address.
<p>The page itself needs NiiVue, which this installation does not contain. Install npm, and then nnsam3d
again: <code>pip install --force-reinstall --no-deps /path/to/nnsam3d</code>; in a checkout, <code>make page</code>."""


class PageFiles(StaticFiles):
    """The page's own files, and nothing below its folder."""

    def lookup_path(self, path: str) -> Any:
        known = Path(path).suffix in ENDINGS and path == Path(path).name
        return super().lookup_path(path) if known else ("", None)


async def index(call: Call) -> Response:
    _ = call.label  # report a wrong label in the address immediately
    if not (FOLDER / LIBRARY).is_file():
        return HTMLResponse(NO_LIBRARY)
    return HTMLResponse((FOLDER / "index.html").read_text(encoding="utf-8"))
