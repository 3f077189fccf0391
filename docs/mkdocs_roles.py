"""What docstrings have and Markdown has not, for the pages of the reference."""

import re
from typing import Any

import griffe

#: Such as ``:func:`few_shot_nas.meta.inner_loop.adapt```.
ROLE = re.compile(r":(?!math)[a-z:]+:`~?([^`]+)`")
#: An example of Python's prompt, up to the next empty line.
EXAMPLE = re.compile(r"^( *)(>>> .*(?:\n(?! *$).*)*)", re.MULTILINE)
#: A product such as N*K, two of which would be read as emphasis; code stands first, so that it is left as it is.
PRODUCT = re.compile(r"(```.*?```|`[^`]+`)|(?<=\w)\*(?=\w)", re.DOTALL)


class Roles(griffe.Extension):
    """Rewrites every docstring as it is loaded."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        """Leave of a role the last part of what it names, fence examples, and keep the sign of a product."""
        if obj.docstring:
            text = ROLE.sub(lambda found: f"`{found[1].split('.')[-1]}`", obj.docstring.value)
            text = EXAMPLE.sub(r"\1```pycon\n\1\2\n\1```", text)
            obj.docstring.value = PRODUCT.sub(lambda found: found[1] or r"\*", text)
