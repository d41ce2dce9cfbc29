"""No module imports itself by a detour, not even inside of a function or for types alone."""

from __future__ import annotations

import grimp
import pytest


@pytest.mark.parametrize("package", ["kubetune", "kubetune_runner", "kubetune_devcluster"])
def test_no_circle_of_imports(package: str) -> None:
    graph = grimp.build_graph(package)
    circles = {
        module: " <- ".join(back)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if (back := graph.find_shortest_chain(imported, module))
    }
    assert circles == {}
