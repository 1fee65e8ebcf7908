"""Makes the table of all values in the chart's README from the comments of values.yaml. As a script, it writes it."""

import json
import re

import yaml
from chart import CHART

README = CHART / "README.md"
BEGIN, END = "<!-- The table is made from values.yaml: .ci/chart --update -->\n", "<!-- end of the table -->\n"


def keys(text):
    """
    Each key of the values with its comment, as `(path, comment)`. A path is a tuple, in which `[]` is an entry of a list. A comment
    belongs to the key below it, and to those of the same level that follow and that it names. Other keys have none.
    """
    path, comment, of = [], [], None
    above = ""
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip(" -"))
        if line.lstrip().startswith("#"):
            comment = (comment if above.lstrip().startswith("#") else []) + [line.lstrip(" #")]
            of = indent
        elif key := re.match(r"[ -]*([\w./]+):", line):
            path = [(i, name) for i, name in path if i < indent]
            if line.lstrip().startswith("- "):
                path.append((indent - 1, "[]"))
            path.append((indent, key[1]))
            words = " ".join(comment)
            named = of == indent and re.search(rf"(?<![.\w]){re.escape(key[1])}\b", words)
            yield tuple(name for _, name in path), words if named or above.lstrip().startswith("#") else None
        above = line


def default(values, path):
    for key in path:
        values = values[0] if key == "[]" else values[key]
    return json.dumps(values)


def rows(text):
    """The rows of the table, as `(names, defaults, comment)`. Keys with the same comment share one."""
    values, found = yaml.safe_load(text), list(keys(text))
    commented = [path for path, comment in found if comment]
    for index, path in enumerate(commented):
        comment = dict(found)[path]
        inner = any(other[: len(path)] == path for other in commented[index + 1 :])
        yield path, "" if inner else default(values, path), comment


def table(text):
    lines = ["| value | default | what it is |", "| --- | --- | --- |"]
    above = None
    for path, value, comment in rows(text):
        name = "`" + ".".join(path).replace(".[]", "[]") + "`"
        value = f"`{value}`" if value else ""
        words = re.sub(rf"^{re.escape(path[-1])}: ", "", comment).replace("|", "\\|")
        if above == (path[:-1], comment):
            before, others, _ = lines.pop().strip("| ").split(" | ", 2)
            name, value = f"{before}, {name}", f"{others}, {value}"
        lines.append(f"| {name} | {value} | {words} |")
        above = (path[:-1], comment)
    return "\n".join(lines) + "\n"


def readme():
    """The README with the table that belongs in it."""
    before, rest = README.read_text().split(BEGIN)
    return before + BEGIN + "\n" + table((CHART / "values.yaml").read_text()) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(readme())
    print("wrote helm/akri-http/README.md")
