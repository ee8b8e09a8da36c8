"""A TLS context for httpx clients in tests without TLS: by default each client loads all CAs again."""

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
