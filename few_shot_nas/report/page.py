"""Fill a template and write the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from few_shot_nas.whole_file import write_text

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: Path, template: str, content: Mapping[str, Any]) -> Path:
    """Render and write a page whole or not at all, and return its path."""
    write_text(path, _ENVIRONMENT.get_template(template).render(content))
    return path
