"""Flat YAML files of flags, read as text: every value is checked by the type of its flag and by nothing before."""

from typing import Any

import yaml

from few_shot_nas.errors import InputError
from few_shot_nas.whole_file import read_bytes
from training.legacy import Word

#: Flags that ask for an answer instead of a run, and that a saved configuration therefore does not hold.
ACTIONS = ("help", "list", "print_config")
#: Bytes of a configuration file; the longest of a run has 5 KB.
LARGEST_FILE = 2**20
_KINDS = {yaml.MappingNode: "dict", yaml.SequenceNode: "list", yaml.ScalarNode: "str"}
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "seq")}


def as_text(value: Any) -> str:
    """Write a value the way it would be typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_text, value))}]"
    return value if isinstance(value, str) else str(value)


def _compose(path: str) -> yaml.Node | None:
    """Return the nodes of a YAML file; nothing is made of them, so that no tag, date or alias can do anything."""
    try:
        content = read_bytes(path, LARGEST_FILE)
    except OSError as error:
        raise InputError(f"--config={path}: cannot be read: {error}") from error
    except ValueError as error:
        raise InputError(f"--config={path}: {error}; needed are lines such as n_way: 5") from error
    try:
        return yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        raise InputError(f"--config={path}: cannot be read: it is no text ({error.reason})") from error
    except yaml.YAMLError as error:
        raise InputError(f"--config={path}: is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"--config={path}: holds nested keys; write every flag at the top level") from error


def _scalar(node: yaml.ScalarNode) -> str:
    if node.tag == "tag:yaml.org,2002:bool":
        return str(yaml.SafeLoader.bool_values[node.value.lower()]).lower()
    return "null" if node.tag == "tag:yaml.org,2002:null" else str(node.value)


def _value(node: yaml.Node, name: str, path: str) -> str:
    texts = []
    if node.tag not in _PLAIN and not isinstance(node, yaml.MappingNode):
        raise InputError(f"--config={path}: {name} has the tag {node.tag}; write the value alone")
    for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if not isinstance(item, yaml.ScalarNode):
            raise InputError(f"--config={path}: {name} holds nested keys; write every flag at the top level")
        if item.tag not in _PLAIN:
            raise InputError(f"--config={path}: {name} has the tag {item.tag}; write the value alone")
        texts.append(_scalar(item))
    return as_text(texts) if isinstance(node, yaml.SequenceNode) else texts[0]


def read_config(path: str) -> list[Word]:
    """Read a flat YAML file as words.

    Raises:
        InputError: if the file is missing, is not YAML, or is not a flat mapping from flags to values, each given once.
    """
    root = _compose(path)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == "tag:yaml.org,2002:null"):
        return []
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"--config={path}: holds a {_KINDS[type(root)]}; needed are lines such as n_way: 5")
    words: dict[str, Word] = {}
    for key, node in root.value:
        if not isinstance(key, yaml.ScalarNode):
            kind = _KINDS[type(key)]
            raise InputError(f"--config={path}: holds a {kind} as a key; needed are lines such as n_way: 5")
        name = str(key.value).replace("-", "_")
        if name in (*ACTIONS, "config"):
            raise InputError(f"--config={path}: {name} can only be given on the command line")
        if name in words:
            raise InputError(f"--config={path}: {name} is given twice, as {words[name].value} too; leave one")
        words[name] = Word(name, _value(node, name, path), path)
    return list(words.values())
