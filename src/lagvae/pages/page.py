"""Write a page: a template, its charts, and the scripts that draw these, in one file."""

from __future__ import annotations

import os
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lagvae.errors import LagvaeError
from lagvae.io import write_text
from lagvae.terminal import print_note

LARGEST = 2_900_000
"""Bytes that a page may have. Pictures that would make it larger are shown from their files."""

INSTALL = "pip install altair vl-convert-python"

POLICY = "default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'; script-src 'unsafe-eval' {scripts}"
"""What a browser allows a page: no network, and no script but those whose hashes it names. Vega compiles its expressions."""


class Drawing(NamedTuple):
    """A chart of Altair, and the rows of each `alt.NamedData` in it, which Altair would copy many times."""

    chart: Any
    data: Mapping[str, Sequence[Mapping[str, Any]]]


@contextmanager
def unchecked_charts() -> Iterator[None]:
    """A context in which Altair does not check charts against its schema, which takes most of its time; tests check them."""
    from altair.utils.schemapi import debug_mode

    with debug_mode(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Automatically deduplicated")  # one selection in several views is meant
        yield


def write_page(path: Path, template: str, charts: Mapping[str, Drawing], pictures: Iterable[Path] = (), **content: Any) -> None:
    """Write a page atomically.

    Args:
        template: the name of a file in templates/. charts: id of the element that shows it → chart.
        pictures: PNG files beside or below the page, which the template gets as `pictures`: stem → address.
        content: what else the template shows. It is escaped there.

    Raises: ImportError where a library is missing.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lagvae.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    read = environment.loader.get_source  # type: ignore[union-attr]
    scripts = [vega_scripts() if charts else "", read(environment, "page.js")[0]]
    hashes = (b64encode(sha256(script.encode()).digest()).decode() for script in scripts)
    specs = {name: chart.to_dict(validate=False) | {"datasets": dict(data)} for name, (chart, data) in charts.items()}
    shell = {"specs": specs, "scripts": scripts, "policy": POLICY.format(scripts=" ".join(f"'sha256-{h}'" for h in hashes))}

    def render(pictures: Mapping[str, str]) -> str:
        return environment.get_template(template).render(content | shell | {"pictures": pictures})

    files = {file.stem: file for file in pictures}
    linked = {name: os.path.relpath(file, path.parent) for name, file in files.items()}
    left = LARGEST - len(render(linked).encode())
    for name, file in files.items():
        embedded = data_address(file.read_bytes())
        if len(embedded) <= left:
            linked[name], left = embedded, left - len(embedded)
    write_text(path, render(linked))


def data_address(png: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


def try_page(path: Path, write: Callable[[Path], None]) -> list[Path]:
    """Write a page that must not end what it is about: the page, or none and a note that says why.

    Args:
        write: writes the page to its argument. An older page there is removed first, so that none is of other results.
    """
    try:
        path.unlink(missing_ok=True)
        write(path)
    except ImportError as error:
        note_missing(str(error.name))
        return []
    except Exception as error:  # whatever goes wrong in drawing, the results stand
        reason = str(error) if isinstance(error, LagvaeError) else f"{type(error).__name__}: {error}"
        print_note(f"{path} was not written ({reason}). The results are complete without it.")
        return []
    return [path]


@lru_cache
def note_missing(library: str) -> None:
    """Say, once, what the pages need."""
    print_note(f"Without the package {library} no page is written for a browser, only tables and figures. Get it: {INSTALL}")


@lru_cache
def vega_scripts() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from vl-convert-python.

    To bundle them takes three seconds, so that the script is kept in the user's cache, under the version of vl-convert.
    """
    name = f"vega-{version('vl-convert-python')}.js"
    file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lagvae" / name
    with suppress(OSError, ValueError):
        digest, _, script = file.read_text(encoding="utf-8").partition("\n")
        if digest == f"//{sha256(script.encode()).hexdigest()}":
            return script
    import vl_convert

    script = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]  # None: all of the three
    script = script.replace("</script", r"<\/script")  # which would end the element that holds it
    with suppress(LagvaeError):  # it is bundled again for the next page
        write_text(file, f"//{sha256(script.encode()).hexdigest()}\n{script}")
    return script
