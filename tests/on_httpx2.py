"""A plugin for pytest, `-p on_httpx2`: what imports httpx or httpcore gets the continuation of each instead."""

import importlib
import sys

for name in ("httpcore", "httpx"):
    sys.modules[name] = importlib.import_module(f"{name}2")
