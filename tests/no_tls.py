"""What httpx clients of tests get where nothing is encrypted: by itself each would load all authorities anew."""

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
