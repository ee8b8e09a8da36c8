"""A plugin for pytest, `-p on_httpx2`: what imports httpx or httpcore gets the continuation of each instead.

So do imports of their private modules, whose classes respx patches by name: else it would patch a second copy of them.
"""

import importlib
import sys

for name in ("httpcore", "httpx"):
    importlib.import_module(f"{name}2")
    for path, module in tuple(sys.modules.items()):
        if path == f"{name}2" or path.startswith(f"{name}2."):
            sys.modules[path.replace(f"{name}2", name, 1)] = module
