"""Volenti: a consent and preference management service with a ledger that proves every answer."""
