"""The secrets used by all tests, which must never appear in captured output."""

CANARY_KEY = "cAnArY7kEy0ThatMustNotShowUpAnywhere9Zq4"
CANARY_SECRET = "cAnArY7sEcReT0ThatMustNotShowUpAnywhere2"
