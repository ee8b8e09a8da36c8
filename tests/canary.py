"""Secrets that the whole suite uses and that must never show up in anything captured."""

CANARY_KEY = "cAnArY7kEy0ThatMustNotShowUpAnywhere9Zq4"
CANARY_SECRET = "cAnArY7sEcReT0ThatMustNotShowUpAnywhere2"
