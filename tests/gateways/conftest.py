"""What the scenarios share: a folder that other users may enter, certificates, and where figures go."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from attrs import asdict, frozen
from gateways.scenario import Figures


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that a program run by another user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="gateways-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@frozen
class Certificates:
    """Paths: of the server's key and certificate in one file, and of the authority's certificate."""

    server: str
    authority: str


@pytest.fixture
def certificates(authority: trustme.CA, folder: Path) -> Certificates:
    server, trusted = folder / "server.pem", folder / "authority.pem"
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(server))
    authority.cert_pem.write_to_path(str(trusted))
    return Certificates(str(server), str(trusted))


@pytest.fixture(scope="session")
def figures() -> Iterator[list[Figures]]:
    """Collect what came of each scenario; written as JSON to the file that `TGM_GATEWAYS_FIGURES` names."""
    found: list[Figures] = []
    yield found
    if path := os.environ.get("TGM_GATEWAYS_FIGURES"):
        Path(path).write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
