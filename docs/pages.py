"""A hook of mkdocs: the pages of the site, where they stand in the repository, and a page of reference for each package.

mkdocs serves one folder. Here a page keeps its path in the repository, so that a link that works there works in the site, and
`make docs` refuses one that leads nowhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "lagvae"

SHOWN = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "docs/*.md",
    "docs/*.png",
    "results/**/*",
    "examples/**/*",
    "conf/family/*",
)
"""The files of the repository that the site has."""

GUIDES = ("guide", "cli", "sweeps", "extending", "theory", "estimators", "table1", "reliability", "design", "decisions")
"""The pages in docs/, in the order of the site; others follow."""

REFERENCE = {
    "Models": ("model", "front", "inference", "distributions", "networks"),
    "Objectives": ("lagrangian", "log_ascent", "nupi", "divergences", "algebra", "information"),
    "Data and measures": ("data", "metrics", "pareto", "oracles"),
    "Basics": ("sklearn", "noise", "errors"),
}
"""The packages, and the modules directly under lagvae, by subject; those that are missing here follow under the last."""

INTERNAL = (
    "callbacks",
    "cli",
    "ensemble",
    "experiment",
    "explain",
    "introspection",
    "io",
    "pages",
    "ranks",
    "recorded",
    "runs",
    "sweeps",
    "terminal",
)
"""What commands consist of and no user calls from Python: not in the reference."""

START = """# lagvae

::: lagvae
    options: {members: false}

::: lagvae.load
    options: {show_root_heading: true}

::: lagvae.export
    options: {show_root_heading: true}
"""
"""The page of what `import lagvae` gives."""


def on_files(files: Files, config: Any) -> Files:
    """The files of the site: those of the theme, of the repository, and the pages of reference."""
    own = [file for file in files if file.generated_by is not None]
    paths = sorted({path for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()})
    own += [File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, config.use_directory_urls) for path in paths]
    pages = reference()
    own += [File.generated(config, name, content=text) for name, (_, text) in pages.items()]
    config.nav = navigation([path.relative_to(ROOT) for path in paths if path.suffix == ".md"], pages)
    return Files(own)


def navigation(paths: list[Path], pages: dict[str, tuple[str, str]]) -> list[Any]:
    """What the site lists: the start, the guides, the results, and the reference by subject."""
    guides = sorted((path for path in paths if path.parts[0] == "docs"), key=lambda path: (place(path.stem), path.stem))
    results = [path for path in paths if path.parts[0] == "results"]
    subjects: dict[str, list[Any]] = {}
    for name, (subject, _) in pages.items():
        subjects.setdefault(subject, []).append({Path(name).stem: name})
    return [
        {"lagvae": "README.md"},
        {"Guide": [*(str(path) for path in guides), "CONTRIBUTING.md", "CHANGELOG.md"]},
        {"Results": [str(path) for path in results]},
        {"Reference": [{subject: items} for subject, items in subjects.items()]},
    ]


def place(guide: str) -> int:
    return GUIDES.index(guide) if guide in GUIDES else len(GUIDES)


def reference() -> dict[str, tuple[str, str]]:
    """Path of a page of reference → its subject and its text: `lagvae`, and all under it that is not `INTERNAL`."""
    found = sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")})
    listed = [*INTERNAL, *(name for names in REFERENCE.values() for name in names)]
    subjects = {subject: list(names) for subject, names in REFERENCE.items()}
    subjects["Basics"] += [name for name in found if name not in listed and not name.startswith("__")]
    pages = {"reference/lagvae.md": ("Models", START)}
    for subject, names in subjects.items():
        for name in names:
            pages[f"reference/{name}.md"] = (subject, page(name))
    return pages


def page(name: str) -> str:
    """The page of a package or of a module under lagvae: its docstring, then every module with what is public in it."""
    folder = PACKAGE / name
    if not folder.is_dir():
        return f"# lagvae.{name}\n\n{start(name, PACKAGE / f'{name}.py')}::: lagvae.{name}\n"
    files = [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    modules = [(f"{name}.{path.stem}", path) for path in files]
    parts = [f"## {module}\n\n{start(module, path)}::: lagvae.{module}\n" for module, path in modules]
    return "\n".join([f"# lagvae.{name}\n\n::: lagvae.{name}\n    options: {{members: false}}\n", *parts])


def start(module: str, path: Path) -> str:
    """What a reader types before an example of the module: the test that runs the examples gives them no other name."""
    examples = ">>> " in path.read_text(encoding="utf-8")
    return f"The examples start with `from lagvae.{module} import *`.\n\n" if examples else ""
