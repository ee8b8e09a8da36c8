"""What the scenarios share: a folder that other users may enter, and certificates."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from attrs import frozen


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
