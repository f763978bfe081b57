"""Iterations of the ablation as independent implementations found them; the paper has no table of these."""

__all__ = ["REFERENCES", "reference"]

REFERENCES = (
    "measurements with two independent implementations instead, named in the column of sources: other starts of the "
    "quadratic function, for poly the 45 cells of C ∈ 0.001, 0.1, 10 only, and in the first one velocity restarts that "
    "seem not to wait for a second displacement after a restart"
)
FIRST = "not published: a first independent implementation"

# by function and method: iterations of the first implementation, and what the second one found
_MEASURED: dict[str, dict[str, tuple[float, str]]] = {
    "quadratic": {
        "NAG, 31 rates": (1223, "1307"),
        "NAG, gradient restart, 31 rates": (295, "346"),
        "expo SLC, gradient restart, loop": (245, "238 to 276"),
        "expo SLC, gradient restart": (634, "593 to 608"),
        "expo SLC, function restart, loop": (395, "395"),
        "expo SLC, velocity restart, loop": (245, "299 to 366"),
        "expo HTVI, gradient restart, loop": (301, ""),
        "expo SV, gradient restart, loop": (245, ""),
        "poly SLC, gradient restart, loop": (274, "239 to 284"),
        "poly SLC, gradient restart": (690, "460 to 468"),
    },
    "quartic": {
        "expo SLC, gradient restart, loop": (93, "92"),
        "expo SLC, gradient restart": (93, ""),
        "expo SLC, function restart, loop": (93, ""),
        "expo SLC, velocity restart, loop": (176, "176"),
        "expo SLC, loop": (195, "115"),
        "expo HTVI, gradient restart, loop": (92, ""),
        "expo SV, gradient restart, loop": (93, ""),
        "poly SLC, gradient restart, loop": (1480, "1454"),
        "poly SLC, gradient restart": (455, "447"),
        "poly SLC": (2887, "826"),
    },
    "logreg": {
        "NAG, 31 rates": (284, "284"),
        "NAG, gradient restart, 31 rates": (115, "113"),
        "expo SLC, gradient restart, loop": (102, "102"),
        "expo SLC, gradient restart": (187, "187"),
        "expo SLC, function restart, loop": (116, ""),
        "expo SLC, velocity restart, loop": (91, ""),
    },
}


def reference(name: str, label: str) -> tuple[float, str] | None:
    """The first implementation's iterations on a function and their source; None where there are none."""
    if label not in _MEASURED.get(name, {}):
        return None
    value, second = _MEASURED[name][label]
    return value, f"{FIRST}; a second: {second}" if second else FIRST
